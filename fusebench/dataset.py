"""The dataset contract: `DatasetInfo` and `Dataset`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .case import Case
from .store.keys import cases_key


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """Facts about a dataset; written as a literal in the plugin's file.

    Parameters
    ----------
    name, summary : str
        Public name (a string literal) and one line.
    licence, obtain : str
        Terms of the data and how to get it.
    modalities : str
        "MRI-PET" and the like.
    needs_dir : bool
        Whether `data_dir` must be given.
    splits : tuple of str
        Names `cases` accepts.
    """

    name: str
    summary: str
    licence: str = ""
    obtain: str = ""
    modalities: str = "MRI-PET"
    needs_dir: bool = False
    splits: tuple[str, ...] = ("test",)
    notes: str = ""


class Dataset:
    """Base of all datasets.  A plugin sets `info` and overrides `cases`.

    Constructor arguments are keyword-only parameters of the plugin (``data_dir`` among them where
    `info.needs_dir`).
    """

    info: ClassVar[DatasetInfo]

    def cases(self, split: str = "test") -> Sequence[Case]:
        """Cases of one split, in a stable order.  Splits never share a subject."""
        raise NotImplementedError

    def left_out(self) -> Sequence[str]:
        """Files and rows found that no case uses, each with its reason in one line; a run says so."""
        return []

    def doubts(self, cases: Sequence[Case]) -> Sequence[str]:
        """Lines below the board on `cases` that were loaded and look wrong (inverted, swapped, far apart)."""
        return []

    def describe(self) -> DatasetInfo:
        """Facts of this instance: `info`, and what its parameters change in it."""
        return self.info

    def every_case(self) -> Sequence[Case]:
        """All cases, also those in no split; ``--split all``."""
        return [case for split in self.info.splits for case in self.cases(split)]

    def count_cases(self) -> Mapping[str, Any]:
        """Number of cases by split under ``cases``, and whatever else there is to count."""
        return {"cases": {s: len(self.cases(s)) for s in self.info.splits}}

    def report(self) -> list[dict[str, Any]]:
        """One row per case and per file left out, for `prepare`.

        Columns ``subject``, ``case`` ("" for a file left out), ``status``, ``split``, ``reason``, and
        whatever else there is to say.
        """
        return [
            {"subject": c.group, "case": c.id, "status": "found", "split": split, "reason": ""}
            for split in self.info.splits
            for c in self.cases(split)
        ]

    def summary(self) -> list[str]:
        """Lines above the report, on what was found as a whole."""
        return []

    def __repr__(self) -> str:
        return f"<dataset {self.info.name}: {self.info.summary}; splits {', '.join(self.info.splits)}>"

    def fingerprint(self, split: str = "test") -> str:
        """Content key of a split: changes when any voxel or the preprocessing changes."""
        return cases_key(self.cases(split))
