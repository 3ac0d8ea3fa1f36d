"""Images on disk for the tests: one way to save a picture, one to save a volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image


def save_picture(path: Path | str, pixels: Any) -> Path:
    """Write pixels (H, W) or (H, W, 3), integers as they are, floats in [0, 1] as 8 bit; makes the folder."""
    path, pixels = Path(path), np.asarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    if np.issubdtype(pixels.dtype, np.floating):
        pixels = (255 * pixels).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def save_volume(path: Path | str, data: Any, affine: Any = None) -> Path:
    """Write a volume (D, H, W), or a slice (H, W), as NIfTI in RAS+ with 1 mm voxels; makes the folder."""
    path, data = Path(path), np.asarray(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.reshape((-1, *data.shape[-2:]))
    nib.save(nib.Nifti1Image(data.transpose(2, 1, 0), np.eye(4) if affine is None else affine), path)
    return path
