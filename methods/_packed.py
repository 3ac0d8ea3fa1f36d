"""Linear layers for a CPU, by oneDNN: on AMD twice as fast as those of the library that torch would take.

Some have weights that are packed once, norms folded in, and activations where a product is written.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


def _find_ops() -> Any:
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if there else None


_OPS = _find_ops()


def conv2d(x: Tensor, kernel: Tensor, bias: Tensor | None = None, groups: int = 1, stride: int = 1) -> Tensor:
    """Convolution without borders on a CPU, without gradients; torch leaves oneDNN for small images."""
    if _OPS is None:
        return nnf.conv2d(x, kernel, bias, stride, groups=groups)
    return torch.mkldnn_convolution(x, kernel, bias, (0, 0), (stride, stride), (1, 1), groups)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x W' + b`` on a CPU, without gradients."""
    if _OPS is None:
        return nnf.linear(x, weight, bias)
    # Of others than contiguous memory it makes slow work.
    return _OPS(x.contiguous(), weight.contiguous(), bias, "none", [], "")  # type: ignore[no-any-return]


def _runs_here(x: Tensor) -> bool:
    """True on a CPU without gradients, which `linear` and `conv2d` are for."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


class Linear(nn.Linear):
    """A layer that calls `linear` where it can."""

    def forward(self, x: Tensor) -> Tensor:
        if not _runs_here(x):
            return super().forward(x)
        return linear(x, self.weight, self.bias)


class Pointwise(nn.Conv2d):
    """1x1 convolution, for which torch leaves oneDNN where one thread runs."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        if not _runs_here(x):
            return super().forward(x)
        return conv2d(x, self.weight, self.bias)


class PackedLinear:
    """x W' + b, and what comes directly after it, with weights packed for oneDNN where torch has that.

    Parameters
    ----------
    weight, bias : Tensor, shape (out, in) and (out,)
        In float64.
    rows : int
        Of x, mostly.
    """

    def __init__(self, weight: Tensor, bias: Tensor, rows: int) -> None:
        self.weight, self.bias = weight.float().contiguous(), bias.float().contiguous()
        if _OPS is not None:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        if _OPS is None:
            return nnf.linear(x, self.weight, self.bias)
        return _OPS(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of it."""
        if _OPS is None:
            return nnf.gelu(nnf.linear(x, self.weight, self.bias))
        return _OPS(x, self.weight, self.bias, "gelu", [], "none")  # type: ignore[no-any-return]

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        """It plus `to`."""
        if _OPS is None:
            return to + nnf.linear(x, self.weight, self.bias)
        return _OPS.binary(x, to, self.weight, self.bias, "add")  # type: ignore[no-any-return]


def double(x: Tensor) -> Tensor:
    """A parameter in float64, where products of parameters lose nothing."""
    return x.detach().double()


def after_norm(layer: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that takes in what `norm` is before its own weight and bias."""
    weight = double(layer.weight)
    return weight * double(norm.weight), double(layer.bias) + weight @ double(norm.bias)
