"""Make the vendored ``icbm152_175mm_{t1,gm,wm}.nii.gz`` from the 1 mm maps that nilearn ships.

Run once by a maintainer; neither this file nor nilearn is needed to use the phantom::

    pip download nilearn --no-deps && unzip nilearn-*.whl -d nilearn-wheel
    python datasets/phantom/make_template.py nilearn-wheel/nilearn/datasets/data
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

VOXEL = 1.75
# Bounding box of the brain plus a margin that the cubic interpolation needs, MNI mm (x, y, z).
LOW, HIGH = np.array([-78.75, -113.75, -78.75]), np.array([78.75, 80.5, 89.25])


def main(folder: Path) -> None:
    shape = np.round((HIGH - LOW) / VOXEL).astype(int) + 1
    affine = np.diag([VOXEL, VOXEL, VOXEL, 1.0])
    affine[:3, 3] = LOW
    for tissue in ("t1", "gm", "wm"):
        image: Any = nib.load(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")
        # A mild low-pass keeps the coarser grid from aliasing.
        data = ndimage.gaussian_filter(np.asarray(image.dataobj, dtype=np.float64), 0.45)
        to_source = np.linalg.inv(image.affine) @ affine
        out = ndimage.affine_transform(data, to_source, output_shape=tuple(shape), order=3, mode="constant")
        out = np.clip(np.round(out), 0, 255)
        out[out < 3] = 0  # spline ringing in air would only cost bytes
        target = Path(__file__).with_name(f"icbm152_175mm_{tissue}.nii.gz")
        nib.save(nib.Nifti1Image(out.astype(np.uint8), affine), target)
        print(f"{target.name}: {tuple(shape)}, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
