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


class Maps:
    """Channels-last feature maps of pictures side by side, with reflected borders, filled strip by strip.

    Parameters
    ----------
    memory : Memory
    name : str
        Of the memory used.
    channels, height, width : int
        Of a picture.
    pictures : int
    """

    def __init__(
        self, memory: Memory, name: str, channels: int, height: int, width: int, pictures: int = 1
    ) -> None:
        self.height, self.width, self.pictures = height, width, pictures
        held = memory.take(name, height + 2, pictures, width + 2, channels)
        self.bordered = held.flatten(1, 2).unsqueeze(0).permute(0, 3, 1, 2)
        self._each = held.permute(1, 3, 0, 2)

    def around(self, rows: slice) -> Tensor:
        """Some rows and one more on either side, (1, C, rows + 2, all columns)."""
        return self.bordered[:, :, rows.start : rows.stop + 2]

    def inside(self, rows: slice) -> Tensor:
        """Some rows without the outermost columns: what a convolution of `around` fills."""
        return self.bordered[:, :, rows.start + 1 : rows.stop + 1, 1:-1]

    def each(self, rows: slice) -> Tensor:
        """Some rows of the pictures, (pictures, C, rows, width)."""
        return self._each[:, :, rows.start + 1 : rows.stop + 1, 1:-1]

    def reflect(self, rows: slice, channels: slice = slice(None)) -> None:
        """Renew the border around some rows."""
        maps = self._each[:, channels]
        lines = maps[:, :, rows.start + 1 : rows.stop + 1]
        lines[..., 0] = lines[..., min(2, self.width)]
        lines[..., -1] = lines[..., max(self.width - 1, 1)]
        if rows.start == 0:
            maps[:, :, 0] = maps[:, :, min(2, self.height)]
        if rows.stop == self.height:
            maps[:, :, -1] = maps[:, :, max(self.height - 1, 1)]
