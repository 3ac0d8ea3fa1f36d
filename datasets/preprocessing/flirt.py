"""Matrices of FSL's FLIRT (Jenkinson et al. 2002, doi:10.1006/nimg.2002.1132) as matrices between worlds.

FLIRT counts millimetres from the first voxel, along the axes as they are stored; where the voxels run from
left to right, it counts the first axis from its other end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fusebench.errors import InputError
from fusebench.files import read_text
from fusebench.images.nifti_file import load_header

from .grid import Matrix

_MAX_BYTES = 4096


def world_to_world(matrix: Path, source: Path, reference: Path) -> Matrix:
    """World of `source` to world of `reference`, RAS mm, as ``flirt -in source -ref reference`` found it.

    Parameters
    ----------
    matrix : Path
        Text of four rows of four numbers.
    source, reference : Path
        NIfTI files on the grids that it was found on.

    Returns
    -------
    ndarray, shape (4, 4)

    Raises
    ------
    InputError
        No such matrix, or a file without a header.
    """
    return _to_world(reference) @ read_matrix(matrix) @ np.linalg.inv(_to_world(source))


def read_matrix(path: Path) -> Matrix:
    """A FLIRT matrix, checked: four by four, finite, and no reflection or collapse of space."""
    try:
        text = read_text(path, _MAX_BYTES, "ascii")
        found = np.array([row.split() for row in text.splitlines() if row.strip()], float)
    except (OSError, ValueError):
        found = np.zeros((0, 0))
    if found.shape != (4, 4) or not np.isfinite(found).all() or not 0.1 < np.linalg.det(found[:3, :3]) < 10:
        raise InputError(f"{path}: no matrix of FLIRT (four rows of four numbers); get the file again")
    return np.asarray(found, np.float64)


def _to_world(path: Path) -> Matrix:
    """FLIRT's millimetres in an image to its world, from its header alone."""
    try:
        image: Any = load_header(path)
        affine, shape = np.asarray(image.affine, np.float64), image.shape[:3]
        size = np.asarray(image.header.get_zooms()[:3], np.float64)
    except Exception as error:  # a damaged file makes nibabel raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: no readable header ({reason}); get the file again") from None
    voxel = np.diag([*(1 / size), 1.0])
    if np.linalg.det(affine[:3, :3]) > 0:
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        mirror[0, 3] = shape[0] - 1
        voxel = mirror @ voxel
    return affine @ voxel
