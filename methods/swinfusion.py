"""SwinFusion: window attention within each image, then across both, at full resolution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.method import MethodInfo, Weights

from ._learned import LearnedSliceMethod, at_once
from ._packed import Linear
from ._weights import Layout

WIDTH, HEADS, WINDOW, SHIFT, SLOPE = 60, 6, 8, 4, 0.2
EXTRACT, FUSE, REBUILD = 4, 2, 4  # blocks; stages of two blocks each; blocks


class Layer(nn.Module):
    """What a transformer block has for the tokens (N, H, W, 60) of one image.

    Parameters
    ----------
    cross : bool
        Keys and values are those of another image.
    """

    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        if cross:
            self.queries, self.keys = Linear(WIDTH, WIDTH), Linear(WIDTH, 2 * WIDTH)
        else:
            self.qkv = Linear(WIDTH, 3 * WIDTH)
        self.project = Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(Linear(WIDTH, 2 * WIDTH), nn.GELU(), Linear(2 * WIDTH, WIDTH))
        self.bias = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, HEADS))
        nn.init.trunc_normal_(self.bias, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def positions(self) -> Tensor:
        """Relative position bias (6, 8, 8, 8, 8): of a query pixel to a key pixel of its window."""
        steps = torch.arange(WINDOW, device=self.bias.device)
        offset = steps[:, None] - steps + WINDOW - 1
        index = offset[:, None, :, None] * (2 * WINDOW - 1) + offset[None, :, None, :]
        return self.bias[index].movedim(-1, 0)

    def finish(self, x: Tensor, qkv: Tensor, bias: Tensor, shift: int, h: int) -> Tensor:
        """The block on rows `x` of windows of height `h`, whose queries, keys and values are `qkv`."""
        parts = []
        for start, stop, w in segments(x.shape[2], shift):
            mask = bias[:, :h, :w, :h, :w].reshape(HEADS, h * w, h * w)
            parts.append(attend(qkv[:, :, start:stop], mask, h, w))
        x = x + self.project(torch.cat(parts, 2))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Block(nn.Module):
    """Attention inside windows of one image; `shift` moves their grid, and the border cuts some."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.layer, self.shift = Layer(cross=False), shift

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, 60) to the same shape."""
        bias, layer = self.layer.positions(), self.layer
        out = [
            layer.finish(rows, layer.qkv(layer.norm1(rows)), bias, self.shift, h)
            for h, rows in strips(x, self.shift)
        ]
        return torch.cat(out, 1)


class CrossBlock(nn.Module):
    """Attention inside windows, the queries of each of two images to keys and values of the other."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.layers, self.shift = nn.ModuleList(Layer(cross=True) for _ in range(2)), shift

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Twice (N, H, W, 60) to the same shapes."""
        first, second = (cast(Layer, layer) for layer in self.layers)
        biases = first.positions(), second.positions()
        out: tuple[list[Tensor], list[Tensor]] = ([], [])
        for (h, x), (_, y) in zip(*(strips(tokens, self.shift) for tokens in pair), strict=True):
            own = first.norm1(x), second.norm1(y)
            for i, (layer, rows) in enumerate(zip((first, second), (x, y), strict=True)):
                qkv = torch.cat((layer.queries(own[i]), layer.keys(own[1 - i])), -1)
                out[i].append(layer.finish(rows, qkv, biases[i], self.shift, h))
        return torch.cat(out[0], 1), torch.cat(out[1], 1)


def strips(x: Tensor, shift: int) -> Iterator[tuple[int, Tensor]]:
    """Height of windows, and rows of them: on a CPU one row after another, which stays in its cache."""
    for start, stop, h in segments(x.shape[1], shift):
        step = stop - start if torch.is_grad_enabled() or at_once(x) else h
        for i in range(start, stop, step):
            yield h, x[:, i : i + step]


def segments(length: int, shift: int) -> list[tuple[int, int, int]]:
    """Cut an axis, a multiple of the window, into (start, stop, size of windows)."""
    if not shift:
        return [(0, length, WINDOW)]
    cuts = [(0, shift, shift), (shift, length - shift, WINDOW), (length - shift, length, WINDOW - shift)]
    return [cut for cut in cuts if cut[1] > cut[0]]


def attend(qkv: Tensor, mask: Tensor, h: int, w: int) -> Tensor:
    """Attention inside windows of (h, w) that tile `qkv` (N, H, W, 180); `mask` is added to scores."""
    n, height, width, _ = qkv.shape
    parts = qkv.reshape(n, height // h, h, width // w, w, 3, HEADS, WIDTH // HEADS)
    q, k, v = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, HEADS, h * w, WIDTH // HEADS)
    # On a CPU this takes half the time of torch's attention, whose heads are wider.
    scores = (q * (WIDTH // HEADS) ** -0.5) @ k.mT
    out: Tensor = scores.add_(mask).softmax(-1) @ v
    out = out.view(n, height // h, width // w, HEADS, h, w, -1).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(n, height, width, WIDTH)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def blocks(depth: int) -> nn.Sequential:
    return nn.Sequential(*(Block(SHIFT * (i % 2)) for i in range(depth)))


class SwinFusionNet(nn.Module):
    """The part of the network that runs; images in [0, 1], of sizes that are multiples of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.ModuleList((conv(1, WIDTH // 2), conv(WIDTH // 2, WIDTH)))
        self.norm = nn.LayerNorm(WIDTH)  # one module, before every group of blocks
        self.extract = nn.ModuleList(blocks(EXTRACT) for _ in range(2))
        self.norm_extract = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.within = nn.ModuleList(nn.ModuleList(blocks(2) for _ in range(2)) for _ in range(FUSE))
        self.across = nn.ModuleList(
            nn.ModuleList(CrossBlock(SHIFT * i) for i in range(2)) for _ in range(FUSE)
        )
        self.norm_fuse = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.join = conv(2 * WIDTH, WIDTH)
        self.rebuild, self.norm_rebuild = blocks(REBUILD), nn.LayerNorm(WIDTH)
        self.last = nn.ModuleList(
            (conv(WIDTH, WIDTH // 2), conv(WIDTH // 2, WIDTH // 4), conv(WIDTH // 4, 1))
        )

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W), twice, to the fused image, about [0, 1]."""
        pair = []
        for i, x in enumerate((structural, functional)):
            for layer in self.shallow:
                x = nnf.leaky_relu(layer(x), SLOPE)
            pair.append(self.norm_extract[i](self.extract[i](self.norm(x.movedim(1, -1)))))
        x, y = (self.norm(tokens) for tokens in pair)
        for within, across in zip(self.within, self.across, strict=True):
            x, y = (group(tokens) for group, tokens in zip(cast(nn.ModuleList, within), (x, y), strict=True))
            for block in cast(nn.ModuleList, across):
                x, y = block((x, y))
        tokens = torch.cat((self.norm_fuse[0](x), self.norm_fuse[1](y)), -1)
        x = nnf.leaky_relu(self.join(tokens.movedim(-1, 1)), SLOPE)
        x = self.norm_rebuild(self.rebuild(self.norm(x.movedim(1, -1)))).movedim(-1, 1)
        for layer in self.last[:-1]:
            x = nnf.leaky_relu(layer(x), SLOPE)
        image: Tensor = self.last[-1](x)
        return image


class SwinFusion(LearnedSliceMethod):
    """SwinFusion.

    Notes
    -----
    As in the authors' program, images are extended by their mirror image to the next larger multiple of 8 (a
    multiple by 8 more), and the result is cropped.  It has two layers for the functional image that are never
    called: both images go through those of the structural one.
    Of the 973,681 parameters of a published file 965,251 are used.
    """

    info = MethodInfo(
        name="swinfusion",
        summary="Window attention within each image, then across both",
        dims=2,
        paper="Ma et al., SwinFusion: Cross-domain Long-range Learning for General Image Fusion via Swin "
        "Transformer, IEEE/CAA JAS 9(7), 2022",
        trained_on="phantom (64 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/swinfusion.safetensors",
            sha256="b17a8ed782724a49cffeda4d6d9ad57e15f8c2d3086204157c27a47806893f7c",
        ),
        params=965_251,
        cost=49.0,
        tolerance=5e-5,
    )
    recipes = {"default": "._recipes_windows:SwinFusionRecipe"}
    expected_failed_checks = {"identical_inputs": "a network on both images at once has no such identity"}
    batch_pixels = 1 << 17  # on a GPU; attention before torch 2.7 takes 65,535 windows at most
    network: SwinFusionNet

    def __init__(self, weights: str | None = None, planes: str = "axial") -> None:
        super().__init__(weights, False, planes)

    def build(self) -> nn.Module:
        return SwinFusionNet()

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        h, w = a.shape[-2:]
        step = len(a) if at_once(a) else 1
        pairs = zip(*(torch.split(mirrored(mirrored(x, -2), -1), step) for x in (b, a)), strict=True)
        return torch.cat([self.network(x, y) for x, y in pairs])[..., :h, :w]


def mirrored(x: Tensor, axis: int) -> Tensor:
    """Extend an axis to the next larger multiple of the window, by the image and its mirror image in turn."""
    n = x.shape[axis]
    place = torch.arange((n // WINDOW + 1) * WINDOW, device=x.device) % (2 * n)
    return x.index_select(axis, torch.minimum(place, 2 * n - 1 - place))


def _layout() -> Layout:
    def layer(ours: str, theirs: str, side: str, attention: dict[str, str]) -> None:
        names = {"norm1": f"norm1{side}", "norm2": f"norm2{side}", "project": f"attn{side}.proj"}
        names |= {k: f"attn{side}.{v}" for k, v in attention.items()}
        names |= {"mlp.0": f"mlp{side}.fc1", "mlp.2": f"mlp{side}.fc2"}
        layers.update({f"{ours}.{k}": f"{theirs}.{v}" for k, v in names.items()})
        table[f"{ours}.bias"] = f"{theirs}.attn{side}.relative_position_bias_table"

    table: dict[str, str] = {}
    layers = {"norm": "patch_embed.norm", "join": "conv_after_body_Fusion", "norm_rebuild": "norm_Re"}
    layers |= {f"shallow.{i}": f"conv_first{i + 1}_A" for i in range(2)}
    layers |= {f"last.{i}": f"conv_last{i + 1}" for i in range(3)}
    for i, side in enumerate(("A", "B")):
        layers |= {f"norm_extract.{i}": f"norm_Ex_{side}", f"norm_fuse.{i}": f"norm_Fusion_{side}"}
        for j in range(EXTRACT):
            layer(
                f"extract.{i}.{j}.layer", f"layers_Ex_{side}.0.residual_group.blocks.{j}", "", {"qkv": "qkv"}
            )
        for stage in range(FUSE):
            for j in range(2):
                within = f"layers_Fusion.{stage}.residual_group_{side}.blocks.{j}"
                layer(f"within.{stage}.{i}.{j}.layer", within, "", {"qkv": "qkv"})
                across = f"layers_Fusion.{stage}.residual_group.blocks.{j}"
                layer(f"across.{stage}.{j}.layers.{i}", across, f"_{side}", {"queries": "q", "keys": "kv"})
    for j in range(REBUILD):
        layer(f"rebuild.{j}.layer", f"layers_Re.0.residual_group.blocks.{j}", "", {"qkv": "qkv"})
    table |= {f"{o}.{kind}": f"{t}.{kind}" for o, t in layers.items() for kind in ("weight", "bias")}
    return Layout("authors'", table, unused=("conv_first*_B.*", "*.relative_position_index", "*.attn_mask"))


SwinFusion.layouts = (_layout(),)
