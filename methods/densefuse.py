"""DenseFuse: a dense encoder, features fused by addition or by their L1 activity, a decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import MethodInfo, Weights

from ._conv import ReflectConv2d
from ._fast import FastDense
from ._learned import LearnedSliceMethod, choose
from ._weights import Layout


class DenseFuseNet(nn.Module):
    """Encoder 1 -> 16 -> dense 64, decoder 64 -> 64 -> 32 -> 16 -> 1; ReLU after every layer, also the last.

    Images are in [0, 1].  The published weights want 0..255; a ReLU network is homogeneous, so dividing
    their biases by 255 gives the same network in [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
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
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/densefuse.safetensors",
            sha256="f34264cd8414c821953f24e101ad5b01d8fc49c5becec279e128e203febd1c07",
        ),
        params=74_193,
        notes="addition on a CPU: in the faster form (fast=False: the plain network)",
        cost=0.62,
        tolerance=5e-4,
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
    quick: FastDense | None

    def __init__(
        self,
        weights: str | None = None,
        strategy: str = "addition",
        average3x3: bool = True,
        compat: bool = False,
        planes: str = "axial",
        fast: bool = True,
    ) -> None:
        super().__init__(weights, compat, planes, fast)
        self.strategy = choose("strategy", strategy, ("addition", "l1"))
        self.average3x3 = choose("average3x3", average3x3, (True, False))

    def build(self) -> nn.Module:
        return DenseFuseNet()

    def faster(self) -> FastDense:
        net = self.network
        return FastDense((net.first, *net.dense), net.decoder, slope=0.0)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        if self.strategy == "addition" and self.quick:
            pairs = zip(torch.split(b, 1), torch.split(a, 1), strict=True)
            return torch.cat([self.quick.of_mean(x, y).relu_() for x, y in pairs])
        f1, f2 = self.network.encode(b), self.network.encode(a)
        if self.strategy == "addition":
            return self.network.decode((f1 + f2) / 2)
        fused = _softmax_fusion(f1, f2) if self.compat else l1_fusion(f1, f2, self.average3x3)
        return self.network.decode(fused)


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
