"""GeSeNet: edge features, masks that say which pixels and channels matter, and a decoder led by the MRI."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.method import MethodInfo, Weights

from ._learned import LearnedSliceMethod, at_once
from ._packed import Pointwise
from ._weights import Layout

NARROW, WIDTH, LAYERS = 16, 32, 4


def draw(logits: Tensor, axis: int) -> Tensor:
    """Gumbel soft-max at a temperature of 1, with uniform numbers of torch's generator."""
    uniform = torch.rand_like(logits)
    while not uniform.all():  # as the published program: the logarithm of 0 would be infinite
        uniform = torch.rand_like(logits)
    return (logits - (-uniform.log()).log()).softmax(axis)


class Edges(nn.Module):
    """Two dense layers, and the absolute responses to a pair of kernels that begin as Sobel's."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.ModuleList(nn.Conv2d(NARROW * k, NARROW, 3, padding=1) for k in (1, 2))
        self.mix = Pointwise(3 * NARROW, WIDTH)
        self.gradients = nn.ModuleList(
            nn.Conv2d(NARROW, NARROW, 3, padding=1, groups=NARROW, bias=False) for _ in range(2)
        )
        sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        for layer, kernel in zip(self.gradients, (sobel, sobel.T), strict=True):
            layer.get_parameter("weight").data.copy_(kernel)
        self.mix_gradients = Pointwise(NARROW, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 16, H, W) to (N, 32, H, W)."""
        dense = x
        for layer in self.dense:
            dense = torch.cat((dense, nnf.leaky_relu(layer(dense), 0.2)), 1)
        size = self.gradients[0](x).abs() + self.gradients[1](x).abs()
        return nnf.leaky_relu(self.mix(dense) + self.mix_gradients(size), 0.1)


class Masked(nn.Module):
    """Four convolutions, each channel of which acts everywhere or only where a mask of the image says so.

    Attributes
    ----------
    soft : bool
        Masks are drawn from their distribution, as in training; else the likelier choice is taken.
    """

    soft: bool = False

    def __init__(self) -> None:
        super().__init__()
        quarter = WIDTH // 4
        self.where = nn.Sequential(
            nn.Conv2d(WIDTH, quarter, 3, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(quarter, quarter, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(quarter, 2, 3, 2, 1, output_padding=1),
        )
        self.which = nn.Parameter(torch.rand(1, WIDTH, LAYERS, 2))
        self.body = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False) for _ in range(LAYERS))
        self.collect = Pointwise(WIDTH * LAYERS, WIDTH)
        self.attend = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(WIDTH, 2, 1), nn.ReLU(), nn.Conv2d(2, WIDTH, 1), nn.Sigmoid()
        )

    def masks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (N, 1, H, W) that matter, and channels (1, 32, layers, 2): everywhere, only there."""
        where, which = self.where(x), self.which
        if self.soft:
            pixels = draw(where, 1)[:, 1:]
            return pixels, draw(which, 3)
        return (where[:, 1:] > where[:, :1]).to(x.dtype), which.softmax(3).round()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, H, W) with even sides to the same shape."""
        pixels, channels = self.masks(x)
        each, given = [], x
        for i, layer in enumerate(self.body):
            everywhere, there = channels[:, :, i : i + 1, :1], channels[:, :, i : i + 1, 1:]
            shares = everywhere + there * pixels
            if i == 0:
                out = layer(given) * shares
            else:
                before = channels[0, :, i - 1]
                out = self._part(layer, given, before[:, 0]) * shares
                # What comes from channels of the mask stays in the mask.
                out = out + self._part(layer, given, before[:, 1]) * (pixels * (everywhere + there))
            given = out.relu()
            each.append(given)
        features = self.collect(torch.cat(each, 1))
        kept: Tensor = features * self.attend(features) + x
        return kept

    def _part(self, layer: nn.Module, x: Tensor, share: Tensor) -> Tensor:
        """What a layer makes of a share of each channel: where all are 0 or 1, of some channels alone."""
        if self.soft:
            part: Tensor = layer(x * share[:, None, None])
            return part
        kept = share > 0.5
        if not kept.any():
            return torch.zeros_like(x)
        return nnf.conv2d(x[:, kept], layer.get_parameter("weight")[:, kept], padding=1)


class Branch(nn.Module):
    """Features of one image: those of its edges, and what the masks leave of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, NARROW, 3, padding=1)
        self.edges, self.masked = Edges(), Masked()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, H, W) to twice (N, 32, H, W)."""
        edges = self.edges(nnf.leaky_relu(self.first(x), 0.2))
        return edges, self.masked(edges)


