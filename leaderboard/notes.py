"""Notes below a board: how it ranks, what was left out, and why cases are missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fusebench.text import plural

from .board import Column, Line
from .coverage import LEAST_CASES
from .ranking import Ranking
from .scores import FAILURE_RULE

_TESTS = {
    "permutation": "sign-flip permutation by subject, maximum statistic",
    "wilcoxon": "Wilcoxon by subject, Holm",
}
# How far one case's reading would move with other findings.
_ERROR = "reading_se"
_NAMES = {"reading": "Reading rank", "similarity": "Similarity rank", "all": "Rank"}


def reasons(rows: pd.DataFrame, info: Mapping[str, Any]) -> tuple[str, ...]:
    """``error in 2 cases: message`` for all rows of a method that are not ok, most frequent first.

    The metrics are named where only some have no value: ``skip in 1 case (lesion_auc): not defined ...``.
    """
    bad = rows[rows["status"] != "ok"]
    valued = set(rows.loc[rows["status"] == "ok", "case"])
    counted = []
    for (status, reason), some in bad.groupby(["status", "reason"], observed=True):
        text = " ".join(str(reason).split()) or "no reason given"
        for cases, names in _by_cases(some, apart=status == "skip").items():
            which = f" ({shortened(names)})" if status == "skip" or cases & valued else ""
            counted.append((len(cases), f"{status} in {plural(len(cases), 'case')}{which}: {text[:200]}"))
    found = [text for _, text in sorted(counted, key=lambda x: -x[0])]
    if not found and info.get("broken"):
        found.append(str(info["broken"]))
    if not found and not len(rows):
        found.append("not run yet")
    return tuple(found)


def _by_cases(rows: pd.DataFrame, *, apart: bool) -> dict[frozenset[str], list[str]]:
    """The metrics of rows, by the cases that these have; all under all cases if not `apart`."""
    if not apart:
        return {frozenset(rows["case"]): list(rows["metric"].dropna().astype(str).unique())}
    found: dict[frozenset[str], list[str]] = {}
    for name, some in rows.groupby(rows["metric"].astype(str), sort=False):
        found.setdefault(frozenset(some["case"]), []).append(str(name))
    return found


def shortened(names: Sequence[str], most: int = 6) -> str:
    """Names in a row, the first few where there are many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def board_notes(
    columns: Sequence[Column],
    rankings: Mapping[str, Ranking],
    by: str,
    lines: Sequence[Line],
    wanted: Mapping[str, Sequence[str]],
    test: str,
) -> tuple[str, ...]:
    """The notes of a board.

    Parameters
    ----------
    columns : sequence of Column
    rankings : mapping
        By name; `by` gives the places.
    lines : sequence of Line
    wanted : mapping
        Metrics that each ranking was to rest on.
    test : str
        Of the groups.
    """
    ranked = {name: r for name, r in rankings.items() if r.metrics and r.order}
    if not ranked:
        why = "nothing was run for every method" if any(wanted.values()) else "none of these metrics ranks"
        notes = [f"Mean ± sd over cases; {why}."]
    else:
        each = "; ".join(f"{_NAMES[name]}: over {', '.join(r.metrics)}" for name, r in ranked.items())
        notes = [f"Places by the {by} rank. {each}. Averages of ranks, bootstrap 95 % intervals by subject."]
        if len(rankings[by].order) > 1:
            notes.append(f"Methods that share a group letter do not differ significantly ({_TESTS[test]}).")
    if any(x.control for x in lines):
        notes.append("c: a control, never ranked; in brackets the average rank it would have.")
    notes += _gamed(columns, ranked)
    notes += _not_run(columns, rankings, lines)
    if ranked and any(x.ok < x.asked and x.reasons for x in lines):
        notes.append(f"Failures are penalised: {FAILURE_RULE}. Marks go to methods with the most cases.")
    errors = [x.cells[_ERROR].mean for x in lines if not x.control and _ERROR in x.cells]
    errors = [e for e in errors if math.isfinite(e)]
    if errors:
        span = " to ".join(dict.fromkeys(f"{error:.2f}" for error in (min(errors), max(errors))))
        notes.append(
            f"Standard error of one case's reading over its findings: {span} (mean of each method; {_ERROR})."
        )
    if any(x.dims == 2 for x in lines):
        notes.append("(2D): fuses slice by slice.")
    equal: dict[str, list[str]] = {}
    for line in lines:
        if line.alike:
            equal.setdefault(line.alike, []).append(line.method)
    for other, names in equal.items():
        notes.append(
            f"≈ {other}: {', '.join(names)} (correlation above .9999 or mean difference below .003 on a kept "
            "case)."
        )
    learned: dict[str, list[str]] = {}
    for line in lines:
        if line.trained_on and not line.from_files:
            learned.setdefault(line.trained_on, []).append(line.method)
    if learned:
        said = "; ".join(f"{', '.join(sorted(names))}: {source}" for source, names in learned.items())
        notes.append(f"Learned from: {said}.")
    if any(x.from_files for x in lines):
        notes.append("(files): scored from image files; how and at what cost they were made is not known.")
    return (*notes, *(rankings[by].notes if ranked else ()))


def _gamed(columns: Sequence[Column], ranked: Mapping[str, Ranking]) -> list[str]:
    """The metrics that a control wins, and what follows from it."""
    counted = {m for r in ranked.values() for m in r.metrics}
    won = [c for c in columns if c.gameable and c.default]
    notes = []
    for names, then in (
        ([f"{c.id} ({c.gameable})" for c in won if c.id not in counted], "Not in the average ranks"),
        ([f"{c.id} ({c.gameable})" for c in won if c.id in counted], "Ranked all the same"),
    ):
        if names:
            notes.append(f"⚠ gameable here, a control beats every method: {', '.join(names)}. {then}.")
    return notes


def _not_run(columns: Sequence[Column], rankings: Mapping[str, Ranking], lines: Sequence[Line]) -> list[str]:
    """Metrics and cases that do not count, since they were not run for all."""
    notes = []
    dropped = {metric: names for r in rankings.values() for metric, names in r.common.dropped.items()}
    files = {x.method for x in lines if x.from_files}
    images = [m for m, names in dropped.items() if set(names) <= files]
    if images:
        notes.append(
            f"Not ranked, since it takes the method itself, not only its images: {', '.join(images)}."
        )
    others: dict[tuple[str, ...], list[str]] = {}
    for metric, names in dropped.items():
        if metric not in images:
            others.setdefault(names, []).append(metric)
    for names, metrics in others.items():
        notes.append(f"Not ranked, since not run yet for {shortened(names)}: {', '.join(metrics)}.")
    for name, ranking in rankings.items():
        if ranking.common.left_cases:
            notes.append(
                f"{_NAMES[name]}: over {plural(ranking.common.cases, 'case')}; "
                f"{ranking.common.left_cases} more were not run yet for every method."
            )
        begun = {x.method for x in lines if any(cell.n for cell in x.cells.values())}
        short = [m for m in ranking.common.unplaced if m in begun]
        if short:
            notes.append(
                f"{_NAMES[name]}: none for {shortened(short)}, with less than "
                f"{LEAST_CASES:.0%} of the cases, or without metrics, that most methods were run on."
            )
    return notes
