"""3x3 convolutions at a quarter of the multiplications, for wide layers on a CPU.

Winograd's F(4x4, 3x3): 4x4 outputs come from 36 products instead of 144.  Each of the 36 is one matrix
product over all tiles and channels, and so are the transforms before and after.  The rounding error is
about ten times that of the direct way.  Lavin & Gray, Fast Algorithms for Convolutional Neural Networks,
CVPR 2016.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ._conv import Memory

_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def transform_kernel(weight: Tensor) -> Tensor:
    """(outputs, inputs, 3, 3) to (36, outputs, inputs)."""
    products = _twice(_KERNEL).double() @ weight.double().flatten(2).permute(2, 0, 1).flatten(1)
    return products.view(36, *weight.shape[:2]).to(weight.dtype)


class Tiles:
    """Feature maps of one picture, cut into tiles of 4x4 pixels, and convolutions of them.

    Maps have a border of one pixel and lie by phase, shape (4, 4, channels * tiles): pixel (y, x) of the
    bordered map is number ``(y // 4, x // 4)`` of phase ``(y % 4, x % 4)``.  So the tile below, or to the
    right, is at a fixed distance, and all work is on long runs of memory.  The last tiles of a row and of a
    column give nothing but rubbish, which the border overwrites.

    Parameters
    ----------
    reflect : bool
        Reflected borders, else zeros.
    """

    def __init__(self, reflect: bool) -> None:
        self.reflect = reflect
        self.height, self.width = 0, 0
        # Tiles in a column; tiles in a row, so the distance to the one below; room for a channel's tiles.
        self.rows, self.below, self.count = 0, 0, 0
        self.memory = Memory()
        self._input, self._output = _twice(_INPUT), _twice(_OUTPUT)

    def load(self, x: Tensor) -> Tensor:
        """Maps of a picture (C, H, W), whose size holds from here on."""
        c, self.height, self.width = x.shape
        self.rows, self.below = ((length + 1) // 4 + 1 for length in x.shape[1:])
        self.count = -(-self.rows * self.below // 16) * 16  # whole cache lines
        maps = self._maps("picture", c).zero_()
        whole = x.new_zeros(c, 4 * self.rows, 4 * self.below)
        whole[:, 1 : self.height + 1, 1 : self.width + 1] = x
        self._by_tile(maps).copy_(whole.view(c, self.rows, 4, self.below, 4).permute(2, 4, 0, 1, 3))
        self._border(maps)
        return maps

    def store(self, maps: Tensor) -> Tensor:
        """The picture (C, H, W) of maps."""
        whole = self._by_tile(maps).permute(2, 3, 0, 4, 1).reshape(-1, 4 * self.rows, 4 * self.below)
        return whole[:, 1 : self.height + 1, 1 : self.width + 1]

    def transform(self, maps: Tensor, out: Tensor) -> None:
        """Maps of C channels to the 36 sums of their tiles, `out` (36, C, tiles), which may be a slice."""
        total = maps.shape[-1] - self.below - 1
        step = self.count * max(1, 16384 // self.count)  # stays in the processor's cache
        out = out.flatten(1)
        for start in range(0, total, step):
            stop = min(start + step, total)
            patch = self.memory.take("patch", 6, 6, stop - start)
            for i, down in ((slice(0, 4), 0), (slice(4, 6), self.below)):
                for j, right in ((slice(0, 4), 0), (slice(4, 6), 1)):
                    phases = maps[: i.stop - i.start, : j.stop - j.start]
                    patch[i, j] = phases[..., start + down + right : stop + down + right]
            torch.mm(self._input, patch.view(36, -1), out=out[:, start:stop])

    def convolve(self, sums: Tensor, kernels: Tensor, bias: Tensor, slope: float) -> Tensor:
        """Convolve sums (36, C, tiles); maps after bias and leaky ReLU."""
        outputs = kernels.shape[1]
        products = self.memory.take("products", 36, outputs, self.count)
        torch.bmm(kernels, sums, out=products)
        maps = self._maps("maps", outputs)
        step = max(1, 16384 // self.count)
        for first in range(0, outputs, step):
            few = products[:, first : first + step].flatten(1)
            tile = self.memory.take("tile", 16, few.shape[1])
            torch.mm(self._output, few, out=tile)
            nnf.leaky_relu_(tile.view(16, -1, self.count).add_(bias[first : first + step, None]), slope)
            pixels = tile.view(4, 4, -1)
            start = first * self.count
            # Pixel y of a tile is pixel y + 1 of the bordered maps.
            for i, into, down in ((slice(0, 3), slice(1, 4), 0), (slice(3, 4), slice(0, 1), self.below)):
                for j, to, right in ((slice(0, 3), slice(1, 4), 0), (slice(3, 4), slice(0, 1), 1)):
                    at = start + down + right
                    maps[into, to, at : at + few.shape[1]] = pixels[i, j]
        self._border(maps)
        return maps

    def _maps(self, name: str, channels: int) -> Tensor:
        maps = self.memory.take(name, 4, 4, channels * self.count + self.below + 1)
        maps[..., channels * self.count :] = 0
        return maps

    def _by_tile(self, maps: Tensor) -> Tensor:
        """View of maps as (4, 4, channels, rows, columns)."""
        held = maps[..., : maps.shape[-1] - self.below - 1].view(4, 4, -1, self.count)
        return held[..., : self.rows * self.below].view(4, 4, -1, self.rows, self.below)

    def _border(self, maps: Tensor) -> None:
        tiles = self._by_tile(maps)
        rows, columns = tiles.permute(0, 3, 1, 2, 4), tiles.permute(1, 4, 0, 2, 3)
        for lines, last in ((rows, self.height), (columns, self.width)):
            for at, source in ((0, min(2, last)), (last + 1, max(last - 1, 1))):
                lines[at % 4, at // 4] = lines[source % 4, source // 4] if self.reflect else 0


def _twice(matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """A transform along both axes."""
    one = torch.tensor(matrix, dtype=torch.double)
    return torch.kron(one, one).float()
