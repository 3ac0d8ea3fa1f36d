"""One phantom subject: anatomy, both acquisitions, normalisation and ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .anatomy import CENTRE, FIELD_SIZE, FOV, make_anatomy, make_displacement
from .fields import Array, grid_positions, stream, to_grid
from .mri import acquire_mri
from .pet import Scanner, make_lesion, make_misalignment, make_uptake

# Intensities are whole numbers of 16 bits, as scanners store them; uptake may exceed 1.
STEPS = {
    "a": 1 / 65535,
    "b": 1 / 65535,
    "pet_twin": 1 / 65535,
    "pet_aligned": 1 / 65535,
    "gm": 1 / 65535,
    "wm": 1 / 65535,
    "csf": 1 / 65535,
    "lesion_depth": 1 / 65535,
    "uptake": 1 / 16384,
    "pet_clean": 1 / 16384,
}
# Each image is divided by this percentile of its own brain voxels, and clipped to [0, 1].
PERCENTILE = 99.9


@dataclass(frozen=True)
class Subject:
    """Images of one subject, all (D, H, W).

    Attributes
    ----------
    a, b : ndarray, float32 in [0, 1]
        MRI and PET.
    mask : ndarray, bool
        Brain.
    truth : mapping
        See `make_subject`; empty where it was not asked for.
    lesion : bool
        Whether the subject has lesions.
    """

    a: Array
    b: Array
    mask: NDArray[np.bool_]
    lesion: bool
    truth: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def affine(size: int) -> NDArray[np.float64]:
    """Voxel (w, h, d) to MNI mm, RAS+."""
    voxel = FOV / size
    out = np.diag([voxel, voxel, voxel, 1.0])
    out[:3, 3] = [grid_positions(size, FOV, CENTRE)[i][0] for i in (2, 1, 0)]
    return out


def quantise(data: Array, name: str) -> NDArray[np.uint16]:
    """Whole steps of `STEPS`."""
    out: NDArray[np.uint16] = np.clip(np.rint(data / np.float32(STEPS[name])), 0, 65535).astype(np.uint16)
    return out


def dequantise(levels: NDArray[np.uint16], name: str) -> Array:
    """Inverse of `quantise`; the same bits on every call."""
    return levels.astype(np.float32) * np.float32(STEPS[name])


def draw_lesion(seed: int) -> bool:
    """Decide if a subject of no published split has lesions: one in two."""
    return bool(stream(seed, "group").integers(2))


def make_subject(
    seed: int,
    *,
    size: int = 128,
    lesion: bool | None = None,
    fwhm: float = 7.0,
    counts: float = 240.0,
    misalign: float = 0.0,
    deform: float = 1.0,
    truth: bool = True,
) -> Subject:
    """Make one subject; the same arguments give the same bits in every process.

    Every component (warp, folding, MRI contrast, bias, MRI noise, uptake, lesion, counts, misalignment) draws
    from its own stream, so that changing one leaves the others as they are: the MRI is the same with and
    without lesion, for any resolution, counts or misalignment of the PET.

    Parameters
    ----------
    seed : int
        Published splits use seeds below 10 million; take others for training on the fly.
    size : int
        Voxels per axis over the field of view of 224 mm; 128 gives 1.75 mm.  Small sizes are the same head
        in coarser voxels.
    lesion : bool, optional
        AD-like hypometabolism; drawn from the seed by default (one in two).
    fwhm : float
        Resolution of the PET in mm.
    counts : float
        Expected counts in a PET voxel (2.5 mm) of grey matter.
    misalign : float
        Mean displacement of the PET against the MRI in mm (70 % rigid, 30 % smooth warp).
    deform : float
        Strength of the random anatomy; 0 gives the average brain.
    truth : bool
        Keep the ground truth.

    Returns
    -------
    Subject
        ``truth`` holds, in the frame of the MRI where nothing else is said:

        - ``gm, wm, csf``: tissue fractions.
        - ``uptake``: noise-free uptake at full resolution, lesion included, on the scale of `b`; may pass 1.
        - ``pet_clean``: `uptake` as the scanner blurs it, no noise, no misalignment, on the scale of `b`.
        - ``lesion`` (bool), ``lesion_depth``: where uptake is lost, and the lost share of it.
        - ``mri_twin, pet_twin``: `a` and `b` of the same subject without lesion, with the same normalisation.
          ``pet_twin`` is misaligned as `b` is.
        - ``pet_aligned``: `b` without misalignment (equal to `b` when `misalign` is 0).
    """
    has_lesion = draw_lesion(seed) if lesion is None else bool(lesion)
    anatomy = make_anatomy(seed, size, deform)
    mask = anatomy.mask
    mri = acquire_mri(anatomy, seed)
    a = dequantise(quantise(mri / np.float32(np.percentile(mri[mask], PERCENTILE)), "a"), "a")

    healthy = make_uptake(anatomy, seed)
    depth, where = np.zeros(mask.shape, np.float32), np.zeros(mask.shape, bool)
    if has_lesion:
        depth, where = make_lesion(anatomy, seed)
    uptake = healthy * (1 - depth)

    def scan(scanner: Scanner) -> tuple[Array, Array, Array]:
        expected = scanner.expect(healthy)
        thinned = scanner.expect(uptake) if has_lesion else None
        return *scanner.measure(expected, thinned), expected if thinned is None else thinned

    aligned = Scanner(seed, size, fwhm, counts)
    twin, pet, expected = scan(aligned)
    # The scale is the aligned scan's, so that b and its aligned and lesion-free companions share one.
    scale = np.float32(np.percentile(pet[mask], PERCENTILE))
    images = {"pet_aligned": pet / scale}
    if misalign:
        twin, pet, _ = scan(Scanner(seed, size, fwhm, counts, make_misalignment(seed, misalign)))
    images |= {"b": pet / scale, "pet_twin": twin / scale}
    if truth:
        images |= {"gm": anatomy.gm, "wm": anatomy.wm, "csf": anatomy.csf, "lesion_depth": depth}
        images |= {"uptake": uptake / scale, "pet_clean": aligned.reconstruct(expected) / scale}
    stored: dict[str, NDArray[Any]] = {k: dequantise(quantise(v, k), k) for k, v in images.items()}
    b = stored.pop("b")
    if not truth:
        return Subject(a, b, mask, has_lesion)
    return Subject(a, b, mask, has_lesion, stored | {"lesion": where, "mri_twin": a})


def subject_displacement(seed: int, size: int, deform: float = 1.0) -> Array:
    """Displacement (3, D, H, W) in mm along (d, h, w): MRI position + displacement = template position."""
    return make_displacement(seed, size, deform)


def subject_misalignment(seed: int, size: int, misalign: float) -> Array:
    """Displacement (3, D, H, W) in mm along (d, h, w): `b` shows at x what `a` has at x + displacement(x)."""
    if misalign == 0:
        return np.zeros((3, size, size, size), np.float32)
    home, target = grid_positions(FIELD_SIZE, FOV, CENTRE), grid_positions(size, FOV, CENTRE)
    return to_grid(make_misalignment(seed, misalign), home, target)
