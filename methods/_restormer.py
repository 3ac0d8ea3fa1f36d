"""Restormer's transformer block, attention between channels, which CDDFuse and EMMA are made of.

`FastBlock` is the same block for one image on a CPU: rows by rows, so that what a layer gives is still in
the processor's cache when the next one takes it, with layers that have nothing between them multiplied out.
Zamir et al., Restormer: Efficient Transformer for High-Resolution Image Restoration, CVPR 2022.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._conv import pad_reflect
from ._packed import linear
from ._rows import convolve, windows

HEADS = 8
# Pixels that are summed up in one product.
_PIXELS = 4096


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ChannelAttention(nn.Module):
    """Attention of channels to channels, over all pixels of an image.

    Parameters
    ----------
    width : int
    depthwise : bool
        The 3x3 convolution that makes queries, keys and values takes one channel each, else all of them.
    """

    def __init__(self, width: int, depthwise: bool) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(HEADS, 1, 1))
        self.expand = nn.Conv2d(width, 3 * width, 1, bias=False)
        groups = 3 * width if depthwise else 1
        self.spread = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=groups, bias=False)
        self.project = nn.Conv2d(width, width, 1, bias=False)

    def merged(self) -> Tensor | None:
        """The layers that make queries, keys and values as one kernel; None where that is more work."""
        return None if self.spread.groups > 1 else merge(self.expand, self.spread)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        n, c, h, w = x.shape
        kernel = self.merged()
        qkv = self.spread(self.expand(x)) if kernel is None else nnf.conv2d(x, kernel, padding=1)
        q, k, v = qkv.view(n, 3, HEADS, c // HEADS, h * w).unbind(1)
        # In one go over all pixels, products and torch's norm lose three digits.
        parts = zip(q.split(_PIXELS, -1), k.split(_PIXELS, -1), strict=True)
        scores = torch.stack([i @ j.mT for i, j in parts]).sum(0) * self.temperature
        lengths = [x.square().sum(-1).clamp_min(1e-24).rsqrt() for x in (q, k)]
        scores = scores * lengths[0][..., None] * lengths[1][..., None, :]
        out: Tensor = self.project((scores.softmax(-1) @ v).view(n, c, h, w))
        return out


class GatedMlp(nn.Module):
    """1x1, 3x3 and 1x1 convolution, where one half of the channels gates the other.

    Parameters
    ----------
    width, hidden : int
    pairs : bool
        The 3x3 convolution takes channels in pairs, else one by one.
    reflect : bool
        Its borders are reflected, else zeros.
    """

    def __init__(self, width: int, hidden: int, pairs: bool, reflect: bool) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        groups, self.reflect = hidden if pairs else 2 * hidden, reflect
        self.spread = nn.Conv2d(2 * hidden, 2 * hidden, 3, groups=groups, bias=False)
        self.project = nn.Conv2d(hidden, width, 1, bias=False)

    def merged(self) -> Tensor | None:
        """The first two layers as one kernel; None where that is more work."""
        small = self.spread.groups < len(self.spread.weight) and self.expand.in_channels <= 32
        return merge(self.expand, self.spread) if small else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        kernel = self.merged()
        x = self.expand(x) if kernel is None else x
        x = pad_reflect(x) if self.reflect else nnf.pad(x, (1, 1, 1, 1))
        gate, value = (self.spread(x) if kernel is None else nnf.conv2d(x, kernel)).chunk(2, 1)
        out: Tensor = self.project(nnf.gelu(gate) * value)
        return out


class ChannelBlock(nn.Module):
    """Attention between channels and the gated MLP, each after a norm and with a residual."""

    def __init__(self, width: int, hidden: int, *, depthwise: bool, reflect: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(width), ChannelNorm(width)
        self.attention = ChannelAttention(width, depthwise)
        self.mlp = GatedMlp(width, hidden, not depthwise, reflect)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) to the same shape."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class FastBlock:
    """A `ChannelBlock` on one image (H, W, width)."""

    def __init__(self, block: ChannelBlock) -> None:
        self.norms = [(norm.weight, norm.bias) for norm in (block.norm1, block.norm2)]
        self.temperature, self.reflect = block.attention.temperature[:, 0, 0], block.mlp.reflect
        self.qkv, self.gated = (
            Spread(part.expand.weight[..., 0, 0], part.spread.weight, part.merged())
            for part in (block.attention, block.mlp)
        )
        self.projects = [part.project.weight[..., 0, 0] for part in (block.attention, block.mlp)]

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """(H, W, width) to `out`, or a new tensor of this shape."""
        values, mix = self._attend(x)
        out = torch.empty_like(x) if out is None else out
        mixed = torch.empty_like(x)

        def hidden(start: int, stop: int) -> Tensor:
            rows = mixed[start:stop]
            torch.add(x[start:stop], linear(values[start:stop], mix), out=rows)
            return self.gated.expand(self._norm(rows, 1))

        for start, stop, rows in windows(hidden, x.shape, self.reflect):
            gate, value = self.gated.spread(rows).chunk(2, -1)
            given = linear(nnf.gelu(gate).mul_(value), self.projects[1])
            torch.add(mixed[start:stop], given, out=out[start:stop])
        return out

    def _norm(self, x: Tensor, which: int) -> Tensor:
        return nnf.layer_norm(x, x.shape[-1:], *self.norms[which])

    def _attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values (H, W, width), and the matrix that their attention and projection are."""
        width = x.shape[-1]
        values = torch.empty_like(x)
        products = x.new_zeros(width, width)
        squares = x.new_zeros(2 * width)
        for start, stop, rows in windows(
            lambda i, j: self.qkv.expand(self._norm(x[i:j], 0)), x.shape, reflect=False
        ):
            made = self.qkv.spread(rows)
            values[start:stop] = made[..., 2 * width :]
            flat = made.flatten(0, 1)
            products += flat[:, :width].mT @ flat[:, width : 2 * width]
            squares += flat[:, : 2 * width].square().sum(0)
        lengths = squares.clamp_min_(1e-24).rsqrt_()
        scores = products * lengths[:width, None] * lengths[width:]
        each = scores.view(HEADS, width // HEADS, HEADS, -1).diagonal(dim1=0, dim2=2).movedim(-1, 0)
        attention = (each * self.temperature[:, None, None]).softmax(-1)
        mix = torch.block_diag(*attention)  # type: ignore[no-untyped-call]
        return values, self.projects[0] @ mix


class Spread:
    """A 1x1 and a 3x3 convolution, of which the second may act on groups of channels, on (H, W, C)."""

    def __init__(self, expand: Tensor, spread: Tensor, merged: Tensor | None) -> None:
        self.matrix: Tensor | None = None if merged is not None else expand
        self.kernel = merged if merged is not None else spread
        self.pairs = merged is None and spread.shape[1] == 2
        if self.pairs:  # each channel of a pair by itself, twice as many in all: faster than groups
            first = torch.arange(len(spread)) // 2 * 2
            self.matrix = torch.cat((expand[first], expand[first + 1]))
            self.kernel = torch.cat(torch.split(spread, 1, 1))
        self.kernel = self.kernel.contiguous(memory_format=torch.channels_last)
        self.groups = len(self.kernel) if merged is None else 1

    def expand(self, x: Tensor) -> Tensor:
        return x if self.matrix is None else linear(x, self.matrix)

    def spread(self, rows: Tensor) -> Tensor:
        """Rows of what `expand` gave, with borders."""
        made = convolve(rows, self.kernel, self.groups)
        if self.pairs:
            first, second = made.chunk(2, -1)
            made = first + second
        return made


def merge(expand: nn.Conv2d, spread: nn.Conv2d) -> Tensor:
    """The kernel (outputs, inputs, 3, 3) of a 1x1 convolution and a 3x3 one, without biases, as one layer."""
    groups, matrix = spread.groups, expand.weight[..., 0, 0]
    kernel = spread.weight.reshape(groups, -1, *spread.weight.shape[1:]).permute(3, 4, 0, 1, 2)
    merged: Tensor = kernel @ matrix.reshape(groups, -1, matrix.shape[1])
    return merged.flatten(2, 3).permute(2, 3, 0, 1)


def block_names(ours: str, theirs: str, *, depthwise: bool) -> dict[str, str]:
    """Parameters of a `ChannelBlock`, by the names that published files of CDDFuse and EMMA give them."""
    attention, mlp = f"{theirs}.attn", f"{theirs}.{'ffn' if depthwise else 'mlp'}"
    expand, spread, project, scale = (
        ("qkv", "qkv_dwconv", "project_out", "temperature")
        if depthwise
        else ("qkv1", "qkv2", "proj", "scale")
    )
    return {
        f"{ours}.attention.temperature": f"{attention}.{scale}",
        f"{ours}.attention.expand.weight": f"{attention}.{expand}.weight",
        f"{ours}.attention.spread.weight": f"{attention}.{spread}.weight",
        f"{ours}.attention.project.weight": f"{attention}.{project}.weight",
        f"{ours}.mlp.expand.weight": f"{mlp}.project_in.weight",
        f"{ours}.mlp.spread.weight": f"{mlp}.dwconv.weight",
        f"{ours}.mlp.project.weight": f"{mlp}.project_out.weight",
        **{
            f"{ours}.{norm}.{kind}": f"{theirs}.{norm}.body.{kind}"
            for norm in ("norm1", "norm2")
            for kind in ("weight", "bias")
        },
    }
