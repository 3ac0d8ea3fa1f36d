"""What the structural image leads one to expect of the functional one, by regression on its intensities.

The intensities of the structural image are cut into classes of equal size; every class has a mean uptake, and
what the scanner shows of that is blurred to its resolution (the regression behind partial volume correction:
Mueller-Gaertner 1992, Thomas 2011).  The resolution is unknown: the blur with the smallest error is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def classes(a: Tensor, inside: Tensor, bins: int) -> Tensor:
    """Class 0 (air) or 1..`bins` of every voxel: quantiles of the structural image inside `inside`."""
    values = a[inside]
    # Quantiles of a sample: torch sorts no more than 16 million values.
    values = values[:: max(1, values.numel() // 200_000)]
    edges = torch.quantile(values, torch.arange(1, bins, device=a.device, dtype=a.dtype) / bins)
    return (torch.bucketize(a, edges) + 1) * inside


def expected(a: Tensor, b: Tensor, bins: int = 10, blurs: Sequence[float] = BLURS) -> tuple[Tensor, float]:
    """The functional image that the structural one leads one to expect, and its resolution.

    Parameters
    ----------
    a, b : Tensor, shape (D, H, W), in [0, 1]
        Structural and functional image.
    bins : int
        Classes of intensity.
    blurs : sequence of float
        Resolutions to choose from, standard deviation in voxels.

    Returns
    -------
    expectation : Tensor, shape (D, H, W)
        0 where there is nothing in either image to learn from.
    sigma : float
        The resolution with the smallest squared error, in voxels.
    """
    inside = torch.maximum(a, b) > DARK
    if int(inside.sum()) < 4 * bins:
        return torch.zeros_like(b), blurs[0]
    label = classes(a, inside, bins)
    # The weights of the classes are found at half the resolution, where all candidates cost little.
    step = [2 if n > 1 else 1 for n in a.shape]
    one_hot = F.one_hot(label, bins + 1).movedim(-1, 0)[1:].to(a.dtype)
    coarse, target, use = (
        F.avg_pool3d(x[None], step, step, ceil_mode=True)[0]
        for x in (one_hot, b[None], inside[None].to(a.dtype))
    )
    best: tuple[float, Tensor, float] | None = None
    y = target[0][use[0] > 0.5].double()
    for sigma in blurs:
        x = blur(coarse, sigma / 2)[:, use[0] > 0.5].double()
        normal = x @ x.mT
        ridge = 1e-6 * normal.diagonal().mean() * torch.eye(bins, device=a.device, dtype=torch.double)
        weight = torch.linalg.solve(normal + ridge, x @ y)
        error = float((weight @ x - y).square().mean())
        if best is None or error < best[0]:
            best = (error, weight, sigma)
    assert best is not None
    _, weight, sigma = best
    level = torch.cat([weight.new_zeros(1), weight]).to(a.dtype)[label]
    return blur(level, sigma).clamp_min(0) * inside, sigma


def relative_residual(b: Tensor, expectation: Tensor, smooth: float = 0.0) -> Tensor:
    """How much more there is than expected, as a share of what is expected; 0 where nothing is.

    Numerator and denominator are smoothed alike, by `smooth` voxels.
    """
    floor = FLOOR * float(expectation.max())
    if floor <= 0:
        return torch.zeros_like(b)
    apart, level = blur(b - expectation, smooth), blur(expectation, smooth)
    return torch.where(expectation > 0, apart / level.clamp_min(floor), 0.0)
