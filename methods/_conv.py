"""Helpers of the convolutional networks: reflected borders for images of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


class ReflectConv2d(nn.Conv2d):
    """3x3 convolution with reflection padding, and replication along an axis of one pixel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        return super().forward(pad_reflect(x))


def pad_reflect(x: Tensor) -> Tensor:
    """One pixel on every side."""
    if trains_on_gpu(x):
        return _pad_by_copies(x)
    if min(x.shape[-2:]) > 1:
        return nnf.pad(x, (1, 1, 1, 1), mode="reflect")
    for axis, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        x = nnf.pad(x, pad, mode="reflect" if x.shape[axis] > 1 else "replicate")
    return x


def _pad_by_copies(x: Tensor) -> Tensor:
    """`pad_reflect`, put together from slices."""
    for axis in (-1, -2):
        last = x.shape[axis] - 1
        x = torch.cat((x.narrow(axis, min(1, last), 1), x, x.narrow(axis, max(0, last - 1), 1)), axis)
    return x


def pool3x3(x: Tensor) -> Tensor:
    """Averages (N, C, 3, 3) over the cells of a 3x3 grid, which overlap where sizes are no multiples of 3."""
    if trains_on_gpu(x):
        for axis in (-1, -2):
            size = x.shape[axis]
            cells = [(i * size // 3, -((i + 1) * size // -3)) for i in range(3)]
            x = torch.stack([x.narrow(axis, start, stop - start).mean(axis) for start, stop in cells], axis)
        return x
    return nnf.adaptive_avg_pool2d(x, 3)


def trains_on_gpu(x: Tensor) -> bool:
    """True if a gradient will be asked for on CUDA, where those of some torch layers vary between runs."""
    return x.is_cuda and x.requires_grad
