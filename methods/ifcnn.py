"""IFCNN: two convolutions per image, the larger feature, and one convolution back to an image."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.method import MethodInfo, Weights

from ._fast import prepare
from ._learned import LearnedSliceMethod, choose
from ._rows import convolve
from ._weights import Layout

WIDTH, COLOURS = 64, 3
NORM = ("weight", "bias", "running_mean", "running_var")
# Shares of red, green and blue in grey, by which the authors' program turns its result into one.
GREY = (0.299, 0.587, 0.114)
RULES = ("max", "sum", "mean")


class IFCNNNet(nn.Module):
    """Encoder 3 -> 64 -> 64 of each image, an element-wise rule, 64 -> 64 -> 3; replicated borders.

    Grey images go in as three equal channels.
    """

    rule: str = "max"

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(COLOURS, WIDTH, 7, bias=False)
        self.encoder = nn.Conv2d(WIDTH, WIDTH, 3, bias=False)
        self.encoder_norm = nn.BatchNorm2d(WIDTH)
        self.decoder = nn.Conv2d(WIDTH, WIDTH, 3, bias=False)
        self.decoder_norm = nn.BatchNorm2d(WIDTH)
        self.last = nn.Conv2d(WIDTH, COLOURS, 1)

    def encode(self, x: Tensor) -> Tensor:
        """Grey images (N, 1, H, W) to features (N, 64, H, W)."""
        x = nnf.conv2d(_extend(x, 3), self.first.weight.sum(1, keepdim=True))
        features: Tensor = self.encoder_norm(self.encoder(_extend(x, 1))).relu_()
        return features

    def join(self, f1: Tensor, f2: Tensor) -> Tensor:
        """Features of both images by the rule."""
        if self.rule == "max":
            return torch.maximum(f1, f2)
        return f1 + f2 if self.rule == "sum" else (f1 + f2) / 2

    def decode(self, x: Tensor) -> Tensor:
        """Features to colours (N, 3, H, W)."""
        colours: Tensor = self.last(self.decoder_norm(self.decoder(_extend(x, 1))).relu_())
        return colours

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1], twice, to colours (N, 3, H, W), not clipped."""
        return self.decode(self.join(self.encode(functional), self.encode(structural)))


def grey(colours: Tensor) -> Tensor:
    """Clipped colours (N, 3, H, W) to luminance (N, 1, H, W)."""
    shares = colours.new_tensor(GREY).view(1, COLOURS, 1, 1)
    return (colours.clamp(0, 1) * shares).sum(1, keepdim=True)


def _extend(x: Tensor, pixels: int) -> Tensor:
    return nnf.pad(x, (pixels,) * 4, mode="replicate")


