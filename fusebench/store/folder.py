"""`RunFolder`: every path of a run folder, in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BOARD_SUFFIXES = ("csv", "md", "tex")  # of the files of a leaderboard


@dataclass(frozen=True)
class RunFolder:
    """The files of one run.

    Parameters
    ----------
    path : Path
        The folder; it need not exist.
    """

    path: Path

    @property
    def rows(self) -> Path:
        """Append-only rows, one JSON object a line."""
        return self.path / "rows.jsonl"

    @property
    def parquet(self) -> Path:
        """The newest row of each identity, as a table."""
        return self.path / "rows.parquet"

    @property
    def csv(self) -> Path:
        """The same table as text."""
        return self.path / "rows.csv"

    @property
    def manifest(self) -> Path:
        """Versions, options, hardware and plugins behind the rows."""
        return self.path / "manifest.json"

    @property
    def lock(self) -> Path:
        """Held while a run writes."""
        return self.path / ".lock"

    @property
    def figures(self) -> Path:
        """Contact sheets."""
        return self.path / "figures"

    @property
    def report(self) -> Path:
        """The HTML site."""
        return self.path / "report"

    def board(self, protocol: str = "") -> Path:
        """Leaderboard without its suffix; of a further protocol where one is named."""
        return self.path / (f"leaderboard-{protocol}" if protocol else "leaderboard")

    def case(self, dataset: str, case: str) -> Path:
        """Folder of the kept volumes of one case."""
        return self.path / "fused" / dataset / case

    def fused(self, dataset: str, case: str, method: str) -> Path:
        """A kept fused volume."""
        return self.case(dataset, case) / f"{method}.nii.gz"

    def source(self, dataset: str, case: str, name: str) -> Path:
        """A kept source of a case: ``mri``, ``pet``, ``chroma`` or ``lesion``."""
        return self.case(dataset, case) / "sources" / f"{name}.nii.gz"

    def kept_cases(self) -> Iterator[Path]:
        """Folders of the cases that have kept volumes, in order."""
        yield from sorted(self.path.glob("fused/*/*"))
