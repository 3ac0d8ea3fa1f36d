"""EMMA: a U-shaped fusion network of channel attention beside residual convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.method import MethodInfo, Weights

from ._conv import pad_reflect
from ._learned import LearnedSliceMethod, stretch
from ._restormer import ChannelBlock, FastBlock, block_names
from ._rows import convolve_image
from ._weights import Layout

WIDTHS = (8, 16, 32, 32)
LEVELS = len(WIDTHS)


class Conv(nn.Conv2d):
    """3x3 convolution with reflected borders, replicated along an axis of one pixel."""

    def __init__(self, inputs: int, outputs: int, bias: bool = False, stride: int = 1) -> None:
        super().__init__(inputs, outputs, 3, stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W), halved by a stride of 2."""
        return super().forward(pad_reflect(x))


class Stage(nn.Module):
    """Embedding, channel attention beside two residual blocks, and a convolution of both."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.embed = Conv(inputs, width)
        self.wide = ChannelBlock(width, width, depthwise=False, reflect=True)
        self.local = nn.ModuleList(Conv(width, width, bias=True) for _ in range(4))
        self.join = Conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, width, H, W)."""
        x = self.embed(x)
        y = x
        for i in (0, 2):
            y = y + self.local[i + 1](self.local[i](y).relu())
        out: Tensor = self.join(torch.cat((self.wide(x), y), 1))
        return out


class EMMANet(nn.Module):
    """The network; images in [0, 1], of sizes that are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        inputs = (1, *WIDTHS)
        self.functional, self.structural = (
            nn.ModuleList(Stage(inputs[i], WIDTHS[i]) for i in range(LEVELS)) for _ in range(2)
        )
        self.halve_functional, self.halve_structural = (
            nn.ModuleList(Conv(width, width, stride=2) for width in WIDTHS[:-1]) for _ in range(2)
        )
        self.fuse = nn.ModuleList(Stage(2 * width, width) for width in WIDTHS)
        self.decode = nn.ModuleList(Stage((1 if i == LEVELS - 1 else 2) * w, w) for i, w in enumerate(WIDTHS))
        self.enlarge = nn.ModuleList(
            nn.ConvTranspose2d(WIDTHS[i + 1], WIDTHS[i], 4, 2, 1, bias=False) for i in range(LEVELS - 1)
        )
        self.last = Conv(WIDTHS[0], 1, bias=True)

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W), twice, to the fused image in (0, 1)."""
        fused = []
        x, y = functional, structural
        for i in range(LEVELS):
            if i:
                x, y = self.halve_functional[i - 1](x), self.halve_structural[i - 1](y)
            x, y = self.functional[i](x), self.structural[i](y)
            fused.append(self.fuse[i](torch.cat((x, y), 1)))
        out = self.decode[-1](fused[-1])
        for i in reversed(range(LEVELS - 1)):
            out = self.decode[i](torch.cat((self.enlarge[i](out).relu(), fused[i]), 1))
        image: Tensor = self.last(out).sigmoid()
        return image


class FastEMMA:
    """The network for one pair (1, 1, H, W) on a CPU; features are (H, W, C)."""

    def __init__(self, net: EMMANet) -> None:
        self.net = net
        self.functional, self.structural, self.fuse, self.decode = (
            [FastStage(stage) for stage in stages]  # type: ignore[arg-type]
            for stages in (net.functional, net.structural, net.fuse, net.decode)
        )

    def __call__(self, functional: Tensor, structural: Tensor) -> Tensor:
        net, fused = self.net, []
        x, y = functional[0, 0, ..., None], structural[0, 0, ..., None]
        for i in range(LEVELS):
            if i:
                x, y = halved(x, net.halve_functional[i - 1]), halved(y, net.halve_structural[i - 1])
            x, y = self.functional[i](x), self.structural[i](y)
            fused.append(self.fuse[i](torch.cat((x, y), -1)))
        out = self.decode[-1](fused[-1])
        for i in reversed(range(LEVELS - 1)):
            larger = nnf.relu_(net.enlarge[i](out[None].movedim(-1, 1)))
            out = self.decode[i](torch.cat((larger[0].movedim(0, -1), fused[i]), -1))
        return convolve_image(out, net.last.weight, net.last.bias, reflect=True)[None, None, ..., 0].sigmoid()


