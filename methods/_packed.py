"""Linear layers for a CPU: weights packed once, norms folded in, activations where a product is written."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn


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
        self._ops: Any = None
        there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        if there and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
            self._ops = torch.ops.mkldnn._linear_pointwise
            self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)

    def __call__(self, x: Tensor) -> Tensor:
        if self._ops is None:
            return nnf.linear(x, self.weight, self.bias)
        return self._ops(x, self.weight, self.bias, "none", [], "")  # type: ignore[no-any-return]

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of it."""
        if self._ops is None:
            return nnf.gelu(nnf.linear(x, self.weight, self.bias))
        return self._ops(x, self.weight, self.bias, "gelu", [], "none")  # type: ignore[no-any-return]

    def added(self, x: Tensor, to: Tensor) -> Tensor:
        """It plus `to`."""
        if self._ops is None:
            return to + nnf.linear(x, self.weight, self.bias)
        return self._ops.binary(x, to, self.weight, self.bias, "add")  # type: ignore[no-any-return]


def double(x: Tensor) -> Tensor:
    """A parameter in float64, where products of parameters lose nothing."""
    return x.detach().double()


def after_norm(layer: nn.Linear, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that takes in what `norm` is before its own weight and bias."""
    weight = double(layer.weight)
    return weight * double(norm.weight), double(layer.bias) + weight @ double(norm.bias)
