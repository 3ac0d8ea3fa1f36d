"""MATR: context-gated convolutions and a pixel-wise transformer at three depths."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import MethodInfo, Weights

from ._conv import pool3x3
from ._learned import LearnedSliceMethod, at_once
from ._packed import PackedLinear, after_norm, double
from ._weights import Layout, refuse_other_form

WIDTH, LATENT = 16, 5
# Tokens that pass the transformer together: with what is made of them they stay in the cache.
TOKENS = 2048


class GatedConv(nn.Module):
    """3x3 convolution, its kernel gated per sample by the input's 3x3 average; batch norm and ReLU follow."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(WIDTH, inputs, 3, 3), a=5**0.5))
        self.encode = nn.Linear(9, LATENT, bias=False)
        self.norm_in, self.norm_mix = nn.BatchNorm1d(inputs), nn.BatchNorm1d(inputs)
        self.mix = nn.Linear(inputs, WIDTH, bias=False)
        self.norm_out = nn.BatchNorm1d(WIDTH)
        self.decode_in, self.decode_out = (nn.Linear(LATENT, 9, bias=False) for _ in range(2))
        self.norm = nn.BatchNorm2d(WIDTH)

    def kernels(self, x: Tensor) -> Tensor:
        """Gated kernels (N, 16, inputs, 3, 3) of inputs (N, inputs, H, W)."""
        code = self.encode(pool3x3(x).flatten(2))
        gate_in = self.decode_in(self.norm_in(code).relu())
        mixed = self.mix(self.norm_mix(code).relu().mT).mT
        gate_out = self.decode_out(self.norm_out(mixed).relu())
        gate = (gate_in[:, None] + gate_out[:, :, None]).sigmoid()
        kernels: Tensor = self.weight * gate.view(*gate.shape[:-1], 3, 3)
        return kernels

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, 16, H, W)."""
        n, c, h, w = x.shape
        kernels = self.kernels(x)
        if not self.training and not at_once(x):  # batch norm with fixed statistics is a scale and a shift
            mean, variance = self.norm.get_buffer("running_mean"), self.norm.get_buffer("running_var")
            scale = self.norm.weight * (variance + self.norm.eps).rsqrt()
            shift = self.norm.bias - mean * scale
            kernels = kernels * scale[:, None, None, None]
            each = [nnf.conv2d(x[i : i + 1], kernels[i], shift, padding=1) for i in range(n)]
            return (each[0] if n == 1 else torch.cat(each)).relu_()
        y = nnf.conv2d(x.reshape(1, n * c, h, w), kernels.flatten(0, 1), padding=1, groups=n)
        out: Tensor = self.norm(y.view(n, WIDTH, h, w)).relu()
        return out


class PixelBlock(nn.Module):
    """Transformer block with windows of one token; soft-max over one is 1, so attention is a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.value, self.project = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., 16) to the same shape."""
        tokens = tokens + self.project(self.value(self.norm1(tokens)))
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens


class FastTokens:
    """The blocks in a faster form for a CPU, up to rounding: a few tokens at a time pass all of them.

    Parameters
    ----------
    blocks : iterable of PixelBlock
    """

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        self.layers = [self._layers(block) for block in blocks]

    @staticmethod
    def _layers(block: Any) -> tuple[PackedLinear, PackedLinear, PackedLinear]:
        (up, _, down), out = block.mlp, double(block.project.weight)
        weight, bias = after_norm(block.value, block.norm1)
        mixed = PackedLinear(out @ weight, out @ bias + double(block.project.bias), TOKENS)
        wide = PackedLinear(*after_norm(up, block.norm2), TOKENS)
        return mixed, wide, PackedLinear(double(down.weight), double(down.bias), TOKENS)

    def __call__(self, tokens: Tensor) -> Tensor:
        """(T, 16) to the same shape."""
        return torch.cat([self._some(tokens[i : i + TOKENS]) for i in range(0, len(tokens), TOKENS)])

    def _some(self, x: Tensor) -> Tensor:
        for mixed, up, down in self.layers:
            x = mixed.added(nnf.layer_norm(x, (WIDTH,)), x)
            x = down.added(up.gelu(nnf.layer_norm(x, (WIDTH,))), x)
        return x


class MATRNet(nn.Module):
    """The network.

    Attributes
    ----------
    quick : FastTokens or None
        The faster form of `blocks` in use.
    viewed : bool
        Tokens are 16 consecutive numbers in memory instead of the 16 channels of a pixel, see `MATR`.
    """

    viewed: bool = False
    quick: FastTokens | None = None

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = GatedConv(2), GatedConv(WIDTH)
        self.blocks = nn.Sequential(*(PixelBlock() for _ in range(3)))
        self.last = nn.Conv2d(WIDTH, 1, 1, bias=False)

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1], twice, to the fused image in (-1, 1)."""
        x = self.first(torch.cat((functional, structural), 1))
        total: Tensor | float = 0.0
        for _ in range(3):  # branch k convolves k times, so each goes on where the one before began
            x = self.conv(x)
            total = total + self.conv(self._transform(x))
        fused: Tensor = self.last(total).tanh()
        return fused

    def _transform(self, x: Tensor) -> Tensor:
        # Image by image, so that what comes of one does not depend on the others.
        if self.viewed:
            tokens = x.contiguous().view(len(x), -1, WIDTH)
            return self._through(tokens).view(x.shape)
        pixels = x.movedim(1, -1)
        return self._through(pixels.flatten(1, 2)).view(pixels.shape).movedim(-1, 1)

    def _through(self, tokens: Tensor) -> Tensor:
        """(N, T, 16) through the blocks."""
        if self.quick is None:
            out: Tensor = self.blocks(tokens)
            return out
        return torch.stack([self.quick(some) for some in tokens])


