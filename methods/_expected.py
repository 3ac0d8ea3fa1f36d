"""The functional image that the structural one leads one to expect, by regression on its intensities.

The intensities of the structural image are cut into classes of equal size; every class has a mean uptake, and
what the scanner shows of that is blurred to its resolution (the regression behind partial volume correction:
Mueller-Gaertner 1992, Thomas 2011).  The resolution is unknown: the blur with the smallest error is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

# Below this, in both images, a voxel is air.
DARK = 0.02
# Standard deviations in voxels among which the resolution of the functional image is looked for.
BLURS = (0.0, 0.8, 1.1, 1.4, 1.75, 2.2, 2.8, 3.5)
# The smallest expectation that a difference is divided by, as a share of the brightest one.
FLOOR = 0.1


def blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of the last three axes; what lies outside repeats the border.

    Parameters
    ----------
    x : Tensor, shape (..., D, H, W)
    sigma : float
        In voxels; axes of one voxel are left alone.
    """
    for axis in (-1, -2, -3):
        n = x.shape[axis]
        if n == 1 or sigma <= 0:
            continue
        band = _band(n, sigma, x.device, x.dtype)
        if axis == -1:
            x = x @ band.mT
        elif axis == -2:
            x = band @ x
        else:
            x = (band @ x.flatten(-2)).view(x.shape)
    return x


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _band(n: int, sigma: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix that blurs an axis of `n` voxels."""
    reach = int(4 * sigma + 1)
    offset = torch.arange(-reach, reach + 1, dtype=torch.double)
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    place = (torch.arange(n)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, n - 1)
    band = torch.zeros(n, n, dtype=torch.double).scatter_add_(1, place, kernel.expand(n, -1))
    return band.to(device, dtype)


@dataclass(frozen=True)
class Fit:
    """Uptake of every class of structural intensity, and the resolution it is seen at.

    Attributes
    ----------
    edges : Tensor, shape (bins - 1,)
        Between the classes, of the structural image.
    level : Tensor, shape (bins,)
        Uptake of the classes.
    sigma : float
        Resolution of the functional image: standard deviation in voxels.
    """

    edges: Tensor
    level: Tensor
    sigma: float

    def sharp(self, a: Tensor, inside: Tensor) -> Tensor:
        """Uptake of every voxel's class (..., D, H, W), before the scanner blurs it; 0 outside `inside`."""
        return torch.where(inside, self.level[torch.bucketize(a.contiguous(), self.edges)], 0.0)

    def predict(self, a: Tensor, inside: Tensor) -> Tensor:
        """The expectation (..., D, H, W), 0 outside `inside`."""
        return blur(self.sharp(a, inside), self.sigma).clamp_min(0) * inside


def foreground(a: Tensor, b: Tensor) -> Tensor:
    """Where there is something in either image."""
    return torch.maximum(a, b) > DARK


def fit(
    a: Tensor,
    b: Tensor,
    bins: int = 10,
    blurs: Sequence[float] = BLURS,
    use: Tensor | None = None,
) -> Fit:
    """Least squares of the functional image on classes of the structural one.

    Parameters
    ----------
    a, b : Tensor, shape (D, H, W), in [0, 1]
        Structural and functional image.
    bins : int
        Classes of intensity: quantiles inside the foreground.
    blurs : sequence of float
        Resolutions to choose from, standard deviation in voxels.
    use : Tensor, shape (D, H, W), bool, optional
        Where the squared error counts; the foreground by default.
    """
    inside = foreground(a, b)
    values = a[inside]
    if values.numel() < 4 * bins:
        return Fit(a.new_zeros(bins - 1), a.new_zeros(bins), blurs[0])
    # Quantiles of a sample: torch sorts no more than 16 million values.
    values = values[:: max(1, values.numel() // 200_000)]
    edges = torch.quantile(values, torch.arange(1, bins, device=a.device, dtype=a.dtype) / bins)
    # The levels are found at half the resolution, where all candidates cost little.
    step = [2 if n > 1 else 1 for n in a.shape]
    label = (torch.bucketize(a.contiguous(), edges) + 1) * inside
    shares = _shares(label, bins, step)
    where = inside if use is None or int((inside & use).sum()) < 4 * bins else inside & use
    target, weight = (_pool(x, step) for x in (b * where, where.to(a.dtype)))
    seen = weight > 0.5
    if int(seen.sum()) < 4 * bins:
        seen = weight > 0
    y = (target / weight.clamp_min(1e-3))[seen].double()
    best: tuple[float, Tensor, float] | None = None
    for sigma in blurs:
        x = blur(shares, sigma / 2)[:, seen].double()
        normal = x @ x.mT
        ridge = (1e-6 * normal.diagonal().mean() + 1e-12) * torch.eye(
            bins, device=a.device, dtype=torch.double
        )
        level = torch.linalg.solve(normal + ridge, x @ y)
        error = float((level @ x - y).square().mean())
        if best is None or error < best[0]:
            best = (error, level, sigma)
    assert best is not None
    return Fit(edges, best[1].to(a.dtype), best[2])


def _pool(x: Tensor, step: list[int]) -> Tensor:
    pooled: Tensor = F.avg_pool3d(x[None], step, step, ceil_mode=True)[0]
    return pooled


def _shares(label: Tensor, bins: int, step: list[int]) -> Tensor:
    """Share of every class but the first in blocks of `step` voxels, (bins, d, h, w)."""
    size = [-(-n // s) for n, s in zip(label.shape, step, strict=True)]
    axes = [torch.arange(n, device=label.device) // s for n, s in zip(label.shape, step, strict=True)]
    block = (axes[0][:, None, None] * size[1] + axes[1][:, None]) * size[2] + axes[2]
    blocks = size[0] * size[1] * size[2]
    counts = torch.bincount((label * blocks + block).flatten(), minlength=(bins + 1) * blocks)
    counts = counts.view(bins + 1, *size).to(torch.float32)
    shares: Tensor = counts[1:] / counts.sum(0)
    return shares


def expected(a: Tensor, b: Tensor, bins: int = 10, blurs: Sequence[float] = BLURS) -> tuple[Tensor, float]:
    """The functional image that the structural one leads one to expect, and its resolution.

    Returns
    -------
    expectation : Tensor, shape (D, H, W)
        0 where there is nothing in either image.
    sigma : float
        The resolution with the smallest squared error, in voxels.
    """
    found = fit(a, b, bins, blurs)
    return found.predict(a, foreground(a, b)), found.sigma


def relative_residual(b: Tensor, expectation: Tensor, smooth: float = 0.0) -> Tensor:
    """How much more there is than expected, as a share of what is expected; 0 where nothing is.

    Numerator and denominator are smoothed alike, by `smooth` voxels.
    """
    floor = FLOOR * float(expectation.max())
    if floor <= 0:
        return torch.zeros_like(b)
    apart, level = blur(b - expectation, smooth), blur(expectation, smooth)
    return torch.where(expectation > 0, apart / level.clamp_min(floor), 0.0)
