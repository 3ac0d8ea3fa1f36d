"""3x3 convolutions at a quarter of the multiplications, on a CPU, all layers of a network together.

Winograd's F(4x4, 3x3): 4x4 outputs come from 36 products instead of 144.  Each of the 36 is one matrix
product over tiles and channels, and so are the transforms before and after.  The rounding error is
about ten times that of the direct way.  Lavin & Gray, Fast Algorithms for Convolutional Neural Networks,
CVPR 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

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
# The one of the 36 sums of a tile that its output transform spreads over all pixels: a bias goes there.
_ONES = 7
# Rows of tiles of feature maps that are kept in memory; the next layer needs two.
_KEPT = 4

Layer = tuple[Tensor, Tensor]  # transformed kernels (36, outputs, inputs), bias


def transform_layer(layer: nn.Module) -> Layer:
    """A 3x3 convolution, as `Cascade` wants it."""
    weight, bias = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
    kernels = _twice(_KERNEL) @ weight.double().flatten(2).permute(2, 0, 1).flatten(1)
    return kernels.view(36, *weight.shape[:2]).float(), bias


@dataclass
class Maps:
    """Feature maps; only the last `kept` rows of tiles are in memory.

    Row y of the pictures is line ``y % (4 * kept) + 1``; the line before the first and the one after the
    last hold the border, or a copy of the row there.  A line is (4, channels * pictures * tiles): column x
    is number ``x // 4`` of phase ``x % 4``, so that all work is on long runs of memory.
    """

    lines: Tensor
    channels: int
    pictures: int
    lag: int  # rows of tiles behind the first layer

    @property
    def kept(self) -> int:
        return (len(self.lines) - 2) // 4


@dataclass
class Sums:
    """Transformed input, which kernels multiply: 36 sums of each tile, of the last few rows of tiles."""

    rows: list[Tensor]  # each (36, channels, pictures * tiles)
    pictures: int
    lag: int


class Cascade:
    """Convolutions of pictures of one size, where all layers advance together, a row of tiles at a time.

    What a layer gives is still in the processor's cache when the next one takes it.  A layer lags a row of
    tiles behind the one before, because it needs the pixels below.  The methods only put down what is to be
    done for a row of tiles; `finish` does it for all.

    Parameters
    ----------
    size : (int, int)
        Height and width of the pictures.
    slope : float
        Of the leaky ReLU after every layer; 0 is ReLU, 1 is none.
    reflect : bool
        Reflected borders, else zeros.
    memory : Memory
    """

    def __init__(self, size: Sequence[int], slope: float, reflect: bool, memory: Memory) -> None:
        self.height, self.width = size
        self.rows, self.columns = (-(-length // 4) for length in size)  # of tiles
        self.slope, self.reflect, self.memory = slope, reflect, memory
        self._steps: list[tuple[int, Callable[[int], object]]] = []
        self._input, self._output = torch.tensor(_INPUT).float(), _twice(_OUTPUT).float()

    def load(self, x: Tensor, kept: int = 1) -> Sums:
        """Pictures (C, pictures, H, W), of which the sums of the last `kept` rows stay for `add`."""
        channels, pictures = x.shape[:2]
        maps = self._maps(channels, pictures, self.rows, -1)
        whole = nnf.pad(x, (0, 4 * self.columns - self.width, 0, 4 * self.rows - self.height))
        self._pixels(maps).copy_(whole.view(channels, pictures, self.rows, 4, self.columns, 4))
        for row in {0, self.rows - 1}:
            self._border(maps, row)
        return self._transform(maps, self._sums(channels, pictures, kept, 0))

    def add(self, sums: Sums, more: Sums) -> Sums:
        """Add `more`, loaded with one row kept for each layer since, and one, to `sums`."""

        def step(row: int) -> None:
            sums.rows[row % len(sums.rows)].add_(more.rows[row % len(more.rows)])

        self._steps.append((sums.lag, step))
        return sums

    def dense(self, sums: Sums, layers: Sequence[Layer]) -> Sums:
        """Dense layers: each takes the maps of all layers before it; returns the maps of all."""
        width = len(layers[0][1])
        # Each layer lags one row of tiles behind the one before it.
        grown = self._sums(width * len(layers), sums.pictures, len(layers), 0)
        for i, (kernels, bias) in enumerate(layers):
            maps = self._convolve(sums, kernels, bias)
            new = slice(width * i, width * (i + 1))
            lag = self._transform(maps, Sums([row[:, new] for row in grown.rows], sums.pictures, 0)).lag
            sums = Sums([row[:, : new.stop] for row in grown.rows], sums.pictures, lag)
        return sums

    def mean(self, sums: Sums) -> Sums:
        """The mean of two pictures; the sums are linear in the features."""
        mean = self._sums(sums.rows[0].shape[1], 1, 1, sums.lag)
        pairs = [torch.split(row, self.columns, -1) for row in sums.rows]

        def step(row: int) -> None:
            first, second = pairs[row % len(pairs)]
            torch.lerp(first, second, 0.5, out=mean.rows[0])

        self._steps.append((sums.lag, step))
        return mean

    def convolve(self, sums: Sums, layer: Layer) -> Sums:
        """A layer."""
        return self._transform(self._convolve(sums, *layer))

    def finish(self, sums: Sums, layers: Sequence[Layer]) -> Tensor:
        """Layers, the last without ReLU; do it all, and return what it gives, (C, pictures, H, W)."""
        for layer in layers[:-1]:
            sums = self.convolve(sums, layer)
        maps = self._convolve(sums, *layers[-1], last=True)
        for time in range(self.rows + maps.lag):
            for lag, step in self._steps:
                if 0 <= time - lag < self.rows:
                    step(time - lag)
        self._steps.clear()  # they hold this object, so that only the garbage collector would end it
        whole = self._pixels(maps).clone(memory_format=torch.contiguous_format)
        return whole.flatten(4, 5).flatten(2, 3)[..., : self.height, : self.width]

    def _transform(self, maps: Maps, out: Sums | None = None) -> Sums:
        size, lag = maps.lines.shape[-1], maps.lag + 1
        out = out or self._sums(maps.channels, maps.pictures, 1, 0)
        into = [row.view(6, 6, -1) for row in out.rows]
        windows = maps.lines.as_strided((maps.kept, 6, 4 * size), (16 * size, 4 * size, 1)).unbind()
        # Columns 0 to 3 of every tile, which is what lines hold, then 4 and -1 (also as an index).
        # These are a neighbour's 0 and 3, one number after and one before, except at the border.
        columns = self.memory.take("columns", 6, 6, size)
        own, others = columns.flatten(1)[:, : 4 * size], columns[:, 4:]
        neighbours = columns.as_strided((6, 2, size), (6 * size, 3 * size - 2, 1), 1)
        each = columns.view(6, 6, -1, self.columns)
        end = (self.width - 1) % 4 + 1
        back = min(2, self.width)
        first, last = each[:, 5, :, 0], each[:, end, :, -1]
        zero = torch.zeros(())
        left, right = (each[:, back - 1, :, 0], each[:, end - back, :, -1]) if self.reflect else (zero, zero)
        vertical, kept = self._input, maps.kept
        horizontal = self._input.roll(-1, 1).expand(6, 6, 6)

        def step(row: int) -> None:
            torch.mm(vertical, windows[row % kept], out=own)
            others.copy_(neighbours)
            first.copy_(left)
            last.copy_(right)
            torch.bmm(horizontal, columns, out=into[row % len(into)])

        self._steps.append((lag, step))
        return Sums(out.rows, maps.pictures, lag)

    def _convolve(self, sums: Sums, kernels: Tensor, bias: Tensor, last: bool = False) -> Maps:
        outputs = len(bias)
        maps = self._maps(outputs, sums.pictures, self.rows if last else min(self.rows, _KEPT), sums.lag)
        lines, kept = maps.lines, maps.kept
        products = self.memory.take("products", 36, outputs, sums.pictures * self.columns)
        ones, flat, bias = products[_ONES], products.flatten(1), bias[:, None]
        tiles = lines[1:-1].view(kept, 16, -1).unbind()

        def step(row: int) -> None:
            torch.bmm(kernels, sums.rows[row % len(sums.rows)], out=products)
            ones.add_(bias)
            tile = tiles[row % kept]
            torch.mm(self._output, flat, out=tile)
            if not last and self.slope != 1:
                nnf.leaky_relu_(tile, self.slope)
            if row and row % kept == 0:  # begin again: the first lines follow the last ones
                lines[0] = lines[4 * kept]
                lines[4 * kept + 1] = lines[1]
            self._border(maps, row)

        self._steps.append((sums.lag, step))
        return maps

    def _border(self, maps: Maps, row: int) -> None:
        """Renew the lines above the first row of tiles and below the last one."""
        lines, back = maps.lines, min(2, self.height)
        if row == 0:
            lines[0] = lines[back] if self.reflect else 0
        if row == self.rows - 1:
            first = 4 * (row % maps.kept)
            end = first + (self.height - 1) % 4 + 2
            lines[first + 5] = 0  # read, and never written where it is below the border
            lines[end] = lines[end - back] if self.reflect else 0

    def _pixels(self, maps: Maps) -> Tensor:
        """View of maps as (channels, pictures, rows, 4, columns, 4)."""
        shape = (maps.kept, 4, 4, maps.channels, maps.pictures, self.columns)
        return maps.lines[1:-1].view(shape).permute(3, 4, 0, 1, 5, 2)

    def _maps(self, channels: int, pictures: int, kept: int, lag: int) -> Maps:
        size = channels * pictures * self.columns
        lines = self.memory.take(f"maps {len(self._steps)}", 4 * kept + 2, 4, size)
        return Maps(lines, channels, pictures, lag)

    def _sums(self, channels: int, pictures: int, kept: int, lag: int) -> Sums:
        name = f"sums {len(self._steps)}"
        rows = self.memory.take(name, kept, 36, channels, pictures * self.columns)
        return Sums(list(rows.unbind()), pictures, lag)


def _twice(matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """A transform along both axes."""
    one = torch.tensor(matrix, dtype=torch.double)
    return torch.kron(one, one)
