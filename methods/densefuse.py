"""DenseFuse: a dense encoder, features fused by addition or by their L1 activity, a decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import MethodInfo, Weights

from ._conv import Maps, Memory, ReflectConv2d, pad_reflect
from ._learned import LearnedSliceMethod, choose
from ._weights import Layout

STRIP = 64  # rows


class DenseFuseNet(nn.Module):
    """Encoder 1 -> 16 -> dense 64, decoder 64 -> 64 -> 32 -> 16 -> 1; ReLU after every layer, also the last.

    Images are in [0, 1].  The published weights want 0..255; a ReLU network is homogeneous, so dividing
    their biases by 255 gives the same network in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = Memory()
        self.first = ReflectConv2d(1, 16)
        self.dense = nn.ModuleList(ReflectConv2d(16 * k, 16) for k in (1, 2, 3))
        self.decoder = nn.ModuleList(ReflectConv2d(i, o) for i, o in ((64, 64), (64, 32), (32, 16), (16, 1)))

    def encode(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) to features (N, 64, H, W)."""
        x = self.first(x).relu_()
        for layer in self.dense:
            x = torch.cat((x, layer(x).relu_()), 1)
        return x

    def decode(self, x: Tensor) -> Tensor:
        """Features to images."""
        for layer in self.decoder:
            x = layer(x).relu_()
        return x

    def add_fast(self, x: Tensor, y: Tensor) -> Tensor:
        """Fuse one pair (1, 1, H, W) by addition on a CPU, without gradients.

        All layers advance together, a strip of rows at a time, so that maps are still in the processor's
        cache when the next layer reads them; each layer lags a row behind the one before.
        """
        h, w = x.shape[-2:]
        images = Maps(self.memory, "images", 1, h, w, 2)
        images.bordered[:] = torch.cat((pad_reflect(x), pad_reflect(y)), -1)
        dense = Maps(self.memory, "dense", 64, h, w, 2)
        total = Maps(self.memory, "total", 64, h, w)
        decoded = [Maps(self.memory, f"decoded {c}", c, h, w) for c in (64, 32, 16, 1)]
        grown = nnf.conv2d(images.bordered, self.first.weight, self.first.bias)
        torch.clamp_min(grown, 0, out=dense.inside(slice(0, h))[:, :16])
        dense.reflect(slice(0, h), slice(0, 16))
        steps: list[Callable[[slice], None]] = [partial(self._grow, dense, k) for k in range(3)]
        steps.append(partial(_add, dense, total))
        steps += map(partial, [_decode] * 4, self.decoder, [total, *decoded], decoded)
        lags = (0, 1, 2, 2, 3, 4, 5, 6)
        for top in range(0, h + lags[-1], STRIP):
            for step, lag in zip(steps, lags, strict=True):
                rows = slice(max(top - lag, 0), min(top + STRIP - lag, h))
                if rows.start < rows.stop:
                    step(rows)
        return decoded[-1].each(slice(0, h)).clone()

    def _grow(self, dense: Maps, k: int, rows: slice) -> None:
        """Dense layer `k`, and what its input gives to later ones: more outputs keep a processor busier."""
        old, new = slice(16 * k, 16 * (k + 1)), slice(16 * (k + 1), 16 * (k + 2))
        kernels = torch.cat([layer.get_parameter("weight")[:, old] for layer in list(self.dense)[k:]])
        bias = None if k else torch.cat([layer.get_parameter("bias") for layer in self.dense])
        given = nnf.conv2d(dense.around(rows)[:, old], kernels, bias)
        rest = dense.inside(rows)[:, new.start :]
        rest.add_(given) if k else rest.copy_(given)
        rest[:, :16].relu_()
        dense.reflect(rows, new)

    def forward(self, x: Tensor) -> Tensor:
        """Auto-encode single images, which is how the network is trained."""
        return self.decode(self.encode(x))


class DenseFuse(LearnedSliceMethod):
    """DenseFuse.

    Parameters
    ----------
    strategy : {"addition", "l1"}
        Mean of the features, or the paper's L1 rule: weights ``A1 / (A1 + A2)`` with ``A`` the sum of the
        absolute features of a pixel.
    average3x3 : bool
        Average ``A`` over 3x3 pixels before the ratio, as in the paper; False is the authors' TensorFlow
        program, where that line is commented out.  Only for "l1".
    compat : bool
        The authors' PyTorch program takes a soft-max of the channel sums on the 0..255 scale instead of
        the ratio; ``exp`` overflows above 88 where sums reach thousands, so real pictures become NaN,
        which is reported as an error here.  "addition" has no such fault and is the same.

    Notes
    -----
    Where all features of both images are 0 the L1 ratio is 0 / 0; both weigh one half there.
    """

    info = MethodInfo(
        name="densefuse",
        summary="Dense auto-encoder; features fused by addition or L1 activity",
        dims=2,
        paper="Li & Wu, DenseFuse: A Fusion Approach to Infrared and Visible Images, IEEE TIP 28(5), 2019",
        trained_on="phantom (24 train subjects, slices in three planes)",
        weights=Weights(
            file="weights/densefuse.safetensors",
            sha256="f34264cd8414c821953f24e101ad5b01d8fc49c5becec279e128e203febd1c07",
        ),
        params=74_193,
    )
    recipes = {"default": "._recipes_2d:DenseFuseRecipe"}
    reach = 10  # eight layers and an average, and one for the border
    layouts = (
        Layout(
            "authors'",
            {
                f"{ours}.{kind}": f"{theirs}.conv2d.{kind}"
                for ours, theirs in (
                    ("first", "conv1"),
                    *((f"dense.{i}", f"DB1.denseblock.{i}.dense_conv") for i in range(3)),
                    *((f"decoder.{i}", f"conv{i + 2}") for i in range(4)),
                )
                for kind in ("weight", "bias")
            },
            lambda name, tensor: tensor / 255 if name.endswith("bias") else tensor,
        ),
    )
    network: DenseFuseNet

    def __init__(
        self,
        weights: str | None = None,
        strategy: str = "addition",
        average3x3: bool = True,
        compat: bool = False,
        planes: str = "axial",
    ) -> None:
        super().__init__(weights, compat, planes)
        self.strategy = choose("strategy", strategy, ("addition", "l1"))
        self.average3x3 = average3x3

    def build(self) -> nn.Module:
        return DenseFuseNet()

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        if self.strategy == "addition" and not a.is_cuda:
            return self.network.add_fast(b, a)
        f1, f2 = self.network.encode(b), self.network.encode(a)
        if self.strategy == "addition":
            return self.network.decode((f1 + f2) / 2)
        fused = _softmax_fusion(f1, f2) if self.compat else l1_fusion(f1, f2, self.average3x3)
        return self.network.decode(fused)


def _add(dense: Maps, total: Maps, rows: slice) -> None:
    first, second = dense.each(rows)
    torch.lerp(first, second, 0.5, out=total.each(rows)[0])
    total.reflect(rows)


def _decode(layer: nn.Module, maps: Maps, out: Maps, rows: slice) -> None:
    y = nnf.conv2d(maps.around(rows), layer.get_parameter("weight"), layer.get_parameter("bias"))
    torch.clamp_min(y, 0, out=out.inside(rows))
    out.reflect(rows)


def l1_fusion(f1: Tensor, f2: Tensor, average3x3: bool = True) -> Tensor:
    """Weigh features by their L1 activity per pixel.

    Parameters
    ----------
    f1, f2 : Tensor, shape (N, C, H, W)
    average3x3 : bool
        Average the activity over 3x3 pixels (replicated border) first.
    """
    a1, a2 = (f.abs().sum(1, keepdim=True) for f in (f1, f2))
    if average3x3:
        a1, a2 = (nnf.avg_pool2d(nnf.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1) for x in (a1, a2))
    total = a1 + a2
    w1 = torch.where(total > 0, a1 / total, 0.5)
    return w1 * f1 + (1 - w1) * f2


def _softmax_fusion(f1: Tensor, f2: Tensor) -> Tensor:
    e1, e2 = ((255 * f.sum(1, keepdim=True)).exp() for f in (f1, f2))
    total = e1 + e2 + 1e-10
    fused = e1 / total * f1 + e2 / total * f2
    if not fused.isfinite().all():
        raise InputError(
            "densefuse: the published soft-max rule overflows on these images (its known fault); "
            "use compat=False for the ratio of the paper"
        )
    return fused
