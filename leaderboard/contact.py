"""The contact sheet: sources and every method's result side by side, as one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fusebench.colour import to_rgb

PLANES = ("axial", "coronal", "sagittal")
# Images per line before a new band of rows starts; keeps labels legible on an A4 page.
PER_BAND = 8


def sheet(
    images: Sequence[tuple[str, Any]],
    path: str | Path,
    chroma: NDArray[np.uint8] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Path:
    """Draw the centre slices of some volumes.

    Parameters
    ----------
    images : sequence of (label, volume)
        Volumes are arrays (D, H, W) in [0, 1], or have such an array as ``data``.  A 2D image (D = 1) has
        one panel, a volume three.  The first image (the structural one) stays grey where there is chroma.
    path : path
        PNG to write.
    chroma : ndarray, shape (2, D, H, W), uint8, optional
        Full-range BT.601 Cb and Cr, for a coloured functional source and what is fused with it.
    spacing : tuple of float
        Voxel size (D, H, W); panels keep true proportions.

    Returns
    -------
    Path
    """
    volumes = [(label, np.asarray(getattr(v, "data", v), dtype=np.float32)) for label, v in images]
    flat = all(v.shape[0] == 1 for _, v in volumes)
    planes = PLANES[:1] if flat else PLANES
    per_band = min(PER_BAND, len(volumes))
    bands = -(-len(volumes) // per_band)
    figure = Figure(figsize=(1.7 * per_band, (1.75 * len(planes) + 0.3) * bands), dpi=150, facecolor="white")
    axes = figure.subplots(bands * len(planes), per_band, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for i, (label, volume) in enumerate(volumes):
        band, column = divmod(i, per_band)
        for row, plane in enumerate(planes):
            axis = axes[band * len(planes) + row, column]
            picture, aspect = centre_slice(volume, plane, spacing)
            if chroma is not None and i > 0:
                picture = to_rgb(picture, np.stack([centre_slice(c, plane)[0] for c in chroma]))
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
            if row == 0:
                # A "$" in a plugin's name is text, not mathematics.
                axis.set_title(_shorten(label), fontsize=8, parse_math=False)
    figure.tight_layout(pad=0.3)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def centre_slice(
    volume: NDArray[Any], plane: str, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[NDArray[Any], float]:
    """The middle slice of a (D, H, W) volume, anterior or superior up, and its pixel aspect.

    A 2D image is a picture: its first row is the top already.
    """
    axis = PLANES.index(plane)
    picture = np.take(volume, volume.shape[axis] // 2, axis=axis)
    rest = [s for i, s in enumerate(spacing) if i != axis]
    return (picture if len(volume) == 1 else picture[::-1]), rest[0] / rest[1]


def _shorten(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"
