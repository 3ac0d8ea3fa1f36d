"""CDDFuse's invertible layers for details, and their form for a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._conv import pad_reflect
from ._packed import linear
from ._rows import convolve, windows

WIDTH, HALF = 64, 32


class Bottleneck(nn.Module):
    """1x1 convolution to twice the channels, 3x3 of each channel by itself, 1x1 back."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Conv2d(HALF, WIDTH, 1, bias=False)
        self.spread = nn.Conv2d(WIDTH, WIDTH, 3, groups=WIDTH, bias=False)
        self.project = nn.Conv2d(WIDTH, HALF, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, H, W) to the same shape."""
        x = self.spread(pad_reflect(nnf.relu6(self.expand(x))))
        out: Tensor = self.project(nnf.relu6(x))
        return out


class Coupling(nn.Module):
    """An invertible layer: mixed channels, of which one half moves and scales the other in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(WIDTH, WIDTH, 1)
        self.move, self.scale, self.shift = Bottleneck(), Bottleneck(), Bottleneck()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64, H, W) to the same shape."""
        first, second = self.mix(x).chunk(2, 1)
        second = second + self.move(first)
        return torch.cat((first * self.scale(second).exp() + self.shift(second), second), 1)


class FastCoupling:
    """A `Coupling` on features (H, W, 64)."""

    def __init__(self, layer: Coupling) -> None:
        self.mix = layer.mix.weight[..., 0, 0], layer.mix.bias
        self.move, scale, shift = (
            (part.expand.weight[..., 0, 0], part.spread.weight, part.project.weight[..., 0, 0])
            for part in (layer.move, layer.scale, layer.shift)
        )
        # Both take the same channels.
        self.scale_shift = (
            torch.cat((scale[0], shift[0])),
            torch.cat((scale[1], shift[1])),
            torch.block_diag(scale[2], shift[2]),  # type: ignore[no-untyped-call]
        )

    def __call__(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        first, second = torch.split(out, HALF, -1)

        def mixed(start: int, stop: int) -> Tensor:
            out[start:stop] = linear(x[start:stop], *self.mix)
            return nnf.relu6(linear(first[start:stop], self.move[0]))

        for start, stop, rows in windows(mixed, x.shape, True):
            second[start:stop] += _finish(rows, self.move)
        for start, stop, rows in windows(
            lambda i, j: nnf.relu6(linear(second[i:j], self.scale_shift[0])), x.shape, True
        ):
            scale, shift = _finish(rows, self.scale_shift).chunk(2, -1)
            first[start:stop].mul_(scale.exp()).add_(shift)
        return out


def _finish(rows: Tensor, part: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return linear(nnf.relu6(convolve(rows, part[1], len(part[1]))), part[2])
