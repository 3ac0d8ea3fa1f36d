"""`Scores`: the values of a board as an array, and the ranks of methods on each case and metric."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

FAILURE_RULE = "a failure shares the last rank of its case with the other failures"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scores:
    """Values of one board as an array.

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
    ran : ndarray, shape (M, C, K), bool
        True where there is a value or a failure; False is "not run yet".
    """

    methods: tuple[str, ...]
    cases: tuple[str, ...]
    metrics: tuple[str, ...]
    directions: tuple[str, ...]
    subjects: tuple[str, ...]
    subject: NDArray[np.intp]
    values: Floats
    asked: Bools
    ran: Bools

    @classmethod
    def from_rows(
        cls,
        rows: pd.DataFrame,
        methods: Sequence[str],
        metrics: Sequence[str],
        directions: Mapping[str, str],
        from_files: Collection[str] = (),
    ) -> Scores:
        """Arrange result rows; a later row replaces an earlier one of the same key.

        Parameters
        ----------
        from_files : collection of str
            Methods known by their images only.  What is skipped for one of them could not be run, and is no
            failure; for any other method a skip where others have a value is one.
        """
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
        skipped = np.zeros(values.shape, dtype=bool)
        ran = np.zeros(values.shape, dtype=bool)
        ran[m[known], c[known], k[known]] = True
        skipped[m[skips], c[skips], k[skips]] = True
        asked = ran.any(axis=0) & (~skipped.any(axis=0) | ~np.isnan(values).all(axis=0))
        unable = np.isin(np.asarray(methods, dtype=object), list(from_files))
        ran &= ~(skipped & unable[:, None, None] & np.isnan(values))
        return cls(
            tuple(methods),
            tuple(str(x) for x in cases),
            tuple(metrics),
            tuple(directions[x] for x in metrics),
            tuple(str(x) for x in subjects),
            subject.astype(np.intp),
            values,
            asked,
            ran,
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
            self.ran[np.ix_(m, range(len(self.cases)), k)],
        )

    def only(self, cells: Bools) -> Scores:
        """The same with nothing outside `cells`, shape (C, K)."""
        return replace(
            self,
            values=np.where(cells, self.values, np.nan),
            asked=self.asked & cells,
            ran=self.ran & cells,
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

        NaN where no method has a value.  `FAILURE_RULE` where this one has none.
        """
        filled = np.where(np.isnan(self.goodness), -np.inf, self.goodness)
        ranks = np.asarray(stats.rankdata(-filled, axis=0), dtype=float)
        ranks[:, np.isnan(self.values).all(axis=0)] = np.nan
        return ranks

    @cached_property
    def subject_ranks(self) -> Floats:
        """Mean rank over metrics, then over the subject's cases; shape (G, M); NaN where nothing counts."""
        by_case = nan_mean(self.ranks, axis=2)
        present = ~np.isnan(by_case)
        total = np.where(present, by_case, 0.0) @ self.membership
        count = present.astype(float) @ self.membership
        return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0).T)


def nan_mean(x: Floats, axis: int) -> Floats:
    """Mean of what is not NaN; NaN where nothing is left."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(x, axis=axis))