class FastStage:
    """A `Stage` on features (H, W, C)."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.wide = stage, FastBlock(stage.wide)

    def __call__(self, x: Tensor) -> Tensor:
        x = convolve_image(x, self.stage.embed.weight, reflect=True)
        width = x.shape[-1]
        both, y = x.new_empty(*x.shape[:2], 2 * width), x
        for i in (0, 2):
            first, second = self.stage.local[i], self.stage.local[i + 1]
            hidden = nnf.relu_(convolve_image(y, *_values(first), reflect=True))
            y = convolve_image(hidden, *_values(second), reflect=True).add_(y)
        both[..., width:] = y
        self.wide(x, both[..., :width])
        return convolve_image(both, self.stage.join.weight, reflect=True)


def _values(layer: nn.Module) -> tuple[Tensor, Tensor]:
    return layer.get_parameter("weight"), layer.get_parameter("bias")


def halved(x: Tensor, layer: nn.Module) -> Tensor:
    """A convolution of the network on (H, W, C)."""
    out: Tensor = layer(x[None].movedim(-1, 1))
    return out[0].movedim(0, -1).contiguous()


class EMMA(LearnedSliceMethod):
    """EMMA.

    Parameters
    ----------
    compat : bool
        The authors' program stretches every fused picture to its own range when saving, which no comparison
        should; ``compat=True`` does so as well.

    Notes
    -----
    The network halves images three times; sizes that are no multiples of 8 are extended by repeated rows and
    columns, and cropped.  The authors' program fuses four overlapping crops of multiples of 32 instead, which
    leaves seams.
    """

    info = MethodInfo(
        name="emma",
        summary="U-shaped network of channel attention beside convolutions",
        dims=2,
        paper="Zhao et al., Equivariant Multi-Modality Image Fusion, CVPR 2024",
        trained_on="phantom (64 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/emma.safetensors",
            sha256="0fc5aeeb4cead8f6fb9fbf4b079d6ab6a2fdf25b65fac4d8cb831a348557e472",
        ),
        params=1_517_657,
        cost=2.2,
        tolerance=5e-5,
        notes="on a CPU in the faster form (fast=False: the plain network)",
    )
    recipes = {"default": "._recipes_restormer:EMMARecipe"}
    expected_failed_checks = {"identical_inputs": "a network on both images at once has no such identity"}
    network: EMMANet
    quick: FastEMMA | None

    def build(self) -> nn.Module:
        return EMMANet()

    def faster(self) -> FastEMMA:
        return FastEMMA(self.network)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        h, w = a.shape[-2:]
        a, b = (nnf.pad(x, (0, -w % 8, 0, -h % 8), mode="replicate") for x in (a, b))
        if self.quick:
            fused = torch.cat(
                [self.quick(y, x) for x, y in zip(torch.split(a, 1), torch.split(b, 1), strict=True)]
            )
        else:
            fused = self.network(b, a)
        fused = fused[..., :h, :w]
        return stretch(fused) if self.compat else fused


def _layout() -> Layout:
    stages = {"functional": "I_en", "structural": "V_en", "fuse": "f", "decode": "de"}
    table = {"last.weight": "last.0.weight", "last.bias": "last.0.bias"}
    for i in range(LEVELS):
        for ours, theirs in ((f"{o}.{i}", f"{t}_{i + 1}") for o, t in stages.items()):
            table |= {
                f"{ours}.embed.weight": f"{theirs}.embed.weight",
                f"{ours}.join.weight": f"{theirs}.FFN.weight",
            }
            table |= block_names(f"{ours}.wide", f"{theirs}.GlobalFeature", depthwise=False)
            for j in range(4):
                layer = f"{theirs}.LocalFeature.Extraction.{j // 2}.conv.{j % 2 * 2}"
                table |= {f"{ours}.local.{j}.{kind}": f"{layer}.{kind}" for kind in ("weight", "bias")}
    for i in range(LEVELS - 1):
        table |= {
            f"halve_functional.{i}.weight": f"I_down{i + 1}.weight",
            f"halve_structural.{i}.weight": f"V_down{i + 1}.weight",
            f"enlarge.{i}.weight": f"up{i + 2}.0.weight",
        }
    return Layout("authors'", table)


EMMA.layouts = (_layout(),)
