"""The rows that two runs can be compared by: of the same case and the same data, and what is left out.

Said in notes of a comparison (`leaderboard.regression`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from fusebench.errors import InputError
from fusebench.store.rows import IDENTITY
from fusebench.text import plural

from .runs import Runs, data_of, differs

KEY = list(IDENTITY)
# Rows that only carry the time of a pytest benchmark.
BENCHMARK = "benchmark"


def scored(runs: Runs) -> pd.DataFrame:
    """Rows that are no times of benchmarks."""
    return runs.rows[runs.rows["protocol"] != BENCHMARK]


def ok(runs: Runs) -> pd.DataFrame:
    """Rows of `scored` that have a value."""
    rows = scored(runs)
    return rows[has_value(rows)]


def has_value(rows: pd.DataFrame) -> pd.Series:
    """Which rows have a value: one that is not defined is none."""
    return (rows["status"] == "ok") & rows["value"].notna()


def same_data(
    base: Runs, new: Runs, baselines: Sequence[Runs], notes: list[str]
) -> tuple[Runs, Runs, list[Runs]]:
    """The runs without the cases that base and new have of other data, and the baselines without theirs.

    Raises
    ------
    InputError
        The runs have no score in common, or none is left.
    """
    one, two = (" + ".join(map(str, r.folders)) for r in (base, new))
    if not _have_common(base, new):
        raise InputError(
            f"{two}: no score in common with {one} (same method, dataset, case, protocol and metric); "
            "compare runs of the same benchmark"
        )
    data = data_of(new.rows)
    mine = data_of(base.rows).reindex(data.index).dropna()
    other = mine.index[mine != data[mine.index]]
    baselines = [replace(r, rows=r.rows[~differs(r.rows, data)]) for r in baselines]
    if other.empty:
        return base, new, baselines
    left = [
        replace(r, rows=r.rows[~pd.MultiIndex.from_frame(r.rows[["dataset", "case"]]).isin(other)])
        for r in (base, new, *baselines)
    ]
    if not _have_common(left[0], left[1]):
        raise InputError(
            f"{two}: of other data than {one} in every case that both have ({len(other)}); "
            "compare runs of the same data"
        )
    notes.append(f"{plural(len(other), 'case')} of other data in the new run than in the base, not compared.")
    return left[0], left[1], left[2:]


def _have_common(base: Runs, new: Runs) -> bool:
    return not base.rows[KEY].merge(new.rows[KEY], on=KEY).empty


def absent(base: Runs, new: Runs) -> pd.DataFrame:
    """Scores of the base without a row in the new run, of the methods that it ran.

    A new run of fewer cases or metrics is one on purpose as often as not: these are counted, not losses.
    """
    had, rows = ok(base), scored(new)
    had = had.loc[had["method"].isin(rows["method"]), KEY]
    found = had.merge(rows[KEY], on=KEY, how="left", indicator=True)
    return found[found["_merge"] == "left_only"]


def absent_note(absent: pd.DataFrame) -> list[str]:
    if absent.empty:
        return []
    counts = [f"{method} {n}" for method, n in absent["method"].value_counts().items()]
    more = f" and {len(counts) - 10} more methods" if len(counts) > 10 else ""
    return [
        f"{plural(len(absent), 'score')} of the base without a row in the new run, not compared: "
        f"{', '.join(counts[:10])}{more}."
    ]


def unmatched(base: Runs, new: Runs) -> list[str]:
    notes = []
    for one, other, text in ((base, new, "only in the base"), (new, base, "only in the new run")):
        for kind in ("method", "metric"):
            names = sorted(set(scored(one)[kind]) - set(scored(other)[kind]))
            if names:
                notes.append(f"{kind.capitalize()}s {text}, not compared: {', '.join(map(str, names))}.")
        cases = set(scored(one)["case"]) - set(scored(other)["case"])
        if cases:
            notes.append(f"{plural(len(cases), 'case')} {text}, not compared.")
    prints = [str(r.manifest.get("dataset", {}).get("fingerprint", "")) for r in (base, new)]
    if all(prints) and prints[0] != prints[1] and not (_states_data(base) and _states_data(new)):
        notes.append(
            f"The data differ (fingerprints {prints[0]} and {prints[1]}): changes may come from them."
        )
    return notes


def _states_data(runs: Runs) -> bool:
    """Every row says of which data it is: then no case of other data is compared."""
    rows = scored(runs)
    return "fingerprint" in rows and bool((rows["fingerprint"].fillna("") != "").all())
