"""Helpers of the classical methods: the way to NumPy and back, and the axes that can be filtered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.floating[Any]]


def with_numpy(rule: Callable[[Array, Array], Array], a: Tensor, b: Tensor) -> Tensor:
    """Apply `rule` to both images as NumPy arrays; the result clipped to [0, 1], on the device of `a`.

    The arrays share memory with CPU tensors: a rule must not write into them.
    """
    fused = rule(a.detach().cpu().numpy(), b.detach().cpu().numpy())
    return torch.from_numpy(np.clip(fused, 0, 1).astype(np.float32)).to(a.device)


def wavelet_axes(shape: Sequence[int], levels: int, max_level: Callable[[int], int]) -> tuple[list[int], int]:
    """Axes long enough for one level at least, and the levels that all of them allow (at most `levels`)."""
    depth = {axis: max_level(n) for axis, n in enumerate(shape)}
    axes = [axis for axis, n in depth.items() if n >= 1]
    return axes, min([levels, *(depth[axis] for axis in axes)]) if axes else 0


def larger(a: Array, b: Array) -> Array:
    """Of each pair of coefficients the one of larger magnitude."""
    chosen: Array = np.where(np.abs(a) >= np.abs(b), a, b)
    return chosen
