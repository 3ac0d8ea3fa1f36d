"""Statistics behind the board: ranks, their intervals and their stability.

The unit of every inference is the *subject* (`group`): cases of one subject are averaged or resampled
together.  A missing case is never dropped: it takes the worst rank of its case (`MISSING_RULE`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from fusebench.text import plural

from .significance import ALPHA, Friedman, cliques, friedman, letters, pairwise_wilcoxon

MISSING_RULE = "worst-rank: a missing value shares the last rank of its case with the other missing ones"
RESAMPLES = 4999
# Below this many subjects even a widened bootstrap interval is too short to be taken at its word.
FEW_SUBJECTS = 6

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scores:
    """Values of one protocol as an array.

    Attributes
    ----------
    methods, cases, metrics, subjects : tuple of str
    directions : tuple of str
        Of each metric: "higher", "lower", "zero" or "none".
    subject : ndarray, shape (C,)
        Index into `subjects` of each case.
    values : ndarray, shape (M, C, K)
        NaN where there is none.  Infinite is a value: the PSNR of a copy.
    asked : ndarray, shape (C, K), bool
        False where the metric does not apply to the case: skipped for a method, with a value for none.
    """

    methods: tuple[str, ...]
    cases: tuple[str, ...]
    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    subjects: tuple[str, ...]
    subject: NDArray[np.intp]
    values: Floats
    asked: NDArray[np.bool_]

    @classmethod
    def from_rows(
        cls, rows: pd.DataFrame, methods: Sequence[str], metrics: Sequence[str], directions: Mapping[str, str]
    ) -> Scores:
        """Arrange result rows of one protocol; a later row replaces an earlier one of the same key."""
        case = rows["dataset"].astype(str) + "/" + rows["case"].astype(str)
        group = rows["dataset"].astype(str) + "/" + rows["group"].astype(str)
        cases, first = np.unique(case.to_numpy(dtype=str), return_index=True)
        subjects, subject = np.unique(group.to_numpy(dtype=str)[first], return_inverse=True)
        m = pd.Index(methods).get_indexer(pd.Index(rows["method"].astype(str)))
        k = pd.Index(metrics).get_indexer(pd.Index(rows["metric"].astype(str)))
        c = np.searchsorted(cases, case.to_numpy(dtype=str))
        known = (m >= 0) & (k >= 0)
        ok = known & (rows["status"] == "ok").to_numpy()
        values = np.full((len(methods), len(cases), len(metrics)), np.nan)
        value = pd.to_numeric(rows["value"], errors="coerce").to_numpy(dtype=float)
        # Row by row in file order, so that the last status of a key counts, whatever it is.
        values[m[known], c[known], k[known]] = np.where(ok, value, np.nan)[known]
        # A failure says nothing of whether the metric applies to the case: a method that raises has one
        # for every metric.
        skips = known & (rows["status"] == "skip").to_numpy()
        tried, skipped = np.zeros((2, len(cases), len(metrics)), dtype=bool)
        tried[c[known], k[known]] = True
        skipped[c[skips], k[skips]] = True
        asked = tried & (~skipped | ~np.isnan(values).all(axis=0))
        return cls(
            tuple(methods),
            tuple(str(x) for x in cases),
            tuple(metrics),
            tuple(directions[x] for x in metrics),
            tuple(str(x) for x in subjects),
            subject.astype(np.intp),
            values,
            asked,
        )

    def take(self, methods: Sequence[str] | None = None, metrics: Sequence[str] | None = None) -> Scores:
        """A selection of methods and metrics, in the order given."""
        methods = self.methods if methods is None else tuple(methods)
        metrics = self.metrics if metrics is None else tuple(metrics)
        m = [self.methods.index(x) for x in methods]
        k = [self.metrics.index(x) for x in metrics]
        return Scores(
            methods,
            self.cases,
            metrics,
            tuple(self.directions[i] for i in k),
            self.subjects,
            self.subject,
            self.values[np.ix_(m, range(len(self.cases)), k)],
            self.asked[:, k],
        )

    @cached_property
    def goodness(self) -> Floats:
        """Values turned so that larger is better; NaN stays NaN; shape (M, C, K)."""
        sign = np.array([-1.0 if d in ("lower", "zero") else 1.0 for d in self.directions])
        folded = np.where(np.array([d == "zero" for d in self.directions]), np.abs(self.values), self.values)
        return np.asarray(folded * sign)

    @cached_property
    def membership(self) -> Floats:
        """1 where a case belongs to a subject; shape (C, G)."""
        return np.asarray(np.eye(len(self.subjects))[self.subject])

    @cached_property
    def ranks(self) -> Floats:
        """Rank of each method on each case and metric (1 best, ties averaged); shape (M, C, K).

        NaN where no method has a value.  `MISSING_RULE` where this one has none.
        """
        filled = np.where(np.isnan(self.goodness), -np.inf, self.goodness)
        ranks = np.asarray(stats.rankdata(-filled, axis=0), dtype=float)
        ranks[:, np.isnan(self.values).all(axis=0)] = np.nan
        return ranks

    @cached_property
    def subject_ranks(self) -> Floats:
        """Mean rank over metrics, then over the subject's cases; shape (G, M); NaN where nothing counts."""
        by_case = _nanmean(self.ranks, axis=2)
        present = ~np.isnan(by_case)
        total = np.where(present, by_case, 0.0) @ self.membership
        count = present.astype(float) @ self.membership
        return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0).T)