class FastIFCNN:
    """`IFCNNNet` for one pair (1, 1, H, W) on a CPU; inside, channels are last.

    The first two convolutions have nothing between them, so they are one of 9x9 and a single channel, an
    eighth of the multiplications.  Not so in the outermost pixels, where the second sees copies of what the
    first gives: there the network itself is asked.
    """

    def __init__(self, net: IFCNNNet) -> None:
        self.net = net
        scale, shift = _affine(net.encoder_norm)
        first = net.first.weight.detach().double().sum(1, keepdim=True)
        second = net.encoder.weight.detach().double() * scale.double()
        merged = nn.Conv2d(1, WIDTH, 9)
        # Two correlations in a row are one with the convolution of their kernels.
        merged.weight.data = nnf.conv2d(second, first.flip(2, 3).transpose(0, 1), padding=6).float()
        merged.bias = nn.Parameter(shift)
        third = nn.Conv2d(WIDTH, WIDTH, 3)
        scale, shift = _affine(net.decoder_norm)
        third.weight.data, third.bias = net.decoder.weight.detach() * scale, nn.Parameter(shift)
        self.merged, self.third = prepare(merged), prepare(third)

    def __call__(self, functional: Tensor, structural: Tensor) -> Tensor:
        """Colours (1, 3, H, W), not clipped."""
        net = self.net
        joined = net.join(self.encode(functional), self.encode(structural))
        features = convolve(_extend(joined, 1)[0].movedim(0, -1), self.third[0], bias=self.third[1]).relu_()
        colours: Tensor = net.last(features.movedim(-1, 0)[None])
        return colours

    def encode(self, x: Tensor) -> Tensor:
        """Features (1, 64, H, W)."""
        features = convolve(_extend(x, 4)[0].movedim(0, -1), self.merged[0], bias=self.merged[1])
        features = features.relu_().movedim(-1, 0)[None]
        for axis in (-2, -1):
            last, size = x.shape[axis] - 1, min(5, x.shape[axis])  # one pixel asks for four more
            for edge, start in ((0, 0), (last, last + 1 - size)):
                border = self.net.encode(x.narrow(axis, start, size))
                features.select(axis, edge).copy_(border.select(axis, edge - start))
        return features


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A norm with fixed statistics as scale (C, 1, 1, 1) and shift (C,)."""
    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight.detach() * (variance + norm.eps).rsqrt()
    return scale.view(-1, 1, 1, 1), norm.bias.detach() - mean * scale


class IFCNN(LearnedSliceMethod):
    """IFCNN.

    Parameters
    ----------
    rule : {"max", "sum", "mean"}
        How the features of both images are joined, element by element.  "max" is the authors' choice for
        medical images, and what the shipped weights are for; their repository has a file for each.

    Notes
    -----
    The network is one for colour; a grey image is three equal channels, and of the three that come out the
    luminance is taken, both as in the authors' program (there after rounding to 8 bits).  ``compat`` changes
    nothing: their program has no fault for two images of one size.  Of the 83,843 numbers of a published file
    256 are running statistics.
    """

    info = MethodInfo(
        name="ifcnn",
        summary="Two convolutions per image, the larger feature, one convolution back",
        dims=2,
        paper="Zhang et al., IFCNN: A general image fusion framework based on convolutional neural network, "
        "Information Fusion 54, 2020",
        trained_on="phantom (24 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/ifcnn.safetensors",
            sha256="3b535a3188154cdc4991b4ffd9e11a170c1d1594e25f4c02108dd2c03f226bbb",
        ),
        params=83_587,
        cost=0.45,
        tolerance=5e-5,
        notes="on a CPU in the faster form (fast=False: the plain network)",
    )
    recipes = {"default": "._recipes_ifcnn:IFCNNRecipe"}
    reach = 5  # kernels of 7, 3 and 3; beyond a border its pixels are repeated, so it asks for none
    layouts = (
        Layout(
            "authors'",
            {
                "first.weight": "conv1.weight",
                **{
                    f"{ours}{kind}": f"{theirs}.{name}"
                    for ours, theirs in (("encoder", "conv2"), ("decoder", "conv3"))
                    for kind, name in (
                        (".weight", "conv.weight"),
                        *((f"_norm.{k}", f"bn.{k}") for k in NORM),
                    )
                },
                "last.weight": "conv4.weight",
                "last.bias": "conv4.bias",
            },
            unused=("*.num_batches_tracked",),
        ),
    )
    network: IFCNNNet
    quick: FastIFCNN | None

    def __init__(
        self,
        weights: str | None = None,
        rule: str = "max",
        compat: bool = False,
        planes: str = "axial",
        fast: bool = True,
    ) -> None:
        self.rule = choose("rule", rule, RULES)
        super().__init__(weights, compat, planes, fast)

    def build(self) -> nn.Module:
        net = IFCNNNet()
        net.rule = self.rule
        return net

    def faster(self) -> FastIFCNN:
        return FastIFCNN(self.network)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        if self.quick is None:
            return grey(self.network(b, a))
        pairs = zip(torch.split(b, 1), torch.split(a, 1), strict=True)
        return torch.cat([grey(self.quick(x, y)) for x, y in pairs])
