"""Findings that are put into a pair: where, how deep, of which sign; Gaussian, public and fixed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .channels import Array

Mask = NDArray[np.bool_]

# Standard deviations in mm: a functional finding is no sharper than the PET, a structural one is focal.
SIGMA_A, SIGMA_B = 2.6, 5.6
# Relative change at the centre of a structural and of a functional finding, such that the right source alone
# reads at about .85 (a) and .9 (b).  A picture shows one slice of a finding, and needs more.
DEPTHS = {
    "volume": (0.20, 0.28),
    "picture": (0.60, 0.70),
    "MRI-PET": (0.30, 0.70),
    "MRI-SPECT": (0.60, 0.65),
    "CT-MRI": (0.60, 0.80),
}
# Of volumes whose second source is anatomy as well: its findings are as focal as those of the first.  Set on
# heads of phantom tissue (5 HU of noise at 1.75 mm in a bone window; 2 % in FLAIR), not on people's images.
ANATOMY = {"MR-CT": (0.27, 0.23), "MRI-MRI": (0.20, 0.19)}
# Distances in mm: from the border of the foreground, and between findings.
BORDER_A, BORDER_B = 5.0, 8.0
APART_A, APART_B, APART_AB = 12.5, 26.0, 17.0
# The same in a picture, which has room for fewer.
APART_B_FLAT = 20.0
# No more of a kind than this; fewer fit in small heads and in pictures.
MOST = 64
_DARTS = 40000
# Places without a finding, per kind, that the observer learns the clutter from.
BACKGROUND = 400


@dataclass(frozen=True, eq=False)
class Sites:
    """Findings of one kind.

    Attributes
    ----------
    places : ndarray, shape (N, ndim), int
        Voxel indices of the centres, in the anatomy (the structural image).
    signs : ndarray, shape (N,), int
        +1 brighter (hot), -1 darker (cold).
    depth : float
        Relative change at the centre.
    sigma : float
        Standard deviation of the Gaussian in mm.
    background : ndarray, shape (M, ndim), int
        Places without a finding of their own, drawn like `places`: the clutter to tell them from.
    """

    places: NDArray[np.intp]
    signs: NDArray[np.intp]
    depth: float
    sigma: float
    background: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, eq=False)
class Findings:
    """A pair with findings in it.

    Attributes
    ----------
    a_with, b_with : ndarray, float32 in [0, 1]
        The sources with every finding.
    a, b : Sites
        Structural findings (in `a_with`) and functional ones (in `b_with`).
    """

    a_with: Array
    b_with: Array
    a: Sites
    b: Sites


def seed_of(origin: str) -> int:
    """Seed drawn from the content key of what a case is made from."""
    return int.from_bytes(hashlib.sha256(f"findings {origin}".encode()).digest()[:8], "big")


def depths_of(ndim: int, modality: str = "") -> tuple[float, float]:
    """Published depths, for volumes (`ndim` 3) or for pictures of a pair of modalities."""
    if ndim == 3:
        return ANATOMY.get(modality, DEPTHS["volume"])
    return DEPTHS.get(modality, DEPTHS["picture"])


def sigma_of(ndim: int, modality: str = "") -> float:
    """Standard deviation in mm of the findings in the second source."""
    return SIGMA_A if ndim == 3 and modality in ANATOMY else SIGMA_B


def put_findings(
    a: NDArray[Any],
    b: NDArray[Any],
    mask: Mask,
    spacing: Sequence[float],
    seed: int,
    *,
    tissue_a: Mask | None = None,
    tissue_b: Mask | None = None,
    depths: tuple[float, float] = DEPTHS["volume"],
    sigma_b: float = SIGMA_B,
    displacement: Array | None = None,
) -> Findings:
    """Put structural findings into `a` and functional ones into `b`.

    Parameters
    ----------
    a, b : ndarray, shape (H, W) or (D, H, W), in [0, 1]
        Structural and functional source.
    mask : ndarray of bool
        Foreground.
    spacing : sequence of float
        Voxel size in mm per axis.
    seed : int
        Same seed, same places and signs; they hardly depend on the voxel size.
    tissue_a, tissue_b : ndarray of bool, optional
        Where centres of structural (white and grey matter) and functional findings (grey matter, which takes
        up the tracer) may lie; default: all of the foreground.
    depths : tuple of float
        Relative change at the centre of a structural and of a functional finding.
    sigma_b : float
        Standard deviation of a functional finding, mm.
    displacement : ndarray, shape (ndim, *a.shape), optional
        In mm: `b` shows at x what `a` has at x + displacement(x).  Functional findings go where `b` shows
        their place.

    Returns
    -------
    Findings
    """
    rng = np.random.default_rng(seed)
    # The border of the image is a border, too.
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), sampling=tuple(spacing))
    depth = depth[(slice(1, -1),) * mask.ndim]
    darts = _darts(rng, mask.shape)
    at = tuple(darts.T)
    free = {
        kind: mask[at] & (depth[at] > border) & (True if tissue is None else tissue[at])
        for kind, border, tissue in (("a", BORDER_A, tissue_a), ("b", BORDER_B, tissue_b))
    }
    chosen = _choose(darts * np.asarray(spacing, np.float64), free)
    sites = {}
    for kind, share, sigma in (("a", depths[0], SIGMA_A), ("b", depths[1], sigma_b)):
        places = darts[chosen[kind]]
        # The last darts: the first are the sites.
        others = darts[free[kind]][-BACKGROUND:]
        sites[kind] = Sites(places, _signs(rng, len(places)), share, sigma, others)
    return Findings(
        implant(a, sites["a"], spacing), implant(b, sites["b"], spacing, displacement), sites["a"], sites["b"]
    )


def _darts(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.intp]:
    """Random voxels (N, ndim), uniform in the field of view, whatever its grid."""
    size = np.asarray(shape)
    share = rng.random((_DARTS, len(shape)))
    out: NDArray[np.intp] = np.minimum((share * size).astype(np.intp), size - 1)
    return out


def _choose(where: NDArray[Any], free: dict[str, Mask]) -> dict[str, list[int]]:
    """Take darts at `where` (mm) in turn for either kind, as long as they keep their distance."""
    apart = {"a": APART_A, "b": APART_B_FLAT if where.shape[1] == 2 else APART_B}
    left = {kind: mask.copy() for kind, mask in free.items()}
    taken: dict[str, list[int]] = {"b": [], "a": []}
    progress = True
    while progress:
        progress = False
        for kind, chosen in taken.items():
            if len(chosen) >= MOST or not left[kind].any():
                continue
            index = int(left[kind].argmax())
            chosen.append(index)
            away = np.sqrt(((where - where[index]) ** 2).sum(axis=1))
            for other in left:
                left[other] &= away >= (apart[kind] if other == kind else APART_AB)
            progress = True
    return taken


def _signs(rng: np.random.Generator, count: int) -> NDArray[np.intp]:
    """As many bright as dark, in random order."""
    out: NDArray[np.intp] = rng.permutation(np.where(np.arange(count) % 2, 1, -1))
    return out


def implant(
    image: NDArray[Any], sites: Sites, spacing: Sequence[float], displacement: Array | None = None
) -> Array:
    """The image times 1 + sign * depth * Gaussian at every site, clipped to [0, 1]."""
    out = np.array(image, np.float32)
    reach = 4 * sites.sigma
    for place, sign in zip(sites.places, sites.signs, strict=True):
        box, axes = [], []
        for k, (p, n, step) in enumerate(zip(place, out.shape, spacing, strict=True)):
            slack = 0.0 if displacement is None else float(np.abs(displacement[k]).max())
            radius = int(np.ceil((reach + slack) / step))
            box.append(slice(max(0, p - radius), min(n, p + radius + 1)))
            axes.append((np.arange(box[-1].start, box[-1].stop) - p) * step)
        at = tuple(box)
        offsets = np.meshgrid(*axes, indexing="ij", sparse=True)
        squared: Any = 0.0
        for k, offset in enumerate(offsets):
            squared = squared + (offset if displacement is None else offset + displacement[k][at]) ** 2
        out[at] *= 1 + sign * sites.depth * np.exp(-0.5 * squared / sites.sigma**2).astype(np.float32)
    return np.clip(out, 0, 1, out=out)
