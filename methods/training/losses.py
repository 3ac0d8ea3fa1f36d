"""Losses and similarities that several recipes share, 2D and 3D.

All take images (B, C, *space) with 2 or 3 axes of space, compute in float32 whatever the autocast, and return
one number per image, shape (B,); a recipe weighs and averages them.  Separable windows are applied as banded
matrices, one product per axis: which on a CPU is much faster than convolutions of one channel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import ParamSpec

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fusebench.errors import InputError

P = ParamSpec("P")

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def _float32(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Compute in float32 under autocast too: variances as differences of squares need it."""

    @functools.wraps(function)
    def full(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(a.device.type for a in args if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            cast = [a.float() if isinstance(a, Tensor) and a.dtype != torch.float64 else a for a in args]
            return function(*cast, **kwargs)  # type: ignore[arg-type]

    return full


@_float32
def l1(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference, inside `mask` (B, 1, *space) if given."""
    return _mean((x - y).abs(), mask)


@_float32
def mse(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean squared difference."""
    return _mean((x - y) ** 2, mask)


@_float32
def ssim(x: Tensor, y: Tensor, mask: Tensor | None = None, *, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity (Wang et al., 2004): Gaussian window, valid region, intensities in [0, 1]."""
    full, _ = _ssim_maps(x, y, window, sigma)
    return _mean(full, None if mask is None else _centre(mask, full.shape[2:]))


@_float32
def ms_ssim(
    x: Tensor, y: Tensor, *, weights: Sequence[float] = MS_SSIM_WEIGHTS, window: int = 11, sigma: float = 1.5
) -> Tensor:
    """Multi-scale SSIM (Wang et al., 2003); each scale halves by average pooling."""
    need = (window - 1) * 2 ** (len(weights) - 1) + 1
    if min(x.shape[2:]) < need:
        raise InputError(f"MS-SSIM with {len(weights)} scales needs crops of at least {need} per axis")
    pool = nnf.avg_pool2d if x.ndim == 4 else nnf.avg_pool3d
    out = torch.ones(x.shape[0], device=x.device, dtype=x.dtype)
    for i, weight in enumerate(weights):
        full, contrast = _ssim_maps(x, y, window, sigma)
        # A negative value has no real power; the field clips it.
        out = out * _mean(full if i == len(weights) - 1 else contrast, None).clamp_min(1e-6) ** weight
        if i < len(weights) - 1:
            x, y = pool(x, 2), pool(y, 2)
    return out


@_float32
def lncc(x: Tensor, y: Tensor, mask: Tensor | None = None, *, window: int = 3, floor: float = 1e-5) -> Tensor:
    """Squared local normalised cross-correlation in a box, zeros outside, in [0, 1].

    Parameters
    ----------
    floor : float
        Least variance, summed over the window's voxels: below it a window counts as flat.
    """
    n = window ** (x.ndim - 2)
    sx, sy, sxx, syy, sxy = _box(torch.stack([x, y, x * x, y * y, x * y]), window)
    cross = sxy - sx * sy / n
    vx = (sxx - sx * sx / n).clamp_min(floor)
    vy = (syy - sy * sy / n).clamp_min(floor)
    return _mean(cross * cross / (vx * vy), mask)


@_float32
def gradient(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the forward differences, averaged over the axes."""
    parts = [
        _mean((p - q).abs(), _shrink(mask, i))
        for i, (p, q) in enumerate(zip(_steps(x), _steps(y), strict=True))
    ]
    return torch.stack(parts).mean(0)


@_float32
def max_gradient(fused: Tensor, a: Tensor, b: Tensor, mask: Tensor | None = None) -> Tensor:
    """Difference of the fused image's forward differences from the stronger source's, sign kept."""
    parts = [
        _mean((f - torch.where(p.abs() >= q.abs(), p, q)).abs(), _shrink(mask, i))
        for i, (f, p, q) in enumerate(zip(_steps(fused), _steps(a), _steps(b), strict=True))
    ]
    return torch.stack(parts).mean(0)


@_float32
def rmi(x: Tensor, y: Tensor, *, radius: int = 3, stride: int = 3, eps: float = 5e-4) -> Tensor:
    """Region mutual information as a loss, 2D (Zhao et al., NeurIPS 2019): lower is more information.

    Half the log-determinant of the covariance of `y`'s neighbourhoods given `x`'s, per neighbour, after max
    pooling by `stride`; Gaussian bound, double precision.
    """
    if x.ndim != 4:
        raise InputError(
            f"region mutual information is defined for slices (B, C, H, W), got {tuple(x.shape)}"
        )

    def neighbourhoods(image: Tensor) -> Tensor:
        small = nnf.max_pool2d(image.double(), stride, stride) if stride > 1 else image.double()
        flat = nnf.unfold(small.flatten(0, 1)[:, None], radius)  # (B*C, radius^2, N)
        return flat - flat.mean(-1, keepdim=True)

    u, v = neighbourhoods(x), neighbourhoods(y)
    n, ridge = u.shape[-1], eps * torch.eye(radius**2, device=x.device, dtype=torch.double)
    uu, vv, vu = u @ u.mT / n + ridge, v @ v.mT / n + ridge, v @ u.mT / n
    given = vv - vu @ torch.linalg.solve(uu, vu.mT)
    half_logdet: Tensor = torch.linalg.cholesky(given).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return (half_logdet / radius**2).view(x.shape[:2]).mean(1).float()


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean per image, weighted by `mask`; 0 for an empty mask."""
    if mask is None:
        return values.flatten(1).mean(1)
    weight = mask.to(values.dtype).expand_as(values).flatten(1)
    return (values.flatten(1) * weight).sum(1) / weight.sum(1).clamp_min(1)


def _ssim_maps(x: Tensor, y: Tensor, window: int, sigma: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part, valid region."""
    if min(x.shape[2:]) < window:
        raise InputError(
            f"SSIM with a window of {window} needs images of at least that size, got {tuple(x.shape)}"
        )
    c1, c2 = 0.01**2, 0.03**2
    mx, my, xx, yy, xy = _gauss(torch.stack([x, y, x * x, y * y, x * y]), window, sigma)
    contrast = (2 * (xy - mx * my) + c2) / ((xx - mx * mx) + (yy - my * my) + c2)
    return (2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast, contrast


def _gauss(x: Tensor, window: int, sigma: float) -> Tensor:
    offset = torch.arange(window, dtype=torch.double) - (window - 1) / 2
    kernel = torch.exp(-(offset**2) / (2 * sigma**2))
    return _separable(x, tuple((kernel / kernel.sum()).tolist()), same=False)


def _box(x: Tensor, window: int) -> Tensor:
    return _separable(x, (1.0,) * window, same=True)


def _separable(x: Tensor, kernel: tuple[float, ...], *, same: bool) -> Tensor:
    """Correlate (K, B, C, *space) with a separable kernel along every axis of space."""
    for axis in range(3, x.ndim):
        band = _band(x.shape[axis], kernel, same, x.device, x.dtype)
        if axis == x.ndim - 1:
            x = x @ band.mT
        else:
            columns = x.flatten(axis + 1)
            x = (band @ columns).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
    return x


@functools.lru_cache(maxsize=64)
def _band(n: int, kernel: tuple[float, ...], same: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix that correlates an axis of `n` with `kernel`: valid, or of equal size with zeros outside."""
    k = len(kernel)
    out = torch.zeros(n if same else n - k + 1, n, dtype=torch.double)
    for i in range(out.shape[0]):
        for j, value in enumerate(kernel):
            column = i + j - (k // 2 if same else 0)
            if 0 <= column < n:
                out[i, column] = value
    return out.to(device, dtype)


def _steps(x: Tensor) -> list[Tensor]:
    return [x.diff(dim=axis) for axis in range(2, x.ndim)]


def _shrink(mask: Tensor | None, i: int) -> Tensor | None:
    """`mask` for the forward differences along space axis `i`: both ends inside."""
    if mask is None:
        return None
    n = mask.shape[2 + i] - 1
    return mask.narrow(2 + i, 0, n) * mask.narrow(2 + i, 1, n)


def _centre(mask: Tensor, size: Sequence[int]) -> Tensor:
    """The central part of `mask`, of `size`."""
    for axis, n in enumerate(size, start=2):
        mask = mask.narrow(axis, (mask.shape[axis] - n) // 2, n)
    return mask
