"""The view of the observers: the displayed image through difference-of-Gaussian channels, in mm, 2D or 3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

# Standard deviations in mm; a channel is the difference of two neighbours (Abbey & Barrett 2001).
SIGMAS = (1.4, 2.1, 3.15, 4.7, 7.0, 10.5)
CHANNELS = len(SIGMAS) - 1
_TRUNCATE = 3.0


def displayed(image: NDArray[Any]) -> Array:
    """Grey levels 0..255 of an image in [0, 1], rounded as a screen shows it; nothing is stretched."""
    out: Array = np.rint(np.clip(np.asarray(image, np.float32), 0, 1) * np.float32(255))
    return out


def _kernel(sigma: float) -> Array:
    """Sampled Gaussian of unit sum; `sigma` in voxels."""
    radius = max(1, int(_TRUNCATE * sigma + 0.5))
    x = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (x / sigma) ** 2)
    out: Array = (weights / weights.sum()).astype(np.float32)
    return out


def channel_maps(levels: Array, spacing: Sequence[float]) -> Array:
    """Channels of a whole image.

    Parameters
    ----------
    levels : ndarray, shape (H, W) or (D, H, W), float32
        Of `displayed`.
    spacing : sequence of float
        Voxel size in mm per axis.

    Returns
    -------
    ndarray, shape (CHANNELS, *levels.shape), float32
    """
    out = np.empty((CHANNELS, *levels.shape), np.float32)
    before, done = levels, 0.0
    for index, sigma in enumerate(SIGMAS):
        # A wider Gaussian is a narrower one blurred once more.
        more = np.sqrt(sigma**2 - done**2)
        after = before
        for axis, step in enumerate(spacing):
            after = ndimage.correlate1d(after, _kernel(more / step), axis, mode="nearest")
        if index:
            np.subtract(before, after, out=out[index - 1])
        before, done = after, sigma
    return out


def channel_values(levels: Array, places: NDArray[np.intp], spacing: Sequence[float]) -> Array:
    """Channels at some places of an image that is zero nearly everywhere, as a difference is.

    Parameters
    ----------
    levels : ndarray, shape (H, W) or (D, H, W), float32
    places : ndarray, shape (N, ndim)
        Voxel indices.
    spacing : sequence of float
        Voxel size in mm per axis.

    Returns
    -------
    ndarray, shape (N, CHANNELS), float32
    """
    kernels = [_point_kernels(step) for step in spacing]
    radii = [k.shape[1] // 2 for k in kernels]
    padded = np.pad(levels, [(r, r) for r in radii])
    out = np.empty((len(places), CHANNELS), np.float32)
    for row, place in enumerate(places):
        patch = padded[tuple(slice(p, p + 2 * r + 1) for p, r in zip(place, radii, strict=True))]
        # (.., W) x (S, W) -> (S, ..), then each scale goes its own way.
        values = np.tensordot(kernels[-1], patch, (1, patch.ndim - 1))
        for kernel in reversed(kernels[:-1]):
            values = np.einsum("s...k,sk->s...", values, kernel)
        out[row] = values[:-1] - values[1:]
    return out


def _point_kernels(step: float) -> Array:
    """The Gaussians of `SIGMAS` on one grid, (S, K), made as `channel_maps` makes them: step by step."""
    rows: list[NDArray[np.float64]] = []
    before, done = np.ones(1), 0.0
    for sigma in SIGMAS:
        before = np.convolve(before, _kernel(np.sqrt(sigma**2 - done**2) / step))
        rows.append(before)
        done = sigma
    width = len(rows[-1])
    return np.stack([np.pad(r, (width - len(r)) // 2) for r in rows]).astype(np.float32)
