"""A hidden test: phantoms that nobody knows who does not know the secret they are drawn from."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusebench.case import Case
from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError

from .phantom.phantom import Phantom

SECRET = "FUSEBENCH_HIDDEN_SEED"
PUBLISHED = Path(__file__).parent / "phantom" / "splits" / "published_secrets.csv"
_SHORTEST = 16
_SUBJECTS = 8


class PhantomHidden(Phantom):
    """Phantoms as those of the test split, of heads that are drawn from a secret.

    Parameters
    ----------
    period : str, optional
        A period whose secret was published (``splits/published_secrets.csv``).  Without it, the secret is
        the value of the environment variable FUSEBENCH_HIDDEN_SEED, of at least 16 characters.
    subjects : int, optional
        How many; default 8.
    **parameters
        Those of the phantom.
    """

    info = DatasetInfo(
        name="phantom-hidden",
        summary="phantoms from a secret seed, for a test that cannot be prepared for",
        licence="MIT; anatomy from ICBM152 2009a, (c) 1993-2009 Louis Collins, MNI, McGill (NOTICE.md)",
        obtain=f"set {SECRET}, or --data-option period=NAME for a secret that was published",
        splits=("test",),
        notes="nothing that is stored says what the heads were drawn from",
    )

    def __init__(
        self,
        *,
        period: str | None = None,
        size: int = 128,
        fwhm: float = 7.0,
        counts: float = 240.0,
        misalign: float = 0.0,
        subjects: int | None = None,
    ) -> None:
        super().__init__(size=size, fwhm=fwhm, counts=counts, misalign=misalign, subjects=subjects)
        self.period = None if period is None else str(period)

    def cases(self, split: str = "test") -> Sequence[Case]:
        if split != "test":
            raise InputError(f"{self.info.name} has no split {split!r}; it has test")
        return [self._hidden(*head) for head in self._heads(self._secret())]

    def _secret(self) -> str:
        if self.period is not None:
            known = published()
            if self.period not in known:
                listed = ", ".join(known) or "none yet"
                raise InputError(
                    f"{self.info.name}: no secret of period {self.period!r} is published; {listed} is"
                )
            return known[self.period]
        secret = os.environ.get(SECRET, "")
        if len(secret) < _SHORTEST:
            raise InputError(
                f"{self.info.name} needs the environment variable {SECRET}, of at least {_SHORTEST} "
                "characters, or --data-option period=NAME"
            )
        return secret

    def _heads(self, secret: str) -> Iterator[tuple[str, int, bool]]:
        """Name, seed and whether there is a lesion, of each head: every second one has a lesion."""
        for number in range(1, (self.subjects or _SUBJECTS) + 1):
            drawn = hashlib.sha256(f"fusebench-hidden-1\0{secret}\0{number}".encode()).digest()
            yield f"hidden-{number:03d}", int.from_bytes(drawn[:8], "big") >> 2, number % 2 == 0

    def _hidden(self, subject: str, seed: int, lesion: bool) -> Case:
        case = self._case(subject, seed, lesion)
        meta: dict[str, Any] = {k: v for k, v in case.meta.items() if k != "seed"}
        return replace(case, dataset=self.info.name, meta=meta)


def published() -> dict[str, str]:
    """Secrets of periods that are over, by period."""
    with PUBLISHED.open(newline="", encoding="utf-8") as handle:
        return {row["period"]: row["secret"] for row in csv.DictReader(handle)}
