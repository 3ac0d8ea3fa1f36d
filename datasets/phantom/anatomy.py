"""Anatomy of one phantom subject: the ICBM152 average brain under a random diffeomorphism."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .fields import Array, along_axes, exponentiate, grid_positions, smooth_noise, stream, to_grid

# Field of view of the paper's 128 voxels of 1.75 mm, centred on the brain; MNI mm in the order (z, y, x).
FOV = 224.0
CENTRE = (6.0, -17.0, 0.0)
# The deformation is made on this grid and interpolated.
FIELD_SIZE = 56
FIELD_SPACING = FOV / FIELD_SIZE
# (smoothness, root mean square length) in mm of the two scales of the velocity field.
VELOCITY = ((22.0, 4.0), (7.0, 2.0))
# T1 signal of grey matter, white matter and fluid in the average, relative to white matter.
SIGNAL = {"gm": 0.70, "wm": 1.0, "csf": 0.30}


@dataclass(frozen=True)
class Anatomy:
    """Tissue of one subject.

    Attributes
    ----------
    gm, wm, csf : ndarray, (D, H, W) float32
        Fractions; their sum is the brain's share of a voxel.
    mask : ndarray, (D, H, W) bool
        Brain.
    texture : ndarray, (D, H, W) float32
        What the average T1 shows beyond three tissues (deep nuclei), relative to white matter.
    points : ndarray, (3, N) float32
        Template position (z, y, x; mm) of every voxel with brain in it.
    inside : ndarray, (D, H, W) bool
        Which voxels `points` belongs to.
    displacement : ndarray, (3, D, H, W) float32
        In mm along (z, y, x): voxel position + displacement = template position.
    """

    gm: Array
    wm: Array
    csf: Array
    mask: NDArray[np.bool_]
    texture: Array
    points: Array
    inside: NDArray[np.bool_]
    displacement: Array


@dataclass(frozen=True)
class _Template:
    origin: NDArray[np.float64]
    spacing: float
    brain: Array
    # Cubic spline coefficients.
    gm: Array
    wm: Array
    texture: Array
    pull: Array  # unit direction towards the ventricles, on the deformation grid


def _load(tissue: str) -> Any:
    return nib.load(Path(__file__).with_name(f"icbm152_175mm_{tissue}.nii.gz"))


@lru_cache(maxsize=1)
def _template() -> _Template:
    images = [_load(t) for t in ("t1", "gm", "wm")]
    t1, gm, wm = (np.asarray(i.dataobj, dtype=np.float32).T / np.float32(255) for i in images)
    affine = images[0].affine
    origin, spacing = affine[:3, 3][::-1].copy(), float(affine[0, 0])

    solid = ndimage.binary_fill_holes(ndimage.binary_closing((t1 > 0.2) | (gm + wm > 0.3), iterations=3))
    brain = ndimage.gaussian_filter(solid.astype(np.float32), 0.5)
    csf = np.clip(brain - gm - wm, 0, 1)

    # White matter of the average is flat only away from its edge; that level scales the image.
    level = np.median(t1[wm > 0.95])
    plain = SIGNAL["gm"] * gm + SIGNAL["wm"] * wm + SIGNAL["csf"] * csf
    # The average's corpus callosum and dura are far brighter than any single T1: clipped.
    texture = np.clip(t1 / level - plain, -0.15, 0.04) * ndimage.binary_erosion(solid, iterations=2)

    axes = [origin[i] + spacing * np.arange(brain.shape[i]) for i in range(3)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    ventricles = csf * ((np.abs(x) < 38) & (y > -48) & (y < 42) & (z > -12) & (z < 36))
    near = to_grid(
        ndimage.gaussian_filter(ventricles, 7.0 / spacing), axes, grid_positions(FIELD_SIZE, FOV, CENTRE)
    )
    pull = np.stack([np.gradient(near, axis=axis) for axis in range(3)])
    pull /= np.abs(pull).max()
    return _Template(
        origin,
        spacing,
        brain,
        ndimage.spline_filter(gm, output=np.float32),
        ndimage.spline_filter(wm, output=np.float32),
        ndimage.spline_filter(texture, output=np.float32),
        pull.astype(np.float32),
    )


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation about the axes of (z, y, x), radians; element-wise, so that no BLAS is asked."""
    out = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        out = (out[:, :, None] * turn[None]).sum(axis=1)
    return out


