"""Voxel grids and pull-back resampling with 4x4 matrices; shear and oblique axes need no special case."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Image:
    """Voxels in their own units on a RAS+ grid: `data` (D, H, W) or (T, D, H, W), `affine` on (w, h, d)."""

    data: NDArray[np.float32]
    affine: Matrix

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W), without frames."""
        d, h, w = self.data.shape[-3:]
        return d, h, w

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, in the order (D, H, W)."""
        w, h, d = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    def centre(self) -> NDArray[np.float64]:
        """World position of the middle of the grid, mm."""
        d, h, w = self.shape
        return np.asarray((self.affine @ [(w - 1) / 2, (h - 1) / 2, (d - 1) / 2, 1.0])[:3])


def box_affine(centre: NDArray[np.float64], size: int, voxel: float) -> Matrix:
    """Affine of a cube of `size` voxels of `voxel` mm around a world position, axes along RAS."""
    affine = np.diag([voxel, voxel, voxel, 1.0])
    affine[:3, 3] = centre - voxel * (size - 1) / 2
    return affine


def resample(
    image: Image,
    shape: tuple[int, int, int],
    affine: Matrix,
    *,
    to_image: Matrix | None = None,
    order: int = 1,
) -> NDArray[np.float32]:
    """Sample `image` on another grid.

    Parameters
    ----------
    shape, affine
        Grid asked for, (D, H, W).
    to_image : ndarray, shape (4, 4), optional
        World of the grid to world of the image; identity by default.
    order : int
        Spline order; overshoot of order > 1 is clipped to the range of the source.

    Returns
    -------
    ndarray, shape (D, H, W), float32
        Outside of the source: its lowest value (air).
    """
    world = affine if to_image is None else to_image @ affine
    index = np.linalg.inv(image.affine) @ world  # (w, h, d) to (w, h, d)
    flip = np.eye(4)[[2, 1, 0, 3]]
    pull = flip @ index @ flip
    data = image.data
    low, high = float(data.min()), float(data.max())
    # Where the new voxels are coarser, blur to their size first, or detail aliases.
    step = np.linalg.norm(pull[:3, :3], axis=1)
    sigma = 0.4247 * np.sqrt(np.maximum(step**2 - 1, 0))
    if (sigma > 0.1).any():
        data = ndimage.gaussian_filter(data, sigma, mode="nearest", truncate=3.0)
    out = ndimage.affine_transform(
        data, pull[:3, :3], pull[:3, 3], output_shape=shape, order=order, mode="constant", cval=low
    )
    if order > 1:
        np.clip(out, low, high, out=out)
    return np.asarray(out, np.float32)


def rigid_matrix(
    rotation: NDArray[np.float64] | tuple[float, float, float],
    shift: NDArray[np.float64] | tuple[float, float, float],
    centre: NDArray[np.float64] | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Matrix:
    """4x4 rigid transform: turn by Euler angles (x, y, z; degrees) about `centre`, then shift (mm)."""
    from scipy.spatial.transform import Rotation

    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", rotation, degrees=True).as_matrix()
    middle = np.asarray(centre, float)
    matrix[:3, 3] = middle + np.asarray(shift, float) - matrix[:3, :3] @ middle
    return matrix


def displacement(one: Matrix, other: Matrix, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance in mm between where two transforms take `points`, shape (N, 3)."""
    moved = points @ (one - other)[:3, :3].T + (one - other)[:3, 3]
    return np.asarray(np.linalg.norm(moved, axis=1))


def mask_points(mask: NDArray[np.bool_], affine: Matrix, most: int = 20000) -> NDArray[np.float64]:
    """World positions (N, 3) of mask voxels, thinned regularly."""
    index: NDArray[Any] = np.argwhere(mask)[:, ::-1]
    index = index[:: max(1, len(index) // most)]
    return np.asarray(index @ affine[:3, :3].T + affine[:3, 3])
