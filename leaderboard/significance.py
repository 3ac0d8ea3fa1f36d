"""Tests between methods on paired scores, and the groups that do not differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05
TESTS = ("permutation", "wilcoxon")
# Up to so many subjects every pattern of signs is tried; beyond, so many drawn ones.
EXACT_SUBJECTS = 14
DRAWN_FLIPS = 9999
# Up to so many differences the signed-rank test enumerates all signs where there are ties, as scipy does.
_EXACT = 13

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All pairs of methods compared.

    Attributes
    ----------
    p : DataFrame, shape (methods, methods)
        Adjusted p-values, two-sided; 1 on the diagonal.
    separable : float
        A difference of means of this size or more is significant with these subjects; NaN where none is, or
        where the test states none.
    test : {"permutation", "wilcoxon"}
    """

    p: pd.DataFrame
    separable: float
    test: str


def compare_all(blocks: pd.DataFrame, test: str = "permutation", *, seed: int = 0) -> Comparison:
    """Compare all pairs of columns; the chance of any false difference is at most `ALPHA`.

    Parameters
    ----------
    blocks : DataFrame, shape (subjects, methods)
        Paired scores.
    test : {"permutation", "wilcoxon"}
        `permute` (the default), or signed-rank tests with Holm's correction.
    seed : int
        Of the signs that are drawn for many subjects.
    """
    if test == "permutation":
        return permute(blocks, seed=seed)
    if test == "wilcoxon":
        return Comparison(pairwise_wilcoxon(blocks), np.nan, test)
    raise ValueError(f"no test is called {test!r}; there are {', '.join(TESTS)}")


def permute(blocks: pd.DataFrame, *, alpha: float = ALPHA, seed: int = 0) -> Comparison:
    """Sign-flip permutation test of all pairs with the maximum statistic, step-down.

    Where two methods do not differ, a subject's difference is as likely to have either sign.  All signs of a
    subject are turned together, for every pattern of signs; a pair's p-value is the share of patterns in
    which the largest mean difference among the pairs not yet told apart reaches its own (Westfall & Young
    1993, *Resampling-based multiple testing*, algorithm 4.1; signs: Fisher 1935).  What methods have in
    common is kept, so no power is lost to their number, as it is with Holm's correction.

    Parameters
    ----------
    blocks : DataFrame, shape (subjects, methods)
        Paired scores without NaN.

    Returns
    -------
    Comparison
        Exact up to `EXACT_SUBJECTS` subjects; with more, over `DRAWN_FLIPS` drawn patterns and the observed
        one.
    """
    x = blocks.to_numpy(dtype=float)
    n, k = x.shape
    filled = np.ones((k, k))
    separable = np.nan
    if k > 1 and n > 1:
        i, j = np.triu_indices(k, 1)
        p, separable = _step_down(x[:, i] - x[:, j], _signs(n, seed), alpha)
        filled[i, j] = filled[j, i] = p
    return Comparison(pd.DataFrame(filled, blocks.columns, blocks.columns), separable, "permutation")


def _signs(n: int, seed: int) -> Floats:
    """Patterns of signs (F, n), the observed one first; each stands for its negative, too."""
    if n <= EXACT_SUBJECTS:
        patterns = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
        return np.asarray(1.0 - 2.0 * patterns, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, 2, (DRAWN_FLIPS, n), dtype=np.int8)
    return np.concatenate([np.ones((1, n)), np.asarray(1.0 - 2.0 * drawn, dtype=np.float64)])


def _step_down(differences: Floats, signs: Floats, alpha: float) -> tuple[Floats, float]:
    """Adjusted p (P,) of differences (n, P), and the smallest mean difference that is significant."""
    n, pairs = differences.shape
    # Sums are rounded, since ranks carry rounding noise that would break ties apart.
    observed = np.round(np.abs(differences.sum(axis=0)), 9)
    order = np.argsort(-observed, kind="stable")
    step = max(1, int(4e6 // pairs))  # in pieces, to bound memory
    pieces = [signs[start : start + step] for start in range(0, len(signs), step)]

    def sums(piece: Floats, columns: NDArray[np.intp]) -> Floats:
        return np.asarray(np.round(np.abs(piece @ differences[:, columns]), 9))

    reached = np.zeros(pairs)
    for piece in pieces:
        # The largest sum among a pair and all that lie closer together.
        largest = np.maximum.accumulate(sums(piece, order)[:, ::-1], axis=1)[:, ::-1]
        reached += (largest >= observed[order]).sum(axis=0)
    adjusted = np.maximum.accumulate(reached / len(signs))
    p = np.empty(pairs)
    p[order] = adjusted
    apart = int((adjusted < alpha).sum())
    if apart == pairs:
        return p, float(observed.min() / n)
    # A further pair is told apart when, beside its own pattern, few enough of the others' reach it.
    allowed = int(np.ceil(alpha * len(signs))) - 2
    if allowed < 0:
        return p, np.nan
    others = np.concatenate([sums(piece, order[apart:]).max(axis=1) for piece in pieces])
    return p, float(np.nextafter(np.sort(others)[::-1][allowed], np.inf) / n)


def subjects_needed(methods: int, test: str = "permutation") -> int:
    """The fewest subjects with which any of all pairs of so many methods can be significant."""
    tests = 1 if test == "permutation" else methods * (methods - 1) // 2
    return next(n for n in count(2) if tests * 2.0 ** (1 - n) < ALPHA)


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
