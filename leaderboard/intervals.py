"""Means with intervals: bootstrap over subjects, widened for few of them."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from .scores import Floats, Scores
from .significance import ALPHA

RESAMPLES = 4999


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
