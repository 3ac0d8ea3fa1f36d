"""How much does this region really take up?  A line from regional grey value to true uptake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .observer import FOLDS, folds_of
from .outline import PURE

# Edge of a region in mm, and the least grey matter in it, in cubic mm.
REGION, LEAST = 14.0, 300.0
FEWEST = 20


def uptake_r2(
    levels: NDArray[Any],
    uptake: NDArray[Any],
    gm: NDArray[Any],
    mask: NDArray[np.bool_],
    spacing: Sequence[float],
) -> float:
    """Share of the variance of true regional uptake in grey matter that a line on F explains.

    The line is fitted in other blocks of space than it is read in, so that 0 is "no better than the mean",
    and less is worse.  NaN where there are too few regions.

    Parameters
    ----------
    levels : ndarray, shape (H, W) or (D, H, W)
        Fused image as displayed.
    uptake, gm : ndarray
        True uptake and grey-matter fraction.
    mask : ndarray of bool
        Foreground.
    spacing : sequence of float
        Voxel size in mm per axis.
    """
    places = np.argwhere((gm > PURE) & mask)
    if not len(places):
        return float("nan")
    middle = (np.asarray(gm.shape) - 1) / 2
    cell = np.floor((places - middle) * np.asarray(spacing) / REGION).astype(np.intp)
    first = cell.min(axis=0)
    size = cell.max(axis=0) - first + 1
    flat = np.ravel_multi_index(tuple((cell - first).T), tuple(size))
    found, region, counts = np.unique(flat, return_inverse=True, return_counts=True)
    keys = np.stack(np.unravel_index(found, tuple(size)), axis=1) + first
    at = tuple(places.T)
    means = [np.bincount(region, np.asarray(x, np.float64)[at]) / counts for x in (levels, uptake)]
    kept = counts * float(np.prod(spacing)) >= LEAST
    x, y = means[0][kept], means[1][kept]
    if len(x) < FEWEST:
        return float("nan")
    centres = ((keys[kept] + 0.5) * REGION / np.asarray(spacing) + middle).astype(np.intp)
    folds = folds_of(centres, spacing, gm.shape)
    error = total = 0.0
    for fold in range(FOLDS):
        held = folds == fold
        if not held.any() or (~held).sum() < 3:
            continue
        spread = x[~held].var()
        slope = 0.0 if spread == 0 else np.cov(x[~held], y[~held], bias=True)[0, 1] / spread
        said = y[~held].mean() + slope * (x[held] - x[~held].mean())
        error += float(((y[held] - said) ** 2).sum())
        total += float(((y[held] - y[~held].mean()) ** 2).sum())
    return 1 - error / total if total > 0 else float("nan")
