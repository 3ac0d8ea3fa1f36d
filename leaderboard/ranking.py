"""Methods ranked over several metrics, how sure the order is, and the metrics that a control wins.

The unit of every inference is the *subject* (`group`): cases of one subject are averaged or resampled
together.  A failure is never dropped: it takes the worst rank of its case (`scores.FAILURE_RULE`).  What was
never run for a method is no failure: see `coverage`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fusebench.text import plural

from .coverage import Common, find_common
from .intervals import bootstrap_mean, widened_level
from .scores import Floats, Scores, nan_mean
from .significance import (
    Comparison,
    Friedman,
    cliques,
    compare_all,
    friedman,
    letters,
    subjects_needed,
)

# Below this many subjects even a widened bootstrap interval is too short to be taken at its word.
FEW_SUBJECTS = 6


@dataclass(frozen=True, eq=False)
class Ranking:
    """Methods ranked over several metrics; controls apart.

    Attributes
    ----------
    table : DataFrame, one row per ranked method, best first
        ``position average low high best worst win_rate group lomo_best lomo_worst``: `average` rank with
        its 95 % interval, the 95 % interval ``best..worst`` of the position over bootstrap draws, win rate
        against the others, significance letters, and the positions when one metric is left out.
    controls : Series
        Average rank each control would have if it alone joined the ranked methods.
    common : Common
        The methods, metrics and cases that were compared, and what was left out.
    comparison : Comparison
        Adjusted p-values of all pairs, on subjects' average ranks, and the smallest separable difference.
    positions : DataFrame, shape (methods, positions)
        Share of bootstrap draws in each position; empty for one subject.
    leave_one_out : DataFrame, indexed by metric
        ``tau`` with the full ranking, and who would win without it.
    metric_tau : DataFrame, shape (metrics, metrics)
        Kendall's tau between the metrics' orders of the ranked methods.
    blocks : DataFrame, shape (subjects, methods)
        Average rank of each method in each subject.
    friedman : Friedman or None
    notes : tuple of str
        What a reader must know to read the intervals and tests.
    """

    metrics: tuple[str, ...]
    table: pd.DataFrame
    controls: pd.Series
    common: Common
    comparison: Comparison
    groups: list[tuple[str, ...]]
    positions: pd.DataFrame
    leave_one_out: pd.DataFrame
    metric_tau: pd.DataFrame
    blocks: pd.DataFrame
    friedman: Friedman | None
    notes: tuple[str, ...]

    @property
    def p(self) -> pd.DataFrame:
        """Adjusted p-values of all pairs of ranked methods."""
        return self.comparison.p

    @property
    def order(self) -> list[str]:
        """Ranked methods, best first."""
        return [str(m) for m in self.table.index]


def rank(
    scores: Scores,
    controls: Sequence[str] = (),
    *,
    required: Collection[str] = (),
    test: str = "permutation",
    seed: int = 0,
) -> Ranking:
    """Rank the methods of `scores` over those of its metrics with a direction that were run for all.

    Each method is ranked on each case and metric; ranks are averaged over metrics, over the cases of a
    subject, and over subjects.

    Parameters
    ----------
    scores : Scores
    controls : sequence of str
        Methods that are compared with the others but have no place.
    required : collection of str
        Metrics without which a method has no place, where most have them.
    test : {"permutation", "wilcoxon"}
        Of the pairs, see `significance.compare_all`.
    """
    directed = [m for m, d in zip(scores.metrics, scores.directions, strict=True) if d != "none"]
    scores = scores.take(metrics=directed)
    common = find_common(scores.take([m for m in scores.methods if m not in set(controls)]), required)
    ranked, metrics = list(common.methods), list(common.metrics)
    whole = scores.only(common.cells).take(metrics=metrics)
    sub = whole.take(ranked)
    blocks = (
        pd.DataFrame(sub.subject_ranks, list(sub.subjects), ranked).dropna()
        if ranked and metrics
        else pd.DataFrame(np.empty((0, len(ranked))), columns=ranked)
    )
    r = blocks.to_numpy(dtype=float)
    n, k = r.shape
    average = r.mean(axis=0) if n else np.full(k, np.nan)
    low, high, draws = bootstrap_mean(r.T, np.ones_like(r.T), seed=seed)
    places = _positions(draws) if draws.shape[-1] else np.empty((k, 0))
    level = widened_level(n) if n > 1 else 0.95
    tail = [(1 - level) / 2, (1 + level) / 2]
    span = np.quantile(places, tail, axis=1, method="nearest") if places.size else np.full((2, k), np.nan)
    comparison = compare_all(blocks, test, seed=seed)
    order = np.argsort(average, kind="stable")
    ordered = [ranked[i] for i in order]
    marks = letters(ordered, comparison.p) if n > 1 else dict.fromkeys(ordered, "")
    loo, loo_positions = _leave_one_out(sub, average)
    table = pd.DataFrame(
        {
            "position": _positions(average[:, None])[:, 0],
            "average": average,
            "low": low,
            "high": high,
            "best": span[0],
            "worst": span[1],
            "win_rate": (k - average) / (k - 1) if k > 1 else np.full(k, np.nan),
            "group": [marks[m] for m in ranked],
            "lomo_best": loo_positions.min(axis=0) if len(loo_positions) else np.nan,
            "lomo_worst": loo_positions.max(axis=0) if len(loo_positions) else np.nan,
        },
        index=pd.Index(ranked, name="method"),
    ).iloc[order]
    shares = np.array([(places == i).mean(axis=1) for i in range(1, k + 1)]) if places.size else None
    return Ranking(
        tuple(metrics),
        table,
        _would_be(whole, ranked, [m for m in scores.methods if m in set(controls)]),
        common,
        comparison,
        cliques(ordered, comparison.p),
        pd.DataFrame() if shares is None else pd.DataFrame(shares.T[order], ordered, range(1, k + 1)),
        loo,
        _metric_tau(sub),
        blocks,
        friedman(blocks),
        tuple(_notes(n, k, common.cases, comparison)),
    )


def _positions(x: Floats) -> Floats:
    """Competition ranks down the first axis: 1 is the smallest, ties share the better place."""
    return np.asarray(stats.rankdata(np.round(x, 12), method="min", axis=0), dtype=float)


def _leave_one_out(scores: Scores, average: Floats) -> tuple[pd.DataFrame, Floats]:
    rows: dict[str, dict[str, Any]] = {}
    positions = []
    if len(scores.metrics) > 1:
        for metric in scores.metrics:
            rest = scores.take(metrics=[m for m in scores.metrics if m != metric])
            mean = nan_mean(rest.subject_ranks, axis=0)
            positions.append(_positions(mean[:, None])[:, 0])
            tau = stats.kendalltau(mean, average).statistic if len(mean) > 1 else np.nan
            winner = scores.methods[int(np.nanargmin(mean))] if np.isfinite(mean).any() else ""
            rows[metric] = {"tau": float(tau), "first": winner}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["tau", "first"]), np.array(positions)


def _metric_tau(scores: Scores) -> pd.DataFrame:
    """Kendall's tau between metrics, each ordering the methods by its mean rank."""
    mean = pd.DataFrame(nan_mean(scores.ranks, axis=1), index=scores.methods, columns=list(scores.metrics))
    return mean.corr(method="kendall") if len(mean) > 1 else pd.DataFrame()


