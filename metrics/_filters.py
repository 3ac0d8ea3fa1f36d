"""Separable filters as banded matrix products, and Gaussian moments of a triple."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# Outputs per block: a band of 64 columns keeps the product small next to the kernel and BLAS efficient.
_BLOCK = 64


@lru_cache(maxsize=64)
def gaussian(sigma: float, size: int) -> tuple[float, ...]:
    """Weights of a Gaussian of `size` taps that sum to 1."""
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    w = torch.exp(-(x**2) / (2 * sigma**2))
    return tuple((w / w.sum()).tolist())


@lru_cache(maxsize=64)
def _band(kernel: tuple[float, ...], count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix ``(count + taps - 1, count)`` that correlates a row with `kernel`."""
    band = torch.zeros(count + len(kernel) - 1, count, dtype=dtype)
    columns = torch.arange(count)
    for i, weight in enumerate(kernel):
        band[columns + i, columns] = weight
    return band.to(device)


def correlate(x: Tensor, kernel: Sequence[float], axis: int) -> Tensor:
    """Correlate along one axis, valid part only: the axis shrinks by ``len(kernel) - 1``."""
    taps = len(kernel)
    if taps == 1:
        return x if kernel[0] == 1.0 else x * kernel[0]
    axis %= x.ndim
    shape = list(x.shape)
    n = shape[axis]
    shape[axis] = m = n - taps + 1
    out = x.new_empty(shape)
    last = axis == x.ndim - 1
    rows = x.reshape(-1, n) if last else x.reshape(-1, n, x[(0,) * (axis + 1)].numel())
    into = out.view(-1, m) if last else out.view(-1, m, rows.shape[2])
    for i in range(0, m, _BLOCK):
        j = min(m, i + _BLOCK)
        band = _band(tuple(kernel), j - i, x.dtype, x.device)
        if last:
            torch.mm(rows[:, i : j + taps - 1], band, out=into[:, i:j])
        elif len(rows) == 1:
            torch.mm(band.T, rows[0, i : j + taps - 1], out=into[0, i:j])
        else:
            torch.bmm(band.T.expand(len(rows), -1, -1), rows[:, i : j + taps - 1], out=into[:, i:j])
    return out


def separable(x: Tensor, kernels: Sequence[Sequence[float]]) -> Tensor:
    """Correlate along the last ``len(kernels)`` axes, one kernel each, valid part only."""
    # The last axis first: what it drops, the others need not filter.
    for k in range(len(kernels)):
        x = correlate(x, kernels[-1 - k], -1 - k)
    return x
