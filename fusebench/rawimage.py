"""What the readers return, the names of the formats, and the turn to RAS+."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".gif")
ITK = (".mha", ".mhd", ".nrrd", ".nhdr")
EXTENSIONS = NIFTI + PICTURES + ITK


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image in its own units, before scaling.

    Attributes
    ----------
    path : Path
    data : ndarray, shape (D, H, W), or (T, D, H, W) where frames were asked for, float32
    affine : ndarray, shape (4, 4)
    full_range : (float, float) or None
        Range of the file's integer type, for pictures of 8 bits; None where the range is the data's.
    chroma : ndarray, shape (2, D, H, W), uint8, or None
    notes : tuple of str
        What a reader of a report should know; also logged as warnings.
    stored_range : (float, float) or None
        The display range written in the header (``cal_min``, ``cal_max``), as `write_image` does.
    extra : mapping
        Facts by name, ``frame_durations`` of a dynamic series among them.
    """

    path: Path
    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    full_range: tuple[float, float] | None = None
    chroma: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()
    stored_range: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def extension(path: Path) -> str:
    """Lower-case extension, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def canonical(path: Path, data: NDArray[Any], affine: NDArray[np.float64], **fields: Any) -> RawImage:
    """Turn (x, y, z) or (x, y, z, t) data with its RAS affine to a `RawImage` in the nearest RAS+ order."""
    turn = orientations.io_orientation(affine)
    affine = affine @ orientations.inv_ornt_aff(turn, data.shape[:3])
    order = (2, 1, 0) if data.ndim == 3 else (3, 2, 1, 0)
    data = orientations.apply_orientation(data, turn).transpose(order)
    return RawImage(path, np.ascontiguousarray(data, np.float32), affine, **fields)


def usable(affine: NDArray[np.float64]) -> bool:
    """Whether an affine is finite and spans three dimensions."""
    if not np.isfinite(affine).all():
        return False
    size = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((size > 1e-3).all() and abs(np.linalg.det(affine[:3, :3] / size)) > 1e-3)


def corner_distance(
    one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, int, int]
) -> float:
    """Largest distance in mm between the corners of a (D, H, W) grid under two affines."""
    d, h, w = shape
    corners = np.array([[x, y, z, 1.0] for x in (0, w - 1) for y in (0, h - 1) for z in (0, d - 1)]).T
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


# -- checks --------------------------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
