"""Foreground of a structural image, without a model or a download."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def foreground(
    data: NDArray[np.floating[Any]], *, fraction: float = 0.1, sigma: float = 1.0
) -> NDArray[np.bool_]:
    """Filled head (or brain, where the skull was stripped): what is not air.

    Smooth, threshold at a fraction of the 98th percentile and above the noise of the border, keep the
    largest component, close it and fill its holes slice by slice.

    Parameters
    ----------
    data : ndarray, shape (D, H, W)
        Structural image; any scale, air is dark.
    fraction : float
        Threshold over the lowest value, as a share of the 98th percentile of what is not lowest.
    sigma : float
        Smoothing in voxels.

    Returns
    -------
    ndarray, shape (D, H, W), bool
        All True where nothing stands out (a constant image).
    """
    flat = data.shape[0] == 1
    sharp = np.asarray(data, np.float32) - np.float32(np.min(data))
    image = ndimage.gaussian_filter(sharp, (0 if flat else sigma, sigma, sigma), truncate=3.0)
    bright = image[image > 1e-6 * image.max()] if image.max() > 0 else image[:0]
    if bright.size == 0:
        return np.ones(data.shape, bool)
    threshold = max(fraction * float(np.percentile(bright, 98)), _border_noise(image))
    # Smoothing alone would widen the head by a voxel, the sharp image alone would keep specks of noise.
    mask = (image > threshold) & (sharp > threshold)
    labels, count = ndimage.label(mask)
    if count == 0:
        return np.ones(data.shape, bool)
    if count > 1:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        # Parts of one head may be apart in a single slice; in a volume they are artefacts.
        mask = np.isin(labels, np.flatnonzero(sizes >= (0.05 if flat else 1.0) * sizes.max()))
    ball = ndimage.generate_binary_structure(3, 1)
    if flat:
        ball = ball[1:2]
    padded = np.pad(mask, ((0, 0) if flat else (3, 3), (3, 3), (3, 3)))
    padded = ndimage.binary_closing(padded, ball, iterations=3)
    mask = padded[(slice(None) if flat else slice(3, -3)), 3:-3, 3:-3]
    plane = ndimage.generate_binary_structure(2, 1)
    return np.stack([ndimage.binary_fill_holes(s, plane) for s in mask])


def _border_noise(image: NDArray[np.float32]) -> float:
    """Upper end of the noise in the eight corners, 0 where they are uniform or hold tissue."""
    size = [max(1, n // 12) for n in image.shape]
    ends = [(slice(0, k), slice(n - k, n)) for k, n in zip(size, image.shape, strict=True)]
    corners = [float(image[z, y, x].mean()) for z in ends[0] for y in ends[1] for x in ends[2]]
    spread = [float(image[z, y, x].std()) for z in ends[0] for y in ends[1] for x in ends[2]]
    noise = float(np.median(corners) + 4 * np.median(spread))
    return noise if noise < 0.3 * float(np.percentile(image, 99)) else 0.0
