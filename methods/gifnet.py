"""GIFNet: one network for all fusion tasks, in which features of two tasks look at each other in windows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any, cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fusebench.method import MethodInfo, Weights

from ._conv import ReflectConv2d, trains_on_gpu
from ._learned import LearnedSliceMethod, at_once
from ._packed import Pointwise
from ._weights import Layout

WIDTH, HEADS, WINDOW, GROWTH = 98, 2, 8, 32
DECODER = (128, 64, 32, 16, 1)


class ImageNorm(nn.Module):
    """Norm over a whole image; what it took away is given back after the layers that follow, learned."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(WIDTH)), nn.Parameter(torch.zeros(WIDTH))
        self.rescale, self.rebias = nn.Linear(1, WIDTH), nn.Linear(1, WIDTH)
        for layer, start in ((self.rescale, 1.0), (self.rebias, 0.0)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.constant_(layer.bias, start)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 98, H, W) to the same, and scale and shift (N, 98, 1, 1) for later."""
        mean = x.mean((1, 2, 3), keepdim=True)
        x = x - mean
        spread = (x.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        x = x / spread * self.weight[:, None, None] + self.bias[:, None, None]
        after = [
            layer(y.flatten(1))[..., None, None] for layer, y in ((self.rescale, spread), (self.rebias, mean))
        ]
        return x, after[0], after[1]


class Branch(nn.Module):
    """What a transformer block has for the features of one task.

    Parameters
    ----------
    queries : bool
        The task asks, with queries of its own.
    """

    def __init__(self, queries: bool) -> None:
        super().__init__()
        self.norm = ImageNorm()
        self.keys = Pointwise(WIDTH, WIDTH * (1 + queries))
        self.value = Pointwise(WIDTH, WIDTH)
        self.spread = nn.Conv2d(WIDTH, WIDTH, 5, groups=WIDTH)
        self.project = Pointwise(WIDTH, WIDTH)
        self.mlp = nn.Sequential(Pointwise(WIDTH, 2 * WIDTH), nn.ReLU(), Pointwise(2 * WIDTH, WIDTH))


class PositionBias(nn.Sequential):
    """What a window's pixel adds for another one, from the logarithm of their distance."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, HEADS))

    def bias(self) -> Tensor:
        """(2, 64, 64)."""
        steps = torch.arange(WINDOW, device=self[0].get_parameter("weight").device)
        rows, columns = (x.flatten() for x in torch.meshgrid(steps, steps, indexing="ij"))
        offsets = torch.stack([x[:, None] - x for x in (rows, columns)], -1).float()
        made: Tensor = self(offsets.sign() * (1 + offsets.abs()).log())
        return made.movedim(-1, 0)


