"""Which tissue is this?  A linear classifier on the channels and the grey value; the worst pair counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .observer import FOLDS, Values, blocks_of, folds_of, shrunk_covariance

# Tissue classes, from dark to bright in T1.
CLASSES = ("csf", "gm", "wm")
# A voxel with this much of a tissue is taken for that tissue.
PURE = 0.8
# Voxels of a class that are read.
PER_CLASS = 2000
FEWEST = 50


def labels_from_fractions(csf: NDArray[Any], gm: NDArray[Any], wm: NDArray[Any]) -> NDArray[np.uint8]:
    """Class of each voxel, 1 + index in `CLASSES`; 0 where tissues mix."""
    out = np.zeros(gm.shape, np.uint8)
    for label, fraction in enumerate((csf, gm, wm), 1):
        out[fraction > PURE] = label
    return out


def labels_from_image(a: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Dark, middle and bright class of a structural image by multi-Otsu thresholds in the foreground.

    Voxels near a threshold, a fifth of the way to the mean of their class, are 0: their tissue is not known.
    Returns zeros where the foreground has fewer than three grey values.
    """
    from skimage import filters

    threshold: Callable[..., NDArray[Any]] = filters.threshold_multiotsu  # untyped

    out = np.zeros(a.shape, np.uint8)
    values = np.asarray(a, np.float32)[mask]
    if np.unique(values).size < len(CLASSES):
        return out
    try:
        thresholds = threshold(values, len(CLASSES), nbins=128)
    except ValueError:  # too few distinct bins
        return out
    classes = np.digitize(values, thresholds)
    means = [float(values[classes == k].mean()) for k in range(len(CLASSES))]
    near = np.zeros(values.shape, bool)
    for k, border in enumerate(thresholds):
        low, high = (border + 0.2 * (means[j] - border) for j in (k, k + 1))
        near |= (values > low) & (values < high)
    out[mask] = np.where(near, 0, classes + 1)
    return out


def draw_voxels(
    labels: NDArray[np.uint8], mask: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Places (N, ndim) and classes (N,) of at most `PER_CLASS` voxels of every class."""
    rng = np.random.default_rng([seed, 1])
    places, classes = [], []
    flat = np.where(mask, labels, 0).ravel()
    for label in range(1, len(CLASSES) + 1):
        at = np.flatnonzero(flat == label)
        if len(at) > PER_CLASS:
            at = np.sort(rng.choice(at, PER_CLASS, replace=False))
        places.append(np.stack(np.unravel_index(at, labels.shape), axis=1))
        classes.append(np.full(len(at), label, np.uint8))
    return np.concatenate(places), np.concatenate(classes)


@dataclass(frozen=True, eq=False)
class Told:
    """How two classes were told apart.

    Attributes
    ----------
    right : ndarray, shape (N,)
        1 for a voxel that was put into its class, 0 for one that was not, 1/2 for undecided.
    high : ndarray of bool, shape (N,)
        The voxels of the second class.
    blocks : ndarray of int, shape (N,)
        Block of space that a voxel lies in.
    """

    right: Values
    high: NDArray[np.bool_]
    blocks: NDArray[np.intp]

    @property
    def accuracy(self) -> float:
        """Mean over the two classes of the share that was told right."""
        return float((self.right[self.high].mean() + self.right[~self.high].mean()) / 2)

    def bootstrap(self, draws: Values) -> Values:
        """`accuracy` (K,) where block j counts as often as ``draws[k, j]`` says; NaN without a class."""
        size = draws.shape[1]
        out = np.zeros(len(draws))
        for chosen in (self.high, ~self.high):
            hits = np.bincount(self.blocks[chosen], self.right[chosen], size)
            counts = np.bincount(self.blocks[chosen], minlength=size)
            with np.errstate(invalid="ignore"):
                out += (draws @ hits) / (draws @ counts) / 2
        return out


def tell_apart(
    features: NDArray[Any],
    classes: NDArray[np.uint8],
    places: NDArray[np.intp],
    spacing: Sequence[float],
    shape: Sequence[int],
) -> dict[tuple[str, str], Told]:
    """Cross-validated linear discriminant for each pair of classes that is there.

    Parameters
    ----------
    features : ndarray, shape (N, P)
    classes : ndarray, shape (N,)
    places : ndarray, shape (N, ndim)
        Voxel indices; blocks in space are left out in turn.
    spacing, shape : sequence
        Of the image.
    """
    x = np.asarray(features, np.float64)
    blocks = blocks_of(places, spacing, shape)
    folds = folds_of(places, spacing, shape)
    number = np.unique(blocks, axis=0, return_inverse=True)[1].ravel()
    out: dict[tuple[str, str], Told] = {}
    present = [k for k in range(1, len(CLASSES) + 1) if (classes == k).sum() >= FEWEST]
    for low, high in combinations(present, 2):
        pair = (classes == low) | (classes == high)
        truth = classes[pair] == high
        out[CLASSES[low - 1], CLASSES[high - 1]] = Told(
            _right(x[pair], truth, folds[pair]), truth, number[pair]
        )
    return out


def _right(x: Values, truth: NDArray[np.bool_], folds: NDArray[np.intp]) -> Values:
    said = np.zeros(len(x), np.float64)
    for fold in range(FOLDS):
        held = folds == fold
        low, high = x[~held & ~truth], x[~held & truth]
        if not (held.any() and len(low) and len(high)):
            continue
        means = low.mean(axis=0), high.mean(axis=0)
        within = np.concatenate([low - means[0], high - means[1]])
        scale = within.std(axis=0)
        scale[scale == 0] = 1
        covariance = shrunk_covariance(within / scale)
        covariance += 1e-9 * max(np.trace(covariance), 1e-9) * np.eye(len(scale))
        weights = np.linalg.solve(covariance, (means[1] - means[0]) / scale) / scale
        said[held] = (x[held] - (means[0] + means[1]) / 2) @ weights
    right = (said > 0) + 0.5 * (said == 0)
    out: Values = np.where(truth, right, 1 - right)
    return out
