"""DILRAN: multi-scale dilated residual attention features, fused by the nuclear norms of their soft-max."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.method import MethodInfo, Weights

from ._fast import FastDILRAN
from ._learned import LearnedSliceMethod, choose
from ._nuclear_norm import largest_nuclear_norms
from ._weights import Layout

WIDTH, DILATIONS = 64, (1, 3, 5)
RULES = ("sfnn", "fl1n", "l1nw", "al1nw", "fer", "addition", "average")
AMPLIFYING = ("addition", "l1nw", "al1nw")  # as published


class DILRANNet(nn.Module):
    """Feature extractor 1 -> 64 and linear decoder 64 -> 1, for images of even size.

    All batch norms take the statistics of the single image, in training and afterwards, see `DILRAN`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Conv2d(1, WIDTH, 1)
        self.dilated = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=d, dilation=d) for d in DILATIONS)
        self.reduce = nn.Conv2d(3 * WIDTH, WIDTH, 1)
        self.norm = nn.InstanceNorm2d(WIDTH, affine=True)  # one module, used twice
        self.attention = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.decoder = nn.Sequential(*(nn.Conv2d(i, o, 3, padding=1) for i, o in pairwise((64, 64, 32, 1))))

    def encode(self, x: Tensor) -> Tensor:
        """(N, 1, H, W), both even, to features (N, 64, H, W)."""
        x = x + smooth(x) * self.shallow(x)
        deep = self.norm(self.reduce(torch.cat([conv(x) for conv in self.dilated], 1)))
        once = self.attention(deep)
        twice = self.attention(once)
        deep = deep + smooth(deep) * (once + twice + self.attention(twice))
        features: Tensor = x + smooth(x) * self.norm(deep)
        return features

    def decode(self, x: Tensor) -> Tensor:
        """Features to images; no activation."""
        image: Tensor = self.decoder(x)
        return image

    def forward(self, x: Tensor) -> Tensor:
        """Auto-encode single images, which is how the network is trained."""
        return self.decode(self.encode(x))


def smooth(x: Tensor) -> Tensor:
    """Average 2x2 pixels, back to size by repetition, ReLU."""
    return nnf.interpolate(nnf.avg_pool2d(x, 2).relu(), scale_factor=2, mode="nearest")


class DILRAN(LearnedSliceMethod):
    """DILRAN.

    Parameters
    ----------
    rule : {"sfnn", "fl1n", "l1nw", "al1nw", "fer", "addition", "average"}
        Fusion of the features: soft-max feature nuclear norm (one weight per image), L1 norms (three
        forms), element-wise energy ratio, sum, mean.
    compat : bool
        Three of the authors' rules have weights that do not sum to one: "addition" doubles the image,
        "l1nw" and "al1nw" multiply it by an L1 norm of millions, and all three saturate.  By default
        weights are normalised (so "addition" equals "average", and "l1nw" and "al1nw" equal "fl1n");
        with ``compat=True`` they are as in the authors' program.

    Notes
    -----
    The authors' inference never leaves training mode, so batch norm uses the statistics of the single
    image; the stored running statistics mix two uses of one module and give a visibly worse image.  This
    is therefore kept as the network's definition: every norm is an instance norm, of each image by
    itself, and a batch gives what single images give.  Odd sizes, which the authors' program refuses, are
    extended by one repeated row or column.
    Of the 302,721 parameters of a published file 216,001 are used.
    """

    info = MethodInfo(
        name="dilran",
        summary="Dilated residual attention auto-encoder, nuclear-norm fusion",
        dims=2,
        paper="Zhou et al., An Attention-based Multi-Scale Feature Learning Network for Multimodal Medical "
        "Image Fusion, 2022",
        trained_on="phantom (24 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/dilran.safetensors",
            sha256="5c3fcba7ab272c8e563e17b8db15d5e597f80ed034fe4313d12a71116cb04a9c",
        ),
        params=216_001,
        notes="on a CPU in the faster form (fast=False: the plain network)",
        cost=5.0,
        tolerance=1e-4,
    )
    recipes = {"default": "._recipes_2d:DILRANRecipe"}
    layouts = (
        Layout(
            "authors'",
            {
                f"{ours}.{kind}": f"{theirs}.{kind}"
                for ours, theirs in {
                    "shallow": "fe.conv1",
                    **{f"dilated.{i}": f"fe.fe.convd{i + 1}" for i in range(3)},
                    "reduce": "fe.fe.reduce",
                    "norm": "fe.fe.bnorm1",
                    "attention": "fe.fe.dilran.conv_d",
                    **{f"decoder.{i}": f"recon.recon_conv.{i}" for i in range(3)},
                }.items()
                for kind in ("weight", "bias")
            },
            unused=("fe.conv_id.*", "fe.conv2.*", "fe.bnorm.*", "fe.fe.dilran.bnorm.*", "fe.fe.bnorm1.*"),
        ),
    )
    network: DILRANNet
    quick: FastDILRAN | None

    def __init__(
        self,
        weights: str | None = None,
        rule: str = "sfnn",
        compat: bool = False,
        planes: str = "axial",
        fast: bool = True,
    ) -> None:
        super().__init__(weights, compat, planes, fast)
        self.rule = choose("rule", rule, RULES)

    def build(self) -> nn.Module:
        return DILRANNet()

    def faster(self) -> FastDILRAN:
        net = self.network
        return FastDILRAN(
            net.shallow,
            [cast(nn.Conv2d, layer) for layer in net.dilated],
            net.reduce,
            net.norm,
            net.attention,
            net.decoder,
        )

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        h, w = a.shape[-2:]
        even = (0, w % 2, 0, h % 2)
        each, net, quick = [], self.network, self.quick
        encode, decode, step = (quick.encode, quick.decode, 1) if quick else (net.encode, net.decode, len(a))
        if self.compat and self.rule in AMPLIFYING:
            decode = net.decode  # which amplifies rounding less
        for pair in zip(torch.split(b, step), torch.split(a, step), strict=True):
            f1, f2 = (encode(nnf.pad(x, even, mode="replicate")) for x in pair)
            each.append(decode(fuse_features(f1, f2, self.rule, self.compat)))
        return torch.cat(each)[..., :h, :w]


def fuse_features(f1: Tensor, f2: Tensor, rule: str, compat: bool = False) -> Tensor:
    """Fuse the features (N, 64, H, W) of N pairs of images; the rules are described in `DILRAN`."""
    if rule == "fer":
        e1, e2 = f1**2, f2**2
        total = e1 + e2
        return (e1 * f1 + e2 * f2) / torch.where(total == 0, 1, total)
    if rule in ("addition", "average"):
        w1 = w2 = f1.new_tensor(1.0)
    elif rule == "sfnn":
        w1, w2 = (largest_nuclear_norms(_softmax(f))[:, None, None, None] ** 2 for f in (f1, f2))
    else:
        w1, w2 = (f.abs().sum((1, 2, 3), keepdim=True) for f in (f1, f2))
        if rule == "al1nw":
            w1, w2 = w1 / 2, w2 / 2
    if not compat or rule not in AMPLIFYING:
        total = w1 + w2
        w1, w2 = (torch.where(total > 0, w / total, 0.5) for w in (w1, w2))
    return w1.to(f1.dtype) * f1 + w2.to(f1.dtype) * f2


def _softmax(x: Tensor) -> Tensor:
    """Soft-max over the channels; along a far stride this is faster than torch's."""
    powers = (x - x.amax(1, keepdim=True)).exp_()
    return powers.div_(powers.sum(1, keepdim=True))
