"""A faster form of SwinFuse on a CPU; what it gives is what the network gives, up to rounding.

Tokens are kept in the order of the windows, a few windows at a time go through a whole block while they are
in the cache, layer norms are folded into the layers behind them, weights are packed once for oneDNN, and
activations and residuals are applied where a product is written.  A block of one head needs two products
where it has four: queries times keys, and values times the projection, are products of weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from ._packed import PackedLinear, after_norm, double

# Tokens that go through a block together: with what is made of them they fill the second cache.
CHUNK = 16 * 49


@dataclass(frozen=True)
class Windows:
    """How the windows of one grid cut an image.

    Attributes
    ----------
    order : Tensor of int, shape (H * W,)
        Pixels in the order of the windows.
    chunks : list of (int, int, int, int)
        Start and stop of tokens, height and width of the windows there.
    """

    order: Tensor
    chunks: list[tuple[int, int, int, int]]

    @classmethod
    def of(cls, rows: list[tuple[int, int, int]], columns: list[tuple[int, int, int]]) -> Windows:
        """Windows of an image whose axes are cut into (start, stop, window size)."""
        height, width = rows[-1][1], columns[-1][1]
        index = torch.arange(height * width).view(height, width)
        parts, chunks, at = [], [], 0
        for top, bottom, h in rows:
            for left, right, w in columns:
                shape = ((bottom - top) // h, h, (right - left) // w, w)
                parts.append(index[top:bottom, left:right].reshape(shape).transpose(1, 2).reshape(-1))
                end, step = at + parts[-1].numel(), max(1, CHUNK // (h * w)) * h * w
                chunks += [(i, min(i + step, end), h, w) for i in range(at, end, step)]
                at = end
        return cls(torch.cat(parts), chunks)


class FastBlock:
    """A block on tokens in the order of its windows.

    Parameters
    ----------
    block : SwinBlock
    """

    def __init__(self, block: Any) -> None:
        self.heads, self.width = block.heads, block.project.in_features
        self.bias = block._bias().detach()
        self._masks: dict[tuple[int, int], Tensor] = {}
        (up, _, down), project = block.mlp, block.project
        self.up = PackedLinear(*after_norm(up, block.norm2), CHUNK)
        self.down = PackedLinear(double(down.weight), double(down.bias), CHUNK)
        weight, bias = after_norm(block.qkv, block.norm1)
        if self.heads > 1:
            self.qkv, self.project = (
                PackedLinear(weight, bias, CHUNK),
                PackedLinear(double(project.weight), double(project.bias), CHUNK),
            )
            return
        (q, k, v), (a, _, c) = weight.chunk(3), bias.chunk(3)
        out = double(project.weight)
        # Softmax does not see what is the same for all keys, and its weights sum to one.
        merged = torch.cat((k.T @ a, out @ c + double(project.bias)))
        self.qkv = PackedLinear(torch.cat((k.T @ q, out @ v)), merged, CHUNK)

    def __call__(self, x: Tensor, windows: Windows) -> Tensor:
        """(T, 96) to the same shape."""
        return torch.cat([self._chunk(x[start:stop], h, w) for start, stop, h, w in windows.chunks])

    def _chunk(self, x: Tensor, h: int, w: int) -> Tensor:
        count, size = len(x) // (h * w), (self.width,)
        normed = nnf.layer_norm(x, size)
        made = self.qkv(normed)
        if self.heads == 1:
            q, v = made.view(count, 1, h * w, 2, self.width).unbind(3)
            k = normed.view(count, 1, h * w, self.width)
        else:
            parts = made.view(count, h * w, 3, self.heads, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = nnf.scaled_dot_product_attention(
            q, k, v, attn_mask=self._mask(h, w), scale=(self.width // self.heads) ** -0.5
        )
        mixed = mixed.transpose(1, 2).reshape(len(x), self.width)
        x = x + mixed if self.heads == 1 else self.project.added(mixed, x)
        return self.down.added(self.up.gelu(nnf.layer_norm(x, size)), x)

    def _mask(self, h: int, w: int) -> Tensor:
        if (h, w) not in self._masks:
            cut = self.bias[:, :h, :w, :h, :w]
            self._masks[h, w] = cut.reshape(1, self.heads, h * w, h * w).contiguous()
        return self._masks[h, w]


class FastSwin:
    """The network's encoder and decoder for one image at a time.

    Parameters
    ----------
    network : SwinFuseNet
        In evaluation mode.
    cut : callable
        Cuts an axis of a length, with a shift of the grid, into (start, stop, window size).
    """

    def __init__(self, network: Any, cut: Callable[[int, int], list[tuple[int, int, int]]]) -> None:
        self.network, self.cut = network, cut
        self.stages = [
            [(FastBlock(block), block.shift) for block in list(stage)[: network.blocks_run]]
            for stage in network.stages
        ]
        self.shifts = sorted({shift for stage in self.stages for _, shift in stage})

    def grids(self, height: int, width: int) -> dict[int, Windows]:
        """The windows of every shift."""
        return {s: Windows.of(self.cut(height, s), self.cut(width, s)) for s in self.shifts}

    def encode(self, x: Tensor, grids: dict[int, Windows]) -> Tensor:
        """(H, W) to features (H * W, 96), pixels in the order of the windows of the first shift."""
        net, first = self.network, self.shifts[0]
        moves = {
            (s, t): _inverse(grids[s].order)[grids[t].order]
            for s in self.shifts
            for t in self.shifts
            if s != t
        }
        x = net.norm_embed(net.embed(x.reshape(-1, 1)[grids[first].order]))
        for stage in self.stages:
            y, at = x, first
            for block, shift in stage:
                if shift != at:
                    y, at = y[moves[at, shift]], shift
                y = block(y, grids[shift])
            x = x + (y if at == first else y[moves[at, first]])
        features: Tensor = net.norm(x)
        return features

    def decode(self, features: Tensor, grids: dict[int, Windows], shape: tuple[int, int]) -> Tensor:
        """Features to an image (H, W) in (-1, 1)."""
        image: Tensor = self.network.decode(features)
        return image[_inverse(grids[self.shifts[0]].order)].view(shape)


def _inverse(order: Tensor) -> Tensor:
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order))
    return found