def _would_be(scores: Scores, ranked: list[str], controls: list[str]) -> pd.Series:
    """Average rank of each control among the ranked methods; NaN where not all was run for it."""
    found = {}
    for control in controls:
        sub = scores.take([*ranked, control])
        whole = bool(scores.metrics) and bool((sub.ran[-1] | ~sub.asked).all())
        r = sub.subject_ranks if whole else np.empty((0, 1))
        found[control] = float(nan_mean(r[:, -1], axis=0)) if len(r) else np.nan
    return pd.Series(found, dtype=float).sort_values()


def _notes(subjects: int, methods: int, cases: int, comparison: Comparison) -> list[str]:
    notes: list[str] = []
    if not subjects:
        return notes
    if subjects == 1:
        notes.append("One subject: no confidence interval and no test can be given, however many cases.")
    elif subjects < FEW_SUBJECTS:
        notes.append(
            f"Only {subjects} subjects: intervals are too short and no pair can differ significantly."
        )
    if methods > 1 and subjects > 1:
        needed = subjects_needed(methods, comparison.test)
        if np.isfinite(comparison.separable):
            notes.append(
                f"With {subjects} subjects, average ranks that differ by {comparison.separable:.2f} or more "
                "can be told apart here."
            )
        elif subjects < needed:
            notes.append(
                f"With {subjects} subjects this test leaves no pair of {methods} methods significant; it "
                f"takes at least {needed}."
            )
    if cases > subjects:
        notes.append(
            f"{cases} cases of {plural(subjects, 'subject')}: cases of a subject are resampled together."
        )
    return notes


def gameable(scores: Scores, controls: Sequence[str]) -> dict[str, str]:
    """Metrics on which a control beats every method on the cases that both have, and that control."""
    ours = [i for i, m in enumerate(scores.methods) if m not in set(controls)]
    flagged: dict[str, tuple[float, str]] = {}
    good = scores.goodness
    for control in controls:
        theirs = good[scores.methods.index(control)]
        with np.errstate(invalid="ignore"):  # two infinite values: neither is ahead
            lead = nan_mean(theirs - good[ours], axis=1)  # (methods, K)
        known = ~np.isnan(lead)
        wins = known.any(axis=0) & ((lead > 0) | ~known).all(axis=0)
        level = nan_mean(theirs, axis=0)
        for k in np.flatnonzero(wins):
            metric = scores.metrics[k]
            if scores.directions[k] != "none" and level[k] > flagged.get(metric, (-np.inf, ""))[0]:
                flagged[metric] = (float(level[k]), control)
    return {metric: control for metric, (_, control) in flagged.items()}
