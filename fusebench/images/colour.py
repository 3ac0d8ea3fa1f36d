"""Colour of 2D images, in one place: full-range BT.601 luminance is fused, chroma is carried.

PIL's own ``convert("YCbCr")`` truncates and MATLAB's ``rgb2ycbcr`` is limited range; papers on fusion
mean the full-range transform rounded to nearest, which is what is here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([0.299, 0.587, 0.114])
_CB = np.array([-0.168736, -0.331264, 0.5])
_CR = np.array([0.5, -0.418688, -0.081312])


def luminance(rgb: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """BT.601 luminance, rounded to nearest, in the integer type of the input.

    Parameters
    ----------
    rgb : ndarray, shape (..., 3), uint8 or uint16

    Returns
    -------
    ndarray, shape (...)
    """
    return np.asarray(np.rint(rgb @ _LUMA), rgb.dtype)


def chroma(rgb: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """Full-range Cb and Cr, shape (2, ...), uint8; 128 is neutral."""
    scale = 255.0 / np.iinfo(rgb.dtype).max
    values = np.stack([rgb @ _CB, rgb @ _CR]) * scale + 128.0
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def to_rgb(plane: NDArray[np.floating], cb_cr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour image from a fused plane and carried chroma.

    Parameters
    ----------
    plane : ndarray, shape (...), float in [0, 1]
    cb_cr : ndarray, shape (2, ...), uint8

    Returns
    -------
    ndarray, shape (..., 3), uint8
    """
    y = np.rint(np.clip(plane, 0, 1) * 255.0)
    cb, cr = cb_cr.astype(np.float64) - 128.0
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255), np.uint8)
