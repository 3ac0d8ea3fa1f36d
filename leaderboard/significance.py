"""Tests between methods on paired scores, and the groups that do not differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05
# Up to so many differences the signed-rank test enumerates all signs where there are ties, as scipy does.
_EXACT = 13

Floats = NDArray[np.float64]


def pairwise_wilcoxon(blocks: pd.DataFrame) -> pd.DataFrame:
    """Two-sided Wilcoxon signed-rank tests of all pairs of columns, Holm-adjusted.

    Parameters
    ----------
    blocks : DataFrame, shape (subjects, methods)
        Paired scores.  A pair without a difference has p = 1.

    Returns
    -------
    DataFrame, shape (methods, methods)
    """
    x = blocks.to_numpy(dtype=float)
    k = x.shape[1]
    p = pd.DataFrame(np.ones((k, k)), index=blocks.columns, columns=blocks.columns)
    if k < 2 or len(x) < 2:
        return p
    i, j = np.triu_indices(k, 1)
    raw = np.array([_wilcoxon(x[:, a] - x[:, b]) for a, b in zip(i, j, strict=True)])
    adjusted = multipletests(raw, method="holm")[1]
    filled = np.ones((k, k))
    filled[i, j] = filled[j, i] = adjusted
    return pd.DataFrame(filled, index=blocks.columns, columns=blocks.columns)


def _wilcoxon(difference: Floats) -> float:
    # Rounded, since a mean of ranks carries rounding noise that would break ties and zeros apart.
    difference = np.round(difference[~np.isnan(difference)], 12)
    difference = difference[difference != 0]
    n = len(difference)
    if not n:
        return 1.0
    size = np.abs(difference)
    if n > _EXACT or len(np.unique(size)) == n:
        return float(stats.wilcoxon(difference).pvalue)
    # With ties scipy enumerates all signs too, but calls the whole test for each: minutes for a board.
    signed = np.asarray(stats.rankdata(size)) * np.sign(difference)
    result = stats.permutation_test(
        (signed,), np.sum, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    return float(result.pvalue)


@dataclass(frozen=True)
class Friedman:
    """Friedman's test: chi-square, the Iman-Davenport F and the p-value of F."""

    chi2: float
    f: float
    p: float


def friedman(blocks: pd.DataFrame) -> Friedman | None:
    """Friedman's test with the Iman-Davenport correction; None for fewer than 3 methods or 2 subjects."""
    n, k = blocks.shape
    if k < 3 or n < 2:
        return None
    chi2 = float(stats.friedmanchisquare(*blocks.to_numpy().T).statistic)  # corrected for ties
    if np.isnan(chi2):  # every method ties in every block
        return Friedman(0.0, 0.0, 1.0)
    bound = n * (k - 1) - chi2
    f = (n - 1) * chi2 / bound if bound > 1e-12 else np.inf
    return Friedman(chi2, float(f), float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))))


def cliques(order: Sequence[str], p: pd.DataFrame, alpha: float = ALPHA) -> list[tuple[str, ...]]:
    """Critical-difference groups: maximal runs of the order in which no pair differs significantly."""
    found: list[tuple[int, int]] = []
    for start in range(len(order)):
        stop = start + 1
        while stop < len(order) and (p.loc[order[stop], list(order[start:stop])] >= alpha).all():
            stop += 1
        if not found or stop > found[-1][1]:
            found.append((start, stop))
    return [tuple(order[a:b]) for a, b in found]


def letters(order: Sequence[str], p: pd.DataFrame, alpha: float = ALPHA) -> dict[str, str]:
    """Group letters of each method: two that share a letter do not differ significantly."""
    marks = dict.fromkeys(order, "")
    for i, group in enumerate(cliques(order, p, alpha)):
        for name in group:
            marks[name] += chr(ord("a") + i) if i < 26 else f"({i + 1})"
    return marks
