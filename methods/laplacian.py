"""Laplacian pyramid fusion."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo


def _pad(x: Tensor, axis: int) -> Tensor:
    """Repeat the outermost voxel twice at both ends."""
    first, last = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat([first, first, x, last, last], dim=axis)


def reduce(x: Tensor) -> Tensor:
    """Binomial low-pass (1 4 6 4 1) and every second voxel, on each axis longer than 1."""
    for axis in range(x.ndim):
        n = x.shape[axis]
        if n == 1:
            continue
        padded = _pad(x, axis)
        keep = torch.arange(0, n, 2, device=x.device)
        tap = [padded.index_select(axis, keep + k) for k in range(5)]
        x = (6 * tap[2] + 4 * (tap[1] + tap[3]) + tap[0] + tap[4]) / 16
    return x


def expand(x: Tensor, shape: torch.Size) -> Tensor:
    """Interpolate to `shape` with the same binomial kernel."""
    for axis in range(x.ndim):
        if shape[axis] == 1:
            continue
        padded, n = _pad(x, axis), x.shape[axis]
        left, middle, right = (padded.narrow(axis, k, n) for k in (1, 2, 3))
        even, odd = (left + 6 * middle + right) / 8, (middle + right) / 2
        x = torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1).narrow(axis, 0, shape[axis])
    return x


def pyramid(x: Tensor, levels: int) -> list[Tensor]:
    """Band-pass levels from fine to coarse, and the low-pass rest."""
    bands = []
    for _ in range(levels):
        if max(x.shape) == 1:
            break
        low = reduce(x)
        bands.append(x - expand(low, x.shape))
        x = low
    return [*bands, x]


def collapse(bands: list[Tensor]) -> Tensor:
    """Inverse of `pyramid`, exact up to rounding."""
    x = bands[-1]
    for band in reversed(bands[:-1]):
        x = band + expand(x, band.shape)
    return x


class Laplacian(Method):
    """Larger magnitude in each band, mean of the low-pass rest.

    Parameters
    ----------
    levels : int
        Band-pass levels; fewer where the volume is reduced to one voxel before.
    """

    info = MethodInfo(
        name="laplacian",
        summary="Laplacian pyramid, larger magnitude per band, mean of the base",
        paper="Burt and Adelson, The Laplacian pyramid as a compact image code, "
        "IEEE Transactions on Communications 31(4), 1983",
        cost=0.03,
    )

    def __init__(self, levels: int = 4) -> None:
        if levels < 1:
            raise InputError(f"laplacian: levels={levels} is less than 1")
        self.levels = levels

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        *fine_a, base_a = pyramid(a, self.levels)
        *fine_b, base_b = pyramid(b, self.levels)
        bands = [torch.where(p.abs() >= q.abs(), p, q) for p, q in zip(fine_a, fine_b, strict=True)]
        return collapse([*bands, (base_a + base_b) / 2]).clamp(0, 1)