def make_displacement(seed: int, size: int, deform: float = 1.0) -> Array:
    """Displacement (3, D, H, W) in mm from subject to template: a random affine map and diffeomorphism."""
    template = _template()
    rng = stream(seed, "warp")
    shape = (3, FIELD_SIZE, FIELD_SIZE, FIELD_SIZE)
    velocity = np.zeros(shape, np.float32)
    for smoothness, amplitude in VELOCITY:
        velocity += np.float32(amplitude / 3**0.5) * smooth_noise(rng, shape, smoothness / FIELD_SPACING)
    # Ventricles of an ageing brain are wider: sample nearer to them than the voxel lies.
    velocity += np.float32(rng.uniform(0.0, 4.5)) * template.pull
    coarse = exponentiate(velocity * np.float32(deform), FIELD_SPACING)

    pose = stream(seed, "pose")
    matrix = _rotation(pose.normal(0, np.deg2rad(3.0), 3) * deform)
    matrix = matrix * (1 + np.clip(pose.normal(0, 0.03, 3), -0.06, 0.06) * deform)
    shift = np.clip(pose.normal(0, 2.0, 3), -4, 4) * deform

    home = grid_positions(FIELD_SIZE, FOV, CENTRE)
    target = grid_positions(size, FOV, CENTRE)
    out = to_grid(coarse, home, target)
    centred = along_axes([t - c for t, c in zip(target, CENTRE, strict=True)])
    moved = [out[i] + centred[i] for i in range(3)]
    for i in range(3):
        turned = sum(np.float32(matrix[i, j]) * moved[j] for j in range(3))
        out[i] = turned + np.float32(shift[i]) - centred[i]
    return out


def make_anatomy(seed: int, size: int, deform: float = 1.0) -> Anatomy:
    """Tissue fractions of the subject `seed` on a grid of `size` voxels per axis.

    Population averages are blurred; squaring and normalising the class probabilities sharpens them, and a
    random field on the class odds gives every subject its own gyri and sulci where the average is undecided.
    """
    template = _template()
    displacement = make_displacement(seed, size, deform)
    target = grid_positions(size, FOV, CENTRE)
    where = np.stack([d + t for d, t in zip(displacement, along_axes(target), strict=True)])
    index = (where - template.origin.astype(np.float32).reshape(3, 1, 1, 1)) / np.float32(template.spacing)
    # A coarser grid would alias the folds: low-pass the template to its voxel first.
    blur = max(0.0, (FOV / size / template.spacing) ** 2 - 1) ** 0.5 * 0.5
    brain = ndimage.map_coordinates(_low_pass(template.brain, blur), index, order=1, mode="constant")
    inside = brain > 0.02
    index = index[:, inside]
    share = np.minimum(brain[inside], 1)

    def warp(coefficients: Array) -> Array:
        out: Array = ndimage.map_coordinates(_low_pass(coefficients, blur), index, order=3, prefilter=False)
        return out

    gm, wm = (np.clip(warp(c), 0, 1) for c in (template.gm, template.wm))
    csf = np.clip(share - gm - wm, 0, 1)

    rng = stream(seed, "folding")
    shape = (3, FIELD_SIZE, FIELD_SIZE, FIELD_SIZE)
    home = grid_positions(FIELD_SIZE, FOV, CENTRE)
    odds = to_grid(0.45 * smooth_noise(rng, shape, 1.1), home, target)[:, inside] * np.float32(deform)
    widening = np.float32(rng.uniform(-0.1, 0.35) * deform)
    weights = [p**2 * np.exp(2 * g) for p, g in zip((gm, wm, csf), odds, strict=True)]
    weights[2] *= np.exp(2 * widening)
    total = weights[0] + weights[1] + weights[2] + np.float32(1e-12)

    def spread(values: Array) -> Array:
        out = np.zeros(brain.shape, np.float32)
        out[inside] = values
        return out

    fractions = [spread(share * w / total) for w in weights]
    return Anatomy(
        gm=fractions[0],
        wm=fractions[1],
        csf=fractions[2],
        mask=brain >= 0.5,
        texture=spread(warp(template.texture)),
        points=where[:, inside],
        inside=inside,
        displacement=displacement,
    )


def _low_pass(data: Array, sigma: float) -> Array:
    if sigma == 0:
        return data
    out: Array = ndimage.gaussian_filter(data, sigma)
    return out
