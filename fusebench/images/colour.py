"""Colour, in one place: luminance is the fused image, chroma the functional image's.

A coloured picture carries its chroma: full-range BT.601 luminance is fused, Cb and Cr stay.  A grey
functional image has its chroma from `tint`: equal steps of uptake are equal steps of colour.

PIL's own ``convert("YCbCr")`` truncates and MATLAB's ``rgb2ycbcr`` is limited range; papers on fusion
mean the full-range transform rounded to nearest, which is what is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Colour maps as corners of a path in the plane of CIELAB's a* and b*, from no uptake to much; lightness is
# the fused image's.  "coldwarm" is a straight line from dull blue through grey to orange, which the common
# kinds of colour blindness leave apart; "heat" leaves what takes up little grey.
MAPS: Mapping[str, tuple[tuple[float, float], ...]] = MappingProxyType(
    {
        "coldwarm": ((-2.0, -22.4), (0.0, 0.0), (23.9, 65.8)),
        "heat": ((0.0, 0.0), (24.6, 17.2), (31.5, 45.1), (5.8, 65.7)),
    }
)
DEFAULT_MAP = "coldwarm"
# Lightness at which a map's colours are made: where the gamut of screens is widest for them.
_LIGHTNESS = 62.0
# Per cent of the voxels above 0 that a map spans: a few bright ones would else take its end for themselves.
_SPANNED = 99.5

_LUMA = np.array([0.299, 0.587, 0.114])
_CB = np.array([-0.168736, -0.331264, 0.5])
_CR = np.array([0.5, -0.418688, -0.081312])
_BLOCK = 1 << 20  # pixels that are converted at a time


def luminance(rgb: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """BT.601 luminance, rounded to nearest, in the integer type of the input.

    Parameters
    ----------
    rgb : ndarray, shape (..., 3), uint8 or uint16

    Returns
    -------
    ndarray, shape (...)
    """
    flat, plane = rgb.reshape(-1, 3), np.empty(rgb.shape[:-1], rgb.dtype)
    for some in blocks(len(flat)):
        plane.reshape(-1)[some] = np.rint(flat[some] @ _LUMA)
    return plane


def blocks(pixels: int) -> Iterator[slice]:
    """A million pixels at a time: as floats, those of a large picture would take eight times its size."""
    yield from (slice(start, start + _BLOCK) for start in range(0, pixels, _BLOCK))


def chroma(rgb: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """Full-range Cb and Cr, shape (2, ...), uint8; 128 is neutral."""
    scale = 255.0 / np.iinfo(rgb.dtype).max
    flat, planes = rgb.reshape(-1, 3), np.empty((2, *rgb.shape[:-1]), np.uint8)
    for some in blocks(len(flat)):
        values = np.stack([flat[some] @ _CB, flat[some] @ _CR]) * scale + 128.0
        planes.reshape(2, -1)[:, some] = np.clip(np.rint(values), 0, 255)
    return planes


def to_rgb(plane: NDArray[np.floating], cb_cr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colour image from a fused plane and chroma.

    Its luminance is the plane: where a screen cannot show so much chroma at that luminance, there is less of
    it in the same hue, so that black stays black and white stays white.

    Parameters
    ----------
    plane : ndarray, shape (...), float in [0, 1]
    cb_cr : ndarray, shape (2, ...), uint8

    Returns
    -------
    ndarray, shape (..., 3), uint8
    """
    y = np.rint(np.clip(np.nan_to_num(plane), 0, 1) * 255.0)[..., None]
    cb, cr = cb_cr.astype(np.float64) - 128.0
    beyond = np.stack([1.402 * cr, -0.344136 * cb - 0.714136 * cr, 1.772 * cb], axis=-1)
    # One level more than there is: carried chroma is rounded, and must not fade what fits.
    room = np.where(beyond > 0, 256.0 - y, 1.0 + y)
    share = np.minimum(1.0, (room / np.maximum(np.abs(beyond), 1e-9)).min(axis=-1, keepdims=True))
    share = np.where((y > 0) & (y < 255), share, 0.0)
    return np.asarray(np.clip(np.rint(y + share * beyond), 0, 255), np.uint8)


def ramp(name: str = DEFAULT_MAP) -> NDArray[np.uint8]:
    """Colours of a map at one lightness, shape (256, 3): equal steps apart in CIELAB."""
    corners = np.array(MAPS[name])
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(corners, axis=0).T))])
    steps = np.linspace(0, along[-1], 256)
    return _from_lab(
        np.stack([np.full(256, _LIGHTNESS), *(np.interp(steps, along, c) for c in corners.T)], -1)
    )


def _from_lab(lab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """CIELAB (..., 3), white point D65, as sRGB."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], axis=-1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.95047, 1.0, 1.08883]
    matrix = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(xyz @ matrix.T, 0, 1)
    rgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(rgb * 255), np.uint8)


def span(b: NDArray[np.floating]) -> float:
    """The value of a functional image that a map's last colour stands for; its first stands for 0."""
    above = b[b > 0]
    return float(np.percentile(above, _SPANNED)) if above.size else 1.0


def tint(b: NDArray[np.floating], name: str = DEFAULT_MAP) -> NDArray[np.uint8]:
    """Chroma of a functional image by a map, for `to_rgb`.

    Parameters
    ----------
    b : ndarray, shape (...), float
        The whole image: its own values say which is the last colour (see `span`).
    name : str
        One of `MAPS`.

    Returns
    -------
    ndarray, shape (2, ...), uint8
        Full-range BT.601 Cb and Cr.
    """
    level = np.rint(np.clip(np.nan_to_num(b) / span(b), 0, 1) * 255).astype(np.uint8)
    return chroma(ramp(name))[:, level]


def chroma_of(functional: Any, name: str = DEFAULT_MAP) -> NDArray[np.uint8]:
    """Chroma (2, D, H, W) that a `Volume` carries, else that of its values by a map."""
    carried: NDArray[np.uint8] | None = functional.chroma
    return tint(functional.data, name) if carried is None else carried