class GeSeNetNet(nn.Module):
    """Both branches, a scale and a shift from the MRI's edges, and a decoder with the functional edges."""

    def __init__(self) -> None:
        super().__init__()
        self.functional, self.structural = Branch(), Branch()
        self.scale = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
        )
        self.shift = nn.Sequential(Pointwise(WIDTH, WIDTH), nn.LeakyReLU(0.1), Pointwise(WIDTH, 2 * WIDTH))
        self.refine = nn.Conv2d(4 * WIDTH, 2 * WIDTH, 3, padding=1)
        self.decoder = nn.Conv2d(3 * WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1] with even sides, twice, to the fused image in (0, 1)."""
        functional_edges, functional_kept = self.functional(functional)
        structural_edges, structural_kept = self.structural(structural)
        both = torch.cat((functional_kept, structural_kept, self.scale(structural_edges)), 1)
        x = nnf.leaky_relu(self.refine(both), 0.01) + self.shift(structural_edges)
        x = nnf.leaky_relu(self.decoder(torch.cat((x, functional_edges), 1)), 0.2)
        return torch.tanh(self.last(x)) / 2 + 0.5

    def draw_masks(self, soft: bool) -> None:
        """Draw the masks (True), or take the likelier choice."""
        self.functional.masked.soft = self.structural.masked.soft = soft


class GeSeNet(LearnedSliceMethod):
    """GeSeNet.

    Parameters
    ----------
    compat : bool
        The authors' program never leaves training mode, so its masks are drawn at random for every image
        (and leaving it ends in an error).  With ``compat=True`` they are drawn, from torch's generator and
        in the same order; by default the likelier choice is taken, which is the paper's inference.

    Notes
    -----
    The inputs are not interchangeable: the MRI's edges scale and shift the features.  The authors' program
    stretches each fused picture to its own minimum and maximum; that is left out.  Odd sizes, which it
    refuses, are extended by one repeated row or column.  Of the 240,590 numbers of a published file five are
    of a norm that is never called.
    """

    info = MethodInfo(
        name="gesenet",
        summary="Edge features, pixel and channel masks, a decoder led by the MRI",
        dims=2,
        paper="Li et al., GeSeNet: A General Semantic-Guided Network With Couple Mask Ensemble for Medical "
        "Image Fusion, IEEE TNNLS, 2023",
        trained_on="phantom (24 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/gesenet.safetensors",
            sha256="caaf883fe959f0539fd2d711b81767d9cec8aea0ab803a3f18e6b27cede0d549",
        ),
        params=240_585,
        cost=3.6,
        tolerance=5e-5,
    )
    expected_failed_checks = {
        "identical_inputs": "the shipped weights brighten what both images hold by 0.05"
    }
    recipes = {"default": "._recipes_gesenet:GeSeNetRecipe"}
    network: GeSeNetNet

    def __init__(
        self, weights: str | None = None, compat: bool = False, planes: str = "axial", fast: bool = True
    ) -> None:
        super().__init__(weights, compat, planes, fast)

    def build(self) -> nn.Module:
        return GeSeNetNet()

    def setup(self, device: torch.device | str = "cpu") -> None:
        super().setup(device)
        self.network.draw_masks(self.compat)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        height, width = a.shape[-2:]
        even = (0, width % 2, 0, height % 2)
        # Masks are drawn for one image after the other, as the authors' program sees them.
        step = len(a) if at_once(a) and not self.compat else 1
        pairs = zip(torch.split(b, step), torch.split(a, step), strict=True)
        each = [self.network(*(nnf.pad(x, even, mode="replicate") for x in pair)) for pair in pairs]
        return torch.cat(each)[..., :height, :width]


def _layout() -> Layout:
    names = {"scale.0": "sft.SFT_scale_conv0", "scale.2": "sft.SFT_scale_conv1", "refine": "sft.SFT2"}
    names |= {"shift.0": "sft.SFT_shift_conv0", "shift.2": "sft.SFT_shift_conv1"}
    names |= {"decoder": "decoder2.conv", "last": "decoder1.conv"}
    bare: dict[str, str] = {}
    for ours, theirs in (("functional", "vis"), ("structural", "inf")):
        edges, masked = f"{theirs}_eem", f"{theirs}_rmm"
        names |= {
            f"{ours}.first": f"{theirs}_conv.conv",
            **{f"{ours}.edges.dense.{i}": f"{edges}.dense.conv{i + 1}.conv" for i in range(2)},
            f"{ours}.edges.mix": f"{edges}.convdown.conv",
            f"{ours}.edges.mix_gradients": f"{edges}.convup.conv",
            **{f"{ours}.masked.where.{i}": f"{masked}.spa_mask.{i}" for i in (0, 3, 5)},
            f"{ours}.masked.collect": f"{masked}.body.collect",
            **{f"{ours}.masked.attend.{i + 1}": f"{masked}.ca.conv_du.{i}" for i in (0, 2)},
        }
        bare |= {
            **{
                f"{ours}.edges.gradients.{i}.weight": f"{edges}.sobelconv.conv{k}.weight"
                for i, k in enumerate("xy")
            },
            f"{ours}.masked.which": f"{masked}.body.ch_mask",
            **{f"{ours}.masked.body.{i}.weight": f"{masked}.body.body.{i}.weight" for i in range(LAYERS)},
        }
    every = {f"{k}.{kind}": f"{v}.{kind}" for k, v in names.items() for kind in ("weight", "bias")}
    return Layout("authors'", every | bare, unused=("decoder1.bn.*",))


GeSeNet.layouts = (_layout(),)
