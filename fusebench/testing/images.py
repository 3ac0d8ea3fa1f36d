"""Test images: small, seeded, with the traits of real ones (edges, smooth uptake, air)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]


def head(shape: tuple[int, ...], seed: int = 0) -> tuple[Image, Image, Mask]:
    """A structural image with sharp tissue borders, a smooth functional one, and their foreground.

    Parameters
    ----------
    shape : tuple of int
        Any number of axes, each at least 1.

    Returns
    -------
    a, b : ndarray of float32 in [0, 1]
    mask : ndarray of bool
    """
    rng = np.random.default_rng([seed, *shape])
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    radius = np.sqrt(sum(x**2 for x in np.meshgrid(*axes, indexing="ij")) + np.zeros(shape))
    mask = radius < 0.9
    # Sorted by size the field has three levels of equal area: tissue classes with sharp borders.
    field = ndimage.gaussian_filter(rng.normal(size=shape), [min(2.0, n / 8) for n in shape])
    tissue = np.searchsorted(np.quantile(field, (0.35, 0.7)), field)
    a = np.choose(tissue, (0.25, 0.55, 0.85)) + rng.normal(scale=0.02, size=shape)
    uptake = ndimage.gaussian_filter(np.choose(tissue, (0.2, 0.9, 0.5)), [min(1.5, n / 8) for n in shape])
    b = 0.8 * uptake + 0.2 * (1 - radius) + rng.normal(scale=0.02, size=shape)
    out = [np.where(mask, np.clip(x, 0, 1), 0).astype(np.float32) for x in (a, b)]
    return out[0], out[1], mask


def noise(shape: tuple[int, ...], seed: int = 0) -> tuple[Image, Image]:
    """Two images of full contrast: uniform noise, and 0 or 1 at random."""
    rng = np.random.default_rng([seed, *shape, 1])
    return rng.random(shape, np.float32), (rng.random(shape) < 0.5).astype(np.float32)