def _nanmean(x: Floats, axis: int) -> Floats:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(x, axis=axis))


# -- intervals ---------------------------------------------------------------------------------------


def widened_level(n: int, level: float = 1 - ALPHA) -> float:
    """Confidence level to ask of the percentile bootstrap so that `n` subjects cover `level`.

    The plain percentile interval is too short for few subjects, by sqrt((n - 1) / n) and by using normal
    where t quantiles belong; asking for this level makes up for both (Hesterberg 2015, *What teachers
    should know about the bootstrap*, section 5.2, "expanded percentile").
    """
    t = stats.t.ppf(0.5 + level / 2, n - 1) * np.sqrt(n / (n - 1))
    return float(1 - 2 * stats.norm.sf(t))


def bootstrap_mean(
    total: Floats, count: Floats, *, level: float = 1 - ALPHA, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Bootstrap over subjects of ``sum(total) / sum(count)``.

    Parameters
    ----------
    total, count : ndarray, shape (..., G)
        Sum of values and number of values of each subject.

    Returns
    -------
    low, high : ndarray, shape (...)
        Interval; NaN where fewer than two subjects have values.
    draws : ndarray, shape (..., resamples)
        All draws use the same subjects, so draws of two methods are paired.
    """
    n = total.shape[-1]
    shape = total.shape[:-1]
    if n < 2:
        nothing = np.full(shape, np.nan)
        return nothing, nothing, np.full((*shape, 0), np.nan)
    # Two axes, since stacks of matrices do not reach the fast multiplication.
    total, count = total.reshape(-1, n), count.reshape(-1, n)

    def mean(index: NDArray[np.intp], axis: int = -1) -> Floats:
        index = np.atleast_2d(index).astype(np.intp)
        flat = (index + n * np.arange(len(index))[:, None]).ravel()
        weights = np.bincount(flat, minlength=n * len(index)).reshape(len(index), n).T.astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((total @ weights) / (count @ weights))

    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # a method without values
        result = stats.bootstrap(
            (np.arange(n),),
            mean,
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            batch=1000,
            rng=np.random.default_rng(seed),
        )
    draws = np.asarray(result.bootstrap_distribution)
    # Quantiles are taken here: each row has its own number of subjects, and a draw may miss them all.
    low, high = np.full(len(total), np.nan), np.full(len(total), np.nan)
    known = (count > 0).sum(axis=-1)
    for size in np.unique(known[known >= 2]):
        rows, wide = known == size, widened_level(int(size), level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows with an infinite value are all NaN
            low[rows], high[rows] = np.nanquantile(draws[rows], [(1 - wide) / 2, (1 + wide) / 2], axis=-1)
    return low.reshape(shape), high.reshape(shape), draws.reshape(*shape, -1)


def summarise(scores: Scores) -> pd.DataFrame:
    """Mean, sd and median over cases, and the bootstrap 95 % interval of the mean by subject.

    Returns
    -------
    DataFrame
        One row per (method, metric): ``mean sd median low high n asked subjects good``.  `sd` is the sample
        standard deviation over cases; `low` and `high` are NaN where fewer than two subjects have values;
        `good` is the mean of `Scores.goodness`: larger is better, errors of both signs do not cancel.
    """
    values = np.moveaxis(scores.values, 2, 1)  # (M, K, C)
    present = ~np.isnan(values)
    count = present.astype(float) @ scores.membership
    # An infinite value has no interval: it becomes NaN here, in its own row only.
    total = np.where(present & np.isfinite(values), values, 0.0) @ scores.membership
    total[~np.isfinite(values).all(axis=2, where=present)] = np.nan
    low, high, _ = bootstrap_mean(total, count)
    n = present.sum(axis=2)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        table = {
            "mean": np.nanmean(values, axis=2),
            "sd": np.where(n > 1, np.nanstd(values, axis=2, ddof=1), np.nan),
            "median": np.nanmedian(values, axis=2),
            "low": low,
            "high": high,
            "n": n,
            "asked": np.broadcast_to(scores.asked.sum(axis=0), n.shape),
            "subjects": (count > 0).sum(axis=2),
            "good": np.nanmean(scores.goodness, axis=1),
        }
    index = pd.MultiIndex.from_product([scores.methods, scores.metrics], names=["method", "metric"])
    return pd.DataFrame({k: v.ravel() for k, v in table.items()}, index=index)


# -- the ranking -------------------------------------------------------------------------------------


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
    p : DataFrame
        Holm-adjusted pairwise Wilcoxon p-values on subjects' average ranks.
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
    p: pd.DataFrame
    groups: list[tuple[str, ...]]
    positions: pd.DataFrame
    leave_one_out: pd.DataFrame
    metric_tau: pd.DataFrame
    blocks: pd.DataFrame
    friedman: Friedman | None
    notes: tuple[str, ...]

    @property
    def order(self) -> list[str]:
        """Ranked methods, best first."""
        return [str(m) for m in self.table.index]


def rank(scores: Scores, controls: Sequence[str] = (), *, seed: int = 0) -> Ranking:
    """Rank all methods of `scores` over all of its metrics with a direction.

    Each method is ranked on each case and metric; ranks are averaged over metrics, over the cases of a
    subject, and over subjects.
    """
    metrics = [m for m, d in zip(scores.metrics, scores.directions, strict=True) if d != "none"]
    ranked = [m for m in scores.methods if m not in set(controls)]
    sub = scores.take(ranked, metrics)
    blocks = (
        pd.DataFrame(sub.subject_ranks, list(sub.subjects), ranked).dropna()
        if ranked and metrics
        else (pd.DataFrame(np.empty((0, len(ranked))), columns=ranked))
    )
    r = blocks.to_numpy(dtype=float)
    n, k = r.shape
    average = r.mean(axis=0) if n else np.full(k, np.nan)
    low, high, draws = bootstrap_mean(r.T, np.ones_like(r.T), seed=seed)
    places = _positions(draws) if draws.shape[-1] else np.empty((k, 0))
    level = widened_level(n) if n > 1 else 0.95
    tail = [(1 - level) / 2, (1 + level) / 2]
    span = np.quantile(places, tail, axis=1, method="nearest") if places.size else np.full((2, k), np.nan)
    p = pairwise_wilcoxon(blocks)
    order = np.argsort(average, kind="stable")
    ordered = [ranked[i] for i in order]
    marks = letters(ordered, p) if n > 1 else dict.fromkeys(ordered, "")
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
        _would_be(scores, ranked, metrics, [m for m in scores.methods if m in set(controls)]),
        p,
        cliques(ordered, p),
        pd.DataFrame() if shares is None else pd.DataFrame(shares.T[order], ordered, range(1, k + 1)),
        loo,
        _metric_tau(sub),
        blocks,
        friedman(blocks),
        tuple(_notes(n, k, len(scores.cases))),
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
            mean = _nanmean(rest.subject_ranks, axis=0)
            positions.append(_positions(mean[:, None])[:, 0])
            tau = stats.kendalltau(mean, average).statistic if len(mean) > 1 else np.nan
            winner = scores.methods[int(np.nanargmin(mean))] if np.isfinite(mean).any() else ""
            rows[metric] = {"tau": float(tau), "first": winner}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["tau", "first"]), np.array(positions)


def _metric_tau(scores: Scores) -> pd.DataFrame:
    """Kendall's tau between metrics, each ordering the methods by its mean rank."""
    mean = pd.DataFrame(_nanmean(scores.ranks, axis=1), index=scores.methods, columns=list(scores.metrics))
    return mean.corr(method="kendall") if len(mean) > 1 else pd.DataFrame()


def _would_be(scores: Scores, ranked: list[str], metrics: list[str], controls: list[str]) -> pd.Series:
    found = {}
    for control in controls:
        r = scores.take([*ranked, control], metrics).subject_ranks if metrics else np.empty((0, 1))
        found[control] = float(_nanmean(r[:, -1], axis=0)) if len(r) else np.nan
    return pd.Series(found, dtype=float).sort_values()


def _notes(subjects: int, methods: int, cases: int) -> list[str]:
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
        pairs = methods * (methods - 1) // 2
        needed = int(np.ceil(np.log2(2 * pairs / ALPHA)))
        if subjects < needed:
            notes.append(
                f"With {subjects} subjects Holm's correction for {plural(pairs, 'pair')} leaves no pair "
                f"significant; it takes at least {needed}."
            )
    if cases > subjects:
        notes.append(
            f"{cases} cases of {plural(subjects, 'subject')}: cases of a subject are resampled together."
        )
    return notes


def gameable(summary: pd.DataFrame, scores: Scores, controls: Sequence[str]) -> dict[str, str]:
    """Metrics whose best mean among all methods belongs to a control, and that control."""
    ranked = [m for m in scores.methods if m not in set(controls)]
    flagged = {}
    for metric, direction in zip(scores.metrics, scores.directions, strict=True):
        if direction == "none":
            continue
        good = summary["good"].xs(metric, level="metric")
        theirs, ours = good.reindex(list(controls)).dropna(), good.reindex(ranked).dropna()
        if len(theirs) and len(ours) and theirs.max() > ours.max():
            flagged[metric] = str(theirs.idxmax())
    return flagged
