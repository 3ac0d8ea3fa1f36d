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
from fusebench.engine.manifest_shape import checked_manifest
from fusebench.errors import InputError
from fusebench.store.read_rows import read_rows
from fusebench.store.rows import IDENTITY
from fusebench.text import plural

from . import versions

# Where a file of a history store keeps the manifest.
METADATA = b"fusebench"
_CASE = ["dataset", "case"]


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
    by_dataset : mapping
        `manifest` of the folders that hold rows of each dataset.
    left_out : mapping
        By dataset and protocol, lines on what was left out: rows of a case that the newest run has other data
        for, or of a method or metric that a later folder has another version of.
    cases : mapping
        ``dataset/case`` of each folder that has rows here.
    gone : mapping
        ``dataset/case/method`` of each folder whose rows are all left out for a later folder's version.
    """

    folders: tuple[Path, ...]
    rows: pd.DataFrame
    manifest: dict[str, Any]
    by_dataset: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    left_out: Mapping[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    cases: Mapping[Path, frozenset[str]] = field(default_factory=dict)
    gone: Mapping[Path, frozenset[str]] = field(default_factory=dict)

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
        return list(self.rows["dataset"].astype(str).unique())


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
    if all(part.empty for part in parts):
        raise InputError(f"{paths[0]}: the run has no rows yet")
    manifests = [_manifest(p) for p in paths]
    data = _newest_data(parts, manifests)
    parts, former = _split(parts, [differs(part, data) for part in parts])
    older, gone = former.iloc[:0], {}
    if len(parts) > 1:  # of one folder, the run has left them out
        before = [_images(part) for part in parts]
        parts, older = _split(parts, versions.outdated(parts, manifests))
        gone = {f: had - _images(part) for f, had, part in zip(paths, before, parts, strict=True)}
    rows = pd.concat(parts, ignore_index=True)
    rows = rows.drop_duplicates(list(IDENTITY), keep="last", ignore_index=True)
    by_dataset = {
        name: _merge([m for m, part in zip(manifests, parts, strict=True) if (part["dataset"] == name).any()])
        for name in rows["dataset"].unique()
    }
    named = (frozenset((part["dataset"] + "/" + part["case"]).unique()) for part in parts)
    cases = dict(zip(paths, named, strict=True))
    return Runs(paths, rows, _merge(manifests), by_dataset, _left_out(former, older), cases, gone)


def data_of(rows: pd.DataFrame) -> pd.Series:
    """Fingerprint of each dataset and case; the last row that states one counts."""
    if "fingerprint" not in rows:
        return pd.Series(dtype=object)
    stated = rows[rows["fingerprint"].notna() & (rows["fingerprint"] != "")]
    return stated.drop_duplicates(_CASE, keep="last").set_index(_CASE)["fingerprint"].astype(object)


def differs(rows: pd.DataFrame, data: pd.Series) -> pd.Series:
    """Which rows state other data than `data` does for their case."""
    if data.empty or "fingerprint" not in rows:
        return pd.Series(False, index=rows.index)
    wanted = data.reindex(pd.MultiIndex.from_frame(rows[_CASE].astype(object))).to_numpy()
    stated = rows["fingerprint"].astype(object)
    known = stated.notna() & (stated != "") & pd.notna(wanted)
    return known & (stated != wanted)


def _newest_data(parts: Sequence[pd.DataFrame], manifests: Sequence[dict[str, Any]]) -> pd.Series:
    """`data_of` the newest run that has each case: of the last folder, and in it of its last run."""
    ordered = []
    for part, manifest in zip(parts, manifests, strict=True):
        last = manifest.get("run", {}).get("id")
        # Rows of a log stand where their identity first stood, so that their order says nothing.
        ours = part["run"] == last if last and "run" in part else pd.Series(False, index=part.index)
        ordered += [part[~ours], part[ours]]
    return data_of(pd.concat(ordered, ignore_index=True))


def _split(
    parts: Sequence[pd.DataFrame], out: Sequence[pd.Series]
) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """The rows of each folder that stay, and all that do not together."""
    left = [part[o] for part, o in zip(parts, out, strict=True)]
    return [part[~o] for part, o in zip(parts, out, strict=True)], pd.concat(left, ignore_index=True)


def _images(rows: pd.DataFrame) -> frozenset[str]:
    return frozenset((rows["dataset"] + "/" + rows["case"] + "/" + rows["method"]).unique())


def _left_out(former: pd.DataFrame, older: pd.DataFrame) -> dict[tuple[str, str], tuple[str, ...]]:
    """Notes on rows of other data and of older versions, by dataset and protocol."""
    notes: dict[tuple[str, str], tuple[str, ...]] = {}
    for rows, said in ((former, _of_other_data), (older, versions.note)):
        for (dataset, protocol), part in groups(rows, ["dataset", "protocol"]):
            notes[dataset, protocol] = (*notes.get((dataset, protocol), ()), said(part))
    return notes


def _of_other_data(rows: pd.DataFrame) -> str:
    names = ", ".join(rows["method"].astype(str).unique())
    return (
        f"{plural(len(rows), 'row')} of other data ({names}) left out; the newest run has other data for "
        f"{plural(rows['case'].nunique(), 'case')}: run these methods again."
    )


def _merge(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The last manifest, with the methods and metrics of all."""
    merged = dict(manifests[-1])
    for part in ("methods", "metrics"):
        merged[part] = {k: v for m in manifests for k, v in m.get(part, {}).items()}
    data = merged.get("dataset", {})
    named = [m.get("dataset", {}) for m in manifests]
    code = {d.get("loading") for d in named if d.get("name") == data.get("name")} - {None, ""}
    if len(code) > 1:
        doubt = "The runs loaded the cases with different code of the dataset: run all into one folder again."
        merged["dataset"] = {**data, "doubts": [*data.get("doubts", ()), doubt]}
    return merged


def _manifest(folder: Path) -> dict[str, Any]:
    if folder.suffix == ".parquet" and not folder.is_dir():
        stored = (pq.read_schema(folder).metadata or {}).get(METADATA)
        if stored is None:
            raise InputError(f"{folder}: not made by `history add`; give the run folder itself")
        remedy = "delete it and add the run again with `history add`"
        try:
            facts = json.loads(stored)
        except (ValueError, RecursionError):
            raise InputError(f"{folder}: what it says of its run is not JSON; {remedy}") from None
        return checked_manifest(facts, folder, remedy)
    return read_manifest(folder)
