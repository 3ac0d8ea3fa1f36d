"""The dataset contract: `DatasetInfo` and `Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from .case import Case
from .errors import InputError
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
    citation : str
        What to cite where it was used.
    images_may_be_shared : bool
        Whether its terms let images of it be passed on.  Where they do not, a report holds none by default.
    modalities : str
        "MRI-PET" and the like.
    roles : (str, str)
        What `Case.a` and `Case.b` are called where all cases have the same.
    needs_dir : bool
        Whether `data_dir` must be given.
    splits : tuple of str
        Names `cases` accepts.
    """

    name: str
    summary: str
    licence: str = ""
    obtain: str = ""
    citation: str = ""
    images_may_be_shared: bool = True
    modalities: str = "MRI-PET"
    roles: tuple[str, str] = ("MRI", "PET")
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

    def download(self, say: Callable[[str], None]) -> None:
        """Fetch what is missing to where `cases` looks for it, and `say` what comes and under which terms.

        Raises
        ------
        InputError
            There is nothing to fetch by a program, or it cannot be had; what came stays.
        """
        how = f": {self.info.obtain}" if self.info.obtain else ""
        raise InputError(f"dataset {self.info.name} cannot be downloaded by a program{how}")

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
