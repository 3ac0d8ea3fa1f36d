"""Affine alignment with the ICBM152 2009a template that the phantom ships: MNI space and a brain mask."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusebench.images.read_write import read_raw

from .grid import Image, resample
from .rigid import Registration, register

_TEMPLATE = Path(__file__).resolve().parents[1] / "phantom"


@lru_cache(maxsize=1)
def _maps() -> tuple[Image, Image]:
    """T1 of the template's brain, and its brain mask (grey + white matter, closed)."""
    t1, gm, wm = (read_raw(_TEMPLATE / f"icbm152_175mm_{n}.nii.gz") for n in ("t1", "gm", "wm"))
    tissue = gm.data / gm.data.max() + wm.data / wm.data.max() > 0.3
    tissue = ndimage.binary_closing(np.pad(tissue, 6), iterations=4)[6:-6, 6:-6, 6:-6]
    filled = np.stack([ndimage.binary_fill_holes(s) for s in tissue])
    return Image(t1.data, t1.affine), Image(filled.astype(np.float32), t1.affine)


def to_template(mri: Image) -> Registration:
    """Affine from the world of `mri` to MNI152 (the template is the moving image)."""
    return register(mri, _maps()[0], transform="affine", angles=(-15.0, 0.0, 15.0))


def brain_mask(mri: Image) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Approximate brain mask: the template's, moved by an affine; may include parts of the orbits."""
    found = to_template(mri)
    mask = resample(_maps()[1], mri.shape, mri.affine, to_image=found.matrix) >= 0.5
    return mask, ("brain mask is approximate (affine template)", *found.warnings)