class GIFNetNet(nn.Module):
    """The part of the network that runs; images in [0, 1], no side shorter than 8.

    Features go two ways: as those of images of two kinds (`modal`) and as those of two focal planes
    (`focus`), which in the first block ask the others and in the second themselves.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(ReflectConv2d(2 + GROWTH * i, GROWTH) for i in range(3))
        self.embed_modal, self.embed_focus = ReflectConv2d(WIDTH, WIDTH), ReflectConv2d(WIDTH, WIDTH)
        self.modal = Branch(queries=False)
        self.focus = nn.ModuleList(Branch(queries=True) for _ in range(2))
        self.positions = nn.ModuleList(PositionBias() for _ in range(2))
        self.gain = nn.Parameter(torch.rand(1))
        self.unembed = ReflectConv2d(WIDTH, WIDTH)
        self.join = nn.Sequential(
            Pointwise(2 * WIDTH, WIDTH, bias=False), nn.ReLU(), Pointwise(WIDTH, DECODER[0], bias=False)
        )
        self.decoder = nn.ModuleList(ReflectConv2d(i, o) for i, o in pairwise(DECODER))

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1], twice, to the fused image in (0, 1)."""
        x = torch.cat((functional, structural), 1)
        for layer in self.encoder:
            x = torch.cat((x, layer(x).relu()), 1)
        h, w = x.shape[-2:]
        wide = mirror(mirror(x, -2, 0, -h % 4), -1, 0, -w % 4)
        modal, focus = self.embed_modal(wide), self.embed_focus(wide)
        modal, focus = self._block(0, [self.modal, self.focus[0]], [modal, focus])
        (focus,) = self._block(1, [self.focus[1]], [focus + self.gain * modal])
        y = self.join(torch.cat((x, self.unembed(focus)[..., :h, :w]), 1))
        for layer in self.decoder[:-1]:
            y = layer(y).relu()
        image: Tensor = self.decoder[-1](y).tanh() / 2 + 0.5
        return image

    def _block(self, which: int, branches: Sequence[Any], features: list[Tensor]) -> list[Tensor]:
        """A transformer block on the features of each branch; the last one's queries serve all."""
        shift = which * WINDOW // 2
        size = features[0].shape[-2:]
        prepared = []
        for branch, x in zip(branches, features, strict=True):
            x, rescale, rebias = branch.norm(x)
            value = branch.value(x)
            keys = branch.keys(x)
            prepared.append((keys[:, :-WIDTH], keys[:, -WIDTH:], value, rescale, rebias))
        asked = windows(prepared[-1][0], shift)
        bias = cast(PositionBias, self.positions[which]).bias()
        out = []
        for branch, x, (_, keys, value, rescale, rebias) in zip(branches, features, prepared, strict=True):
            # The gradients of the other kernels vary between runs.
            with sdpa_kernel(SDPBackend.MATH) if trains_on_gpu(asked) else nullcontext():
                seen = nnf.scaled_dot_product_attention(
                    asked, windows(keys, shift), windows(value, shift), attn_mask=bias
                )
            near = branch.spread(mirror(mirror(value, -2, 2, 2), -1, 2, 2))
            x = x + branch.project(near + unwindow(seen, size, shift)) * rescale + rebias
            out.append(x + branch.mlp(x))
        return out


