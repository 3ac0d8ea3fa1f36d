"""Run folders as the leaderboard reads them: rows and manifest, of one run or several together."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from fusebench.engine.manifest import protocol_order, read_manifest
from fusebench.errors import InputError
from fusebench.store.read_rows import read_rows
from fusebench.store.rows import IDENTITY

# Where a file of a history store keeps the manifest.
METADATA = b"fusebench"


@dataclass(frozen=True, eq=False)
class Runs:
    """Rows and facts of one run folder, or of several taken together.

    Attributes
    ----------
    folders : tuple of Path
    rows : DataFrame
        Columns of `fusebench.store.rows.Row`.  Of rows with one identity the later folder's counts.
    manifest : dict
        Manifest of the last folder, with the methods and metrics of all.
    """

    folders: tuple[Path, ...]
    rows: pd.DataFrame
    manifest: dict[str, Any]
    by_dataset: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def manifest_of(self, dataset: str) -> dict[str, Any]:
        """`manifest`, of the folders that hold rows of one dataset only."""
        return self.by_dataset.get(dataset, self.manifest)

    @property
    def protocols(self) -> list[str]:
        """Protocols with rows, in the order in which the run was asked for them."""
        return protocol_order(self.rows["protocol"].astype(str), self.manifest)

    @property
    def datasets(self) -> list[str]:
        """Datasets with rows, in their order of appearance."""
        return list(dict.fromkeys(self.rows["dataset"].astype(str)))


def failed(rows: pd.DataFrame) -> pd.Series:
    """Which rows have no value through a failure; a metric skipped, as not defined there, is none."""
    return ~rows["status"].isin(["ok", "skip"])


def groups(table: Any, keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Groups of a table, or of a series by levels of its index, in their order, with keys as text."""
    for key, part in table.groupby(list(keys), sort=False):
        yield tuple(str(k) for k in key), part


def load(folders: Sequence[str | Path]) -> Runs:
    """Read run folders, or files of a history store.

    Raises
    ------
    InputError
        A folder without rows or manifest; the message names the file.
    """
    paths = tuple(Path(f) for f in folders)
    if not paths:
        raise InputError("no run folder given")
    parts = [read_rows(p) for p in paths]
    rows = pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]
    if rows.empty:
        raise InputError(f"{paths[0]}: the run has no rows yet")
    rows = rows.drop_duplicates(list(IDENTITY), keep="last", ignore_index=True)
    manifests = [_manifest(p) for p in paths]
    by_dataset = {
        name: _merge([m for m, part in zip(manifests, parts, strict=True) if (part["dataset"] == name).any()])
        for name in rows["dataset"].unique()
    }
    return Runs(paths, rows, _merge(manifests), by_dataset)


def _merge(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last manifest, with the methods and metrics of all."""
    merged = dict(manifests[-1])
    for part in ("methods", "metrics"):
        merged[part] = {k: v for m in manifests for k, v in m.get(part, {}).items()}
    return merged


def _manifest(folder: Path) -> dict[str, Any]:
    if folder.suffix == ".parquet":
        stored = (pq.read_schema(folder).metadata or {}).get(METADATA)
        if stored is None:
            raise InputError(f"{folder}: not made by `history add`; give the run folder itself")
        facts: dict[str, Any] = json.loads(stored)
        return facts
    return read_manifest(folder)
