"""The version that rows were made with: of several run folders, only those of the newest one count.

In one folder the run that made it has left the others out already (`fusebench.engine.current`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from fusebench.metric import MetricId
from fusebench.text import plural

_Versions = Callable[[pd.DataFrame, Mapping[str, Any]], pd.Series]


def outdated(parts: Sequence[pd.DataFrame], manifests: Sequence[Mapping[str, Any]]) -> list[pd.Series]:
    """Which rows of each folder are of another version of method or metric than the last folder with them.

    A row whose folder does not state its version stays.
    """
    found = [pd.Series(False, index=part.index) for part in parts]
    for column, versions in _KINDS.items():
        stated = [versions(part, manifest) for part, manifest in zip(parts, manifests, strict=True)]
        names = [part["dataset"].astype(str) + "\0" + part[column].astype(str) for part in parts]
        newest: dict[str, str] = {}
        for of, version in zip(names, stated, strict=True):
            newest |= dict(zip(of[version != ""], version[version != ""], strict=True))
        for mask, of, version in zip(found, names, stated, strict=True):
            mask |= (version != "") & (version != of.map(newest))
    return found


def note(rows: pd.DataFrame) -> str:
    """The line for rows that `outdated` names, which are left out."""
    cases = rows.groupby("method", sort=False)["case"].nunique()
    named = ", ".join(f"{method} ({n})" for method, n in cases.items())
    return (
        f"{plural(len(rows), 'row')} left out, made with other code, settings, seed, device or threads than "
        f"a later folder has: {named}; run these methods again."
    )


def _of_methods(rows: pd.DataFrame, manifest: Mapping[str, Any]) -> pd.Series:
    """Key of the method and what it ran under; the key alone for images that were made elsewhere."""
    facts = manifest.get("methods", {})
    keys = {name: str(one.get("key") or "") for name, one in facts.items()}
    key = _each(rows["method"], keys)
    now = _threads(manifest)
    runs = {run: _threads(earlier) or now for run, earlier in manifest.get("earlier", {}).items()}
    runs[str(manifest.get("run", {}).get("id", ""))] = now
    threads = _each(rows["run"], runs, now)
    device = rows["device"].astype(str).str.partition(":")[0]
    under = "\0" + rows["seed"].astype(str) + "\0" + device + "\0" + threads
    ran = rows["method"].astype(str).isin([name for name, one in facts.items() if one.get("plugin")])
    return key.where((key == "") | ~ran, key + under.astype(object))


def _threads(how: Mapping[str, Any]) -> str:
    return str((how.get("options") or {}).get("threads") or "")


def _of_metrics(rows: pd.DataFrame, manifest: Mapping[str, Any]) -> pd.Series:
    """Hash of the metric's source."""
    files = manifest.get("metric_files", {})
    ids = rows["metric"].dropna().astype(str).unique()
    sources = {id: str(files.get(MetricId.parse(id).name, {}).get("source") or "") for id in ids if id}
    return _each(rows["metric"], sources)


def _each(names: pd.Series, known: Mapping[str, str], other: str = "") -> pd.Series:
    return pd.Series([known.get(str(name), other) for name in names], names.index, dtype=object)


_KINDS: Mapping[str, _Versions] = {"method": _of_methods, "metric": _of_metrics}