def mirror(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Extend an axis by its reflection."""
    if not (before or after):
        return x
    first, last = x.narrow(axis, 1, before), x.narrow(axis, x.shape[axis] - 1 - after, after)
    return torch.cat((first.flip(axis), x, last.flip(axis)), axis)


def windows(x: Tensor, shift: int) -> Tensor:
    """(N, 98, H, W) to windows (N * windows, 2, 64, 49) of a grid moved by `shift`, borders reflected."""
    for axis in (-2, -1):
        x = mirror(x, axis, shift, -(x.shape[axis] + shift) % WINDOW)
    n, _, h, w = x.shape
    cut = x.view(n, HEADS, -1, h // WINDOW, WINDOW, w // WINDOW, WINDOW).permute(0, 3, 5, 1, 4, 6, 2)
    return cut.reshape(-1, HEADS, WINDOW**2, WIDTH // HEADS)


def unwindow(x: Tensor, size: torch.Size, shift: int) -> Tensor:
    """The inverse of `windows`."""
    h, w = (-(-(n + shift) // WINDOW) for n in size)
    whole = x.view(-1, h, w, HEADS, WINDOW, WINDOW, WIDTH // HEADS).permute(0, 3, 6, 1, 4, 2, 5)
    whole = whole.reshape(-1, WIDTH, h * WINDOW, w * WINDOW)
    return whole[..., shift : shift + size[0], shift : shift + size[1]]


class GIFNet(LearnedSliceMethod):
    """GIFNet.

    Notes
    -----
    The authors' program fuses medical pairs, as all others, by the way that was trained on focal planes.  Of
    the 822,780 parameters of a published file 652,676 run; the rest (the other task's half of the second
    block, the reconstruction of the shared features) has no influence on the result and is not kept.
    Sides shorter than 8 pixels, which the authors' program refuses, are extended by repeated rows or columns.
    """

    info = MethodInfo(
        name="gifnet",
        summary="One network for all fusion tasks, two tasks' features in windows",
        dims=2,
        paper="Cheng et al., One Model for ALL: Low-Level Task Interaction Is a Key to Task-Agnostic Image "
        "Fusion, CVPR 2025",
        trained_on="phantom (64 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/gifnet.safetensors",
            sha256="8beef59ea21a15dbfe8864d98661953c1f8be833d6c32707ee1277c5df7bab4f",
        ),
        params=652_676,
        cost=12.0,
        tolerance=5e-5,
    )
    recipes = {"default": "._recipes_windows:GIFNetRecipe"}
    expected_failed_checks = {"identical_inputs": "a network on both images at once has no such identity"}
    network: GIFNetNet

    def __init__(self, weights: str | None = None, planes: str = "axial") -> None:
        super().__init__(weights, False, planes)

    def build(self) -> nn.Module:
        return GIFNetNet()

    def setup(self, device: torch.device | str = "cpu") -> None:
        super().setup(device)
        if self.device.type == "cpu":  # oneDNN need not sort memory
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        h, w = a.shape[-2:]
        short = (0, max(0, WINDOW - w), 0, max(0, WINDOW - h))
        step = len(a) if at_once(a) else 1
        pairs = zip(*(torch.split(nnf.pad(x, short, mode="replicate"), step) for x in (b, a)), strict=True)
        return torch.cat([self.network(x, y) for x, y in pairs])[..., :h, :w]


def _layout() -> Layout:
    net, blocks = (
        "extractor_multask.SwinTransformerSpecific",
        "extractor_multask.SwinTransformerSpecific.layer1.blocks",
    )
    table = {"gain": f"{net}.layer1.weights_mfif.0"}
    layers = {
        "embed_modal": f"{net}.patch_embed_ivif.proj",
        "embed_focus": f"{net}.patch_embed_mfif.proj",
        "unembed": f"{net}.patch_unembed.proj.0",
        **{f"encoder.{i}": f"getSharedFeatures.conv_{i + 1}.conv2d" for i in range(3)},
        **{f"decoder.{i}": f"cnnDecoder.decoder.{3 * i + 1}" for i in range(4)},
    }
    table |= {f"join.{i}.weight": f"cnnDecoder.fuseComplementFeatures.mlp.{i}.weight" for i in (0, 2)}
    for ours, block, kind in (("modal", 0, ""), ("focus.0", 0, "_mfif"), ("focus.1", 1, "_mfif")):
        norm, attention = f"{blocks}.{block}.norm1{kind}", f"{blocks}.{block}.attn"
        table |= {f"{ours}.norm.{x}": f"{norm}.{x}" for x in ("weight", "bias")}
        layers |= {f"{ours}.norm.rescale": f"{norm}.meta1", f"{ours}.norm.rebias": f"{norm}.meta2"}
        for mine, theirs in (("keys", "QK"), ("value", "V"), ("spread", "conv"), ("project", "proj")):
            layers[f"{ours}.{mine}"] = f"{attention}.{theirs}{kind}"
        layers |= {f"{ours}.mlp.{i}": f"{blocks}.{block}.mlp{kind}.mlp.{i}" for i in (0, 2)}
    for i in range(2):
        layers |= {f"positions.{i}.{j}": f"{blocks}.{i}.attn.attn.meta.{j}" for j in (0, 2)}
    table |= {f"{o}.{kind}": f"{t}.{kind}" for o, t in layers.items() for kind in ("weight", "bias")}
    unused = ("decoder_rec.*", f"{net}.layer1.weights*", f"{blocks}.*.relative_positions", f"{blocks}.1.*")
    return Layout("authors'", table, _reshaped, unused)


def _reshaped(name: str, tensor: Tensor) -> Tensor:
    if name.startswith("modal.keys"):
        return tensor[WIDTH:]  # its queries ask nothing
    if ".norm." not in name:
        return tensor
    return tensor.flatten(1) if name.endswith(("rescale.weight", "rebias.weight")) else tensor.flatten()


GIFNet.layouts = (_layout(),)