class MATR(LearnedSliceMethod):
    """MATR.

    Parameters
    ----------
    compat : bool
        The authors' network reshapes (channel, row, column) memory into tokens without permuting it, so a
        token is 16 neighbouring numbers of one channel.  By default a token is the 16 channels of a
        pixel, as drawn in the paper.  A file of the authors was trained on the former and always runs so;
        the shipped weights on the latter, so that ``compat=True`` needs a file.

    Notes
    -----
    The authors' program takes square images only; this one any.  It casts negative outputs to 8 bit, where
    they wrap round to bright pixels; here they are clipped to 0.  The inputs are not interchangeable.
    Of the 13,422 parameters of a published file 1,848 have no influence (queries, keys and position
    biases of windows of one token, and a norm that is never called) and are not kept.
    """

    info = MethodInfo(
        name="matr",
        summary="Context-gated convolutions with a pixel-wise transformer",
        dims=2,
        paper="Tang et al., MATR: Multimodal Medical Image Fusion via Multiscale Adaptive Transformer, "
        "IEEE TIP 31, 2022",
        trained_on="phantom (24 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/matr.safetensors",
            sha256="a386837ec759459fb73cf54e78f3dc7e8ef7d6a8bf6fbd9f6fe0913df5668a6a",
        ),
        params=11_574,
        notes="on a CPU in the faster form (fast=False: the plain network)",
        cost=1.5,
        tolerance=5e-5,
    )
    recipes = {"default": "._recipes_2d:MATRRecipe"}
    network: MATRNet
    quick: FastTokens | None

    def __init__(
        self, weights: str | None = None, compat: bool = False, planes: str = "axial", fast: bool = True
    ) -> None:
        if compat and weights is None:
            raise InputError(
                "matr: the shipped weights are for compat=False; "
                "give the authors' file with --weights matr=FILE"
            )
        if weights is not None:
            refuse_other_form(weights, "compat", compat, False)
        super().__init__(weights, compat, planes, fast)

    def build(self) -> nn.Module:
        return MATRNet()

    def setup(self, device: torch.device | str = "cpu") -> None:
        super().setup(device)
        self.network.viewed = self.compat or self.origin == "authors'"
        self.network.quick = self.quick

    def faster(self) -> FastTokens:
        return FastTokens(self.network.blocks)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        fused: Tensor = self.network(b, a)
        return fused


def _layout() -> Layout:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"last.weight": "convolutional_out.conv1.weight"}
    for ours, theirs in (("first", "convInput"), ("conv", "conv")):
        names[f"{ours}.weight"] = f"{theirs}.conv1.weight"
        for mine, linear in (("encode", "ce"), ("mix", "ci"), ("decode_in", "gd"), ("decode_out", "gd2")):
            names[f"{ours}.{mine}.weight"] = f"{theirs}.conv1.{linear}.weight"
        for mine, bn in (("norm_in", "ce_bn"), ("norm_mix", "ci_bn2"), ("norm_out", "ci_bn")):
            names |= {f"{ours}.{mine}.{k}": f"{theirs}.conv1.{bn}.{k}" for k in norm}
        names |= {f"{ours}.norm.{k}": f"{theirs}.bn1.{k}" for k in norm}
    block = {"norm1": "norm1", "value": "attn.qkv", "project": "attn.proj", "norm2": "norm2"}
    for i in range(3):
        for mine, theirs in {**block, "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{i}.{mine}.{kind}"] = f"basicLayer.blocks.{i}.{theirs}.{kind}"
    unused = ("patch_embed.norm.*", "basicLayer.blocks.*.attn.relative_position_*")
    return Layout("authors'", names, _value_rows, unused)


def _value_rows(name: str, tensor: Tensor) -> Tensor:
    return tensor[2 * WIDTH :] if ".value." in name else tensor


MATR.layouts = (_layout(),)
