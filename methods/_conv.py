"""What the convolutional networks share: reflected borders for images of any size, memory that is kept."""

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
    if min(x.shape[-2:]) > 1:
        return nnf.pad(x, (1, 1, 1, 1), mode="reflect")
    for axis, pad in ((-1, (1, 1, 0, 0)), (-2, (0, 0, 1, 1))):
        x = nnf.pad(x, pad, mode="reflect" if x.shape[axis] > 1 else "replicate")
    return x


class Memory:
    """Uninitialised memory kept between calls: on a CPU, fresh pages cost as much as the arithmetic."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A tensor that shares its memory with whatever was last taken by this name."""
        size = torch.Size(shape).numel()
        if name not in self._held or self._held[name].numel() < size:
            self._held[name] = torch.empty(size)
        return self._held[name][:size].view(shape)
