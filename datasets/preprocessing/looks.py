"""Doubts about a pair that is read without an error: inverted, swapped, far apart, of an odd size.

Nothing is refused for them, since each can be wrong about a rare image; they go to the report of `prepare`,
the board and the site.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusebench.images.foreground import foreground
from fusebench.images.raw import corner_distance

from .grid import Image

# Largest extent of a volume, mm: smaller is a mouse or a unit mistaken, larger no head.
_EXTENT = (60.0, 700.0)
# On real, simulated and phantom pairs the structural image is 1.09 to 2.2 times as sharp as the functional.
_SHARPER = 1.05
_BLUR_MM = 3.0
_FAR_MM = 10.0
_CENTRES_MM = 50.0
_STRUCTURAL = re.compile(r"(^|[_\-. ])(mri|mr|t1w?|mprage)(?=$|[_\-. ])", re.IGNORECASE)
_FUNCTIONAL = re.compile(r"(^|[_\-. ])(pet|fdg|spect)(?=$|[_\-. ])", re.IGNORECASE)


def inverted(data: NDArray[np.floating[Any]]) -> bool:
    """Tell whether the border is bright and the middle dark, as where ``max - x`` was stored."""
    faces = [data[:, 0], data[:, -1], data[:, :, 0], data[:, :, -1]]
    if data.shape[0] > 1:
        faces += [data[0], data[-1]]
    border = float(np.median([np.median(f) for f in faces]))
    low, high = np.percentile(data, [1, 99])
    return bool(high > low and border > low + 0.8 * (high - low))


def sharpness(image: Image) -> float:
    """How much steeper the edges are than after a blur of 3 mm (sigma): 1 where that changes nothing.

    A ratio, so that it says how wide edges are and not how high.
    """
    low, high = np.percentile(image.data, [1, 99.5])
    if not high > low:
        return 1.0
    data = np.clip((image.data - np.float32(low)) / np.float32(high - low), 0, 1)
    blurred = ndimage.gaussian_filter(data, [_BLUR_MM / size for size in image.spacing])
    return _steepness(data, image.spacing) / max(_steepness(blurred, image.spacing), 1e-6)


def _steepness(data: NDArray[np.floating[Any]], spacing: tuple[float, float, float]) -> float:
    squares = np.zeros(data.shape, np.float32)
    for axis, size in enumerate(spacing):
        squares += (ndimage.convolve1d(data, [0.5, 0.0, -0.5], axis=axis) / size) ** 2
    return float(np.sqrt(np.percentile(squares, 98)))


def doubts(mri: Image, pet: Image, names: tuple[str, str], *, functional: bool = True) -> list[str]:
    """Reasons to look at a pair, before anything is registered.

    Parameters
    ----------
    mri, pet : Image
        One 3D image each, on grids of their own.
    names : (str, str)
        Their paths.
    functional : bool
        The second image shows function; one that shows anatomy may be the sharper one, and neither dark
        around nor bright inside.
    """
    found = []
    for image, name in ((mri, names[0]), (pet, names[1])):
        base = Path(name).name
        if functional and inverted(image.data):
            found.append(f"{base}: bright air around a dark head, it looks inverted")
        extent = max(n * s for n, s in zip(image.shape, image.spacing, strict=True))
        if image.shape[0] > 1 and not _EXTENT[0] <= extent <= _EXTENT[1]:
            found.append(f"{base}: spans {extent:.0f} mm, which is no head; check its voxel size")
    first, second = (Path(name).name for name in names)
    words = functional and bool(_FUNCTIONAL.search(first) and _STRUCTURAL.search(second))
    solid = functional and min(*mri.shape, *pet.shape) > 2
    if words or (solid and sharpness(pet) > _SHARPER * sharpness(mri)):
        why = "by their names" if words else "the functional image is the sharper one"
        found.append(f"{first} and {second}: MRI and PET look swapped ({why})")
    apart = float(np.linalg.norm(mri.centre() - pet.centre()))
    if apart > _CENTRES_MM and mri.shape != pet.shape:
        found.append(f"the headers place the middles of both images {apart / 10:.0f} cm apart")
    return found


def doubts_as_is(
    mri: Image, pet: Image, mask: NDArray[np.bool_], names: tuple[str, str], *, functional: bool = True
) -> list[str]:
    """`doubts`, and those about a pair of one shape that is taken voxel by voxel."""
    found = doubts(mri, pet, names, functional=functional)
    if mri.shape[0] > 1:
        apart = corner_distance(mri.affine, pet.affine, mri.shape)
        if apart > _FAR_MM:
            found.append(f"the headers place the images up to {apart / 10:.1f} cm apart")
    if functional and not mask.all() and not inverted(pet.data):
        active = foreground(pet.data, fraction=0.25)
        share = float(mask[active].mean())
        if share < 0.5:
            found.append(f"only {share:.0%} of the functional foreground lies in the structural one")
    return found
