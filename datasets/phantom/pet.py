"""FDG-PET acquisition: tissue uptake, lesions, point spread, counts, and the way to the MRI grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .anatomy import CENTRE, FIELD_SIZE, FIELD_SPACING, FOV, Anatomy
from .fields import Array, along_axes, grid_positions, smooth_noise, stream, to_grid

# Relative uptake of the tissues; grey matter is 1 in every array of this file.
UPTAKE = {"gm": 1.0, "wm": 1.0 / 3.0, "csf": 0.1 / 3.0}
# PET voxel in mm, as on common whole-body scanners.
VOXEL = 2.5
_SIZE = int(np.ceil(FOV / VOXEL))
# Share of the total resolution that is the scanner's; the rest is the reconstruction's post-filter.
_INTRINSIC = 0.85
_SIGMA = 1 / np.sqrt(8 * np.log(2))

# Regions with their own metabolism: MNI (x, y, z), radius, relative change; x is mirrored where not 0.
REGIONS: Sequence[tuple[tuple[float, float, float], float, float]] = (
    ((0, -86, 4), 24, 0.14),  # occipital cortex
    ((0, -52, 28), 16, 0.15),  # posterior cingulate and precuneus
    ((25, 5, 2), 13, 0.18),  # striatum
    ((12, -18, 7), 10, 0.08),  # thalamus
    ((26, -18, -22), 15, -0.18),  # medial temporal lobe
    ((26, -62, -36), 26, -0.12),  # cerebellum
)
# AD-like hypometabolism, typical sites and radii: MNI (x, y, z), mm.
PATCHES: Sequence[tuple[tuple[float, float, float], float]] = (
    ((0, -54, 30), 17),
    ((-46, -58, 40), 20),
    ((46, -58, 40), 20),
    ((-58, -38, -8), 19),
    ((58, -38, -8), 19),
    ((-38, 28, 36), 17),
    ((38, 28, 36), 17),
)


def _distance(points: Array, site: Iterable[float], mirror: bool = False) -> Array:
    """Squared distance in mm of points (z, y, x) from a site (x, y, z), or its mirror image if nearer."""
    z, y, x = points
    dx, dy, dz = (np.float32(s) for s in site)
    out: Array = (z - dz) ** 2 + (y - dy) ** 2 + ((np.abs(x) if mirror else x) - dx) ** 2
    return out


def make_uptake(anatomy: Anatomy, seed: int) -> Array:
    """Noise-free uptake (D, H, W) of the subject without lesion; grey matter near 1."""
    rng = stream(seed, "uptake")
    factor = np.ones(anatomy.points.shape[1], np.float32)
    for site, radius, change in REGIONS:
        amount = np.float32(change + rng.normal(0, 0.03))
        squared = _distance(anatomy.points, site, mirror=site[0] != 0)
        factor *= 1 + amount * np.exp(squared * np.float32(-0.5 / radius**2))
    size = anatomy.mask.shape[0]
    centre = (0.0, 0.0, 0.0)
    drift = to_grid(
        smooth_noise(rng, (FIELD_SIZE,) * 3, 14.0 / FIELD_SPACING),
        grid_positions(FIELD_SIZE, FOV, centre),
        grid_positions(size, FOV, centre),
    )[anatomy.inside]
    factor *= 1 + np.float32(0.04) * drift
    level = {t: np.float32(u * rng.normal(1, 0.04)) for t, u in UPTAKE.items()}
    out = np.zeros(anatomy.mask.shape, np.float32)
    out[anatomy.inside] = (
        factor * (level["gm"] * anatomy.gm[anatomy.inside] + level["wm"] * anatomy.wm[anatomy.inside])
        + level["csf"] * anatomy.csf[anatomy.inside]
    )
    return out


def make_lesion(anatomy: Anatomy, seed: int) -> tuple[Array, NDArray[np.bool_]]:
    """Relative loss of uptake (D, H, W), and where it counts as lesion (grey matter, half of the peak)."""
    rng = stream(seed, "lesion")
    keep = np.ones(anatomy.points.shape[1], np.float32)
    core = np.zeros(keep.shape, bool)
    severity = rng.uniform(0.8, 1.2)
    for site, radius in PATCHES:
        jittered = np.asarray(site) + rng.normal(0, 4.0, 3)
        depth = np.clip(severity * rng.uniform(0.18, 0.34), 0.15, 0.4)
        width = radius * rng.uniform(0.8, 1.2)
        # Flat in the middle, falling off near the radius.
        profile = np.exp(-((_distance(anatomy.points, jittered) / np.float32(width**2)) ** 2))
        keep *= 1 - np.float32(depth) * profile
        core |= profile > 0.5
    gm = anatomy.gm[anatomy.inside]
    active = gm * UPTAKE["gm"]
    whole = active + anatomy.wm[anatomy.inside] * np.float32(UPTAKE["wm"])
    loss = np.zeros(anatomy.mask.shape, np.float32)
    # Only grey matter loses; a mixed voxel loses in proportion.
    loss[anatomy.inside] = (1 - keep) * active / np.maximum(whole, np.float32(1e-3))
    lesion = np.zeros(anatomy.mask.shape, bool)
    lesion[anatomy.inside] = core & (gm > 0.5)
    return loss, lesion & anatomy.mask


def make_misalignment(seed: int, misalign: float) -> Array:
    """Displacement (3, D, H, W) in mm on the deformation grid: 70 % rigid, 30 % smooth warp.

    Its mean length over a ball of 75 mm about the centre, where the brain is, equals `misalign`.
    """
    rng = stream(seed, "misalign")
    direction = rng.normal(size=3)
    direction /= np.sqrt((direction**2).sum())
    axes = [p.astype(np.float32) for p in grid_positions(FIELD_SIZE, FOV, (0.0, 0.0, 0.0))]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    turn = rng.normal(0, 0.006, 3)  # radians per mm of shift
    rigid = np.stack(
        [
            direction[0] + turn[1] * x - turn[2] * y,
            direction[1] + turn[2] * z - turn[0] * x,
            direction[2] + turn[0] * y - turn[1] * z,
        ]
    )
    warp = smooth_noise(rng, (3, *z.shape), 25.0 / FIELD_SPACING)
    field = 0.7 * rigid + 0.3 * warp
    ball = z**2 + y**2 + x**2 < 75.0**2
    length = np.sqrt((field**2).sum(axis=0))[ball].mean(dtype=np.float64)
    out: Array = (field * (misalign / length)).astype(np.float32)
    return out


class Scanner:
    """A PET acquisition of one subject on a grid of `size` voxels.

    Parameters
    ----------
    fwhm : float
        Total resolution in mm, scanner and post-filter together.
    counts : float
        Expected counts in a PET voxel of grey matter.
    misalignment : ndarray, optional
        Of `make_misalignment`: the image shows at x what the head has at x + misalignment(x).
    """

    def __init__(
        self, seed: int, size: int, fwhm: float, counts: float, misalignment: Array | None = None
    ) -> None:
        self.seed, self.fwhm, self.counts = seed, fwhm, counts
        self.voxel = FOV / size
        offset = stream(seed, "pet-grid").uniform(-VOXEL / 2, VOXEL / 2, 3)
        self.mri_grid = grid_positions(size, FOV, CENTRE)
        self.pet_grid = grid_positions(_SIZE, _SIZE * VOXEL, list(np.asarray(CENTRE) + offset))
        self.misalignment = misalignment

    def expect(self, uptake: Array) -> Array:
        """Expected image on the PET grid before the post-filter."""
        sigma = _INTRINSIC * self.fwhm * _SIGMA / self.voxel
        blurred = ndimage.gaussian_filter(uptake, sigma, truncate=3.5)
        if self.misalignment is None:
            out = to_grid(blurred, self.mri_grid, self.pet_grid)
        else:
            home = grid_positions(FIELD_SIZE, FOV, CENTRE)
            moved = to_grid(self.misalignment, home, self.pet_grid)
            for i, position in enumerate(along_axes(self.pet_grid)):
                moved[i] = (moved[i] + position - np.float32(self.mri_grid[i][0])) / np.float32(self.voxel)
            out = ndimage.map_coordinates(blurred, moved, order=3, mode="constant")
        clipped: Array = np.maximum(out, 0)
        return clipped

    def reconstruct(self, image: Array) -> Array:
        """Post-filter on the PET grid, then interpolation to the MRI grid."""
        sigma = (1 - _INTRINSIC**2) ** 0.5 * self.fwhm * _SIGMA / VOXEL
        filtered = ndimage.gaussian_filter(image, sigma, truncate=3.5)
        out: Array = np.maximum(to_grid(filtered, self.pet_grid, self.mri_grid), 0)
        return out

    def measure(self, expected: Array, thinned: Array | None = None) -> tuple[Array, Array]:
        """Images (D, H, W) from Poisson counts, without and with lesion.

        The lesion's counts are the healthy counts thinned at random: each image alone is exactly Poisson,
        and both are equal where the lesion has no effect.
        """
        counts = stream(self.seed, "pet-counts").poisson(expected.astype(np.float64) * self.counts)
        healthy = self.reconstruct(counts.astype(np.float32) / np.float32(self.counts))
        if thinned is None:
            return healthy, healthy
        keep = np.ones(expected.shape)
        lower = thinned < expected
        keep[lower] = thinned[lower].astype(np.float64) / expected[lower]
        left = stream(self.seed, "lesion-counts").binomial(counts, keep)
        return healthy, self.reconstruct(left.astype(np.float32) / np.float32(self.counts))
