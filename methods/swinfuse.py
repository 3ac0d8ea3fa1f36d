"""SwinFuse: a pure Swin transformer auto-encoder at full resolution, fused by row and column L1 activity."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fusebench.method import MethodInfo, Weights

from ._conv import trains_on_gpu
from ._fast_swin import FastSwin
from ._learned import LearnedSliceMethod, at_once, content_box
from ._weights import Layout

WIDTH, WINDOW, HEADS, DEPTH, TILE = 96, 7, (1, 2, 4), 6, 224


class SwinBlock(nn.Module):
    """Window attention and MLP, each with a residual, on tokens (N, H, W, 96).

    Parameters
    ----------
    heads : int
    shift : int
        Offset of the window grid.  Windows cut by the border are smaller; this equals the usual cyclic
        shift with a mask, and takes images of any size without padding.
    """

    def __init__(self, heads: int, shift: int) -> None:
        super().__init__()
        self.heads, self.shift = heads, shift
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.bias = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(N, H, W, 96) to the same shape; pixels not `inside` (N, H, W) are not seen by those that are."""
        bias = self._bias()
        columns = _segments(x.shape[2], self.shift)
        # Rows of windows are independent; one at a time stays in the processor's cache.
        rows = [
            (start, stop, h)
            for r, s, h in _segments(x.shape[1], self.shift)
            for start, stop in (
                [(r, s)] if self.training or at_once(x) else [(i, i + h) for i in range(r, s, h)]
            )
        ]
        unseen = None if inside is None else -1e9 * ~inside
        return torch.cat([self._rows(x, unseen, bias, columns, *row) for row in rows], 1)

    def _rows(
        self,
        x: Tensor,
        unseen: Tensor | None,
        bias: Tensor,
        columns: list[tuple[int, int, int]],
        start: int,
        stop: int,
        h: int,
    ) -> Tensor:
        """The block on rows that hold whole windows of height `h`."""
        x = x[:, start:stop]
        qkv = self.qkv(self.norm1(x))
        parts = []
        for c, d, w in columns:
            mask = bias[:, :h, :w, :h, :w].reshape(1, self.heads, h * w, h * w)
            if unseen is not None:
                keys = unseen[:, start:stop, c:d].reshape(len(x), (stop - start) // h, h, (d - c) // w, w)
                mask = mask + keys.transpose(2, 3).reshape(-1, 1, 1, h * w)
            parts.append(self._attend(qkv[:, :, c:d], mask, h, w))
        mixed = torch.cat(parts, 2)
        x = x + self.project(mixed)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def _bias(self) -> Tensor:
        """Relative position bias (heads, 7, 7, 7, 7): of a query pixel to a key pixel of its window."""
        steps = torch.arange(WINDOW, device=self.bias.device)
        offset = steps[:, None] - steps + WINDOW - 1
        index = offset[:, None, :, None] * (2 * WINDOW - 1) + offset[None, :, None, :]
        return self.bias[index].movedim(-1, 0)

    def _attend(self, qkv: Tensor, mask: Tensor, h: int, w: int) -> Tensor:
        """Attention inside windows of (h, w) that tile `qkv` (N, H, W, 3 * 96); `mask` is added to scores."""
        n, height, width, _ = qkv.shape
        parts = qkv.reshape(n, height // h, h, width // w, w, 3, self.heads, WIDTH // self.heads)
        q, k, v = parts.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, self.heads, h * w, WIDTH // self.heads)
        # The gradients of the other kernels vary between runs.
        with sdpa_kernel(SDPBackend.MATH) if trains_on_gpu(q) else nullcontext():
            out = nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.view(n, height // h, width // w, self.heads, h, w, -1).permute(0, 1, 4, 2, 5, 3, 6)
        return out.reshape(n, height, width, WIDTH)


def _segments(length: int, shift: int) -> list[tuple[int, int, int]]:
    """Cut an axis into (start, stop, window size): a short window, whole ones, a short one."""
    first = shift if length > WINDOW else 0
    last = length - (length - first) % WINDOW
    cuts = [(0, first, first), (first, last, WINDOW), (last, length, length - last)]
    return [(start, stop, size) for start, stop, size in cuts if stop > start]


class SwinFuseNet(nn.Module):
    """1x1 embedding to 96, three stages of six blocks, 1x1 reconstruction; images in [-1, 1].

    Attributes
    ----------
    blocks_run : int
        Blocks that run in each stage, of six.
    """

    blocks_run: int = DEPTH

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm_embed = nn.Linear(1, WIDTH), nn.LayerNorm(WIDTH)
        self.stages = nn.ModuleList(
            nn.ModuleList(SwinBlock(heads, WINDOW // 2 * (i % 2)) for i in range(DEPTH)) for heads in HEADS
        )
        self.norm, self.last = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 1)

    def encode(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """(N, H, W) to features (N, H, W, 96); of pixels that are not `inside` they mean nothing."""
        x = self.norm_embed(self.embed(x[..., None]))
        for stage in self.stages:
            y = x
            for block in list(stage)[: self.blocks_run]:  # type: ignore[call-overload]
                y = block(y, inside)
            x = x + y
        features: Tensor = self.norm(x)
        return features

    def decode(self, features: Tensor) -> Tensor:
        """Features to images (N, H, W) in (-1, 1)."""
        images: Tensor = self.last(features).tanh()[..., 0]
        return images

    def forward(self, x: Tensor) -> Tensor:
        """Auto-encode single images, which is how the network is trained."""
        return self.decode(self.encode(x))


class SwinFuse(LearnedSliceMethod):
    """SwinFuse.

    Parameters
    ----------
    compat : bool
        The authors' program, no weights of which were ever published: the loop over blocks returns in its
        first round, so only the first block of each stage runs and no window is ever shifted; pictures
        are cut into tiles of 224 (padded with mid grey) that are fused each by itself, which leaves
        seams; the row part and the column part of the fused features are added, which doubles them.
        (Theirs also stretches every picture to its own range when saving, which no comparison should.)
        By default all blocks run, with shifted windows, on the whole picture, and the two parts are
        averaged, which is what the shipped weights were trained for.

    Notes
    -----
    By default the box around what is not black in both images is fused, and what is black in both is black in
    the result, which a tanh reaches only at infinity.  The activities that weigh an image are then those of
    its content, whatever the frame around it.
    """

    info = MethodInfo(
        name="swinfuse",
        summary="Swin transformer auto-encoder, row and column L1 fusion",
        dims=2,
        paper="Wang et al., SwinFuse: A Residual Swin Transformer Fusion Network, IEEE TIM 71, 2022",
        trained_on="phantom (24 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/swinfuse.safetensors",
            sha256="ef7f3d5b908ea7f28f172a95c4d1b681ddaecf7d44bc65a9afbb125ea3210485",
        ),
        params=2_020_891,
        notes="on a CPU in the faster form (fast=False: the plain network)",
        cost=24.0,
        tolerance=5e-5,
    )
    recipes = {"default": "._recipes_2d:SwinFuseRecipe"}
    batch_pixels = 1 << 17  # on a GPU 42,800 windows; attention before torch 2.7 takes 65,535 at most
    network: SwinFuseNet
    quick: FastSwin | None

    def describe(self) -> MethodInfo:
        info = super().describe()
        if not self.compat or self.weights:
            return info
        return replace(info, trained_on=f"{info.trained_on}; not for compat, which runs one block in six")

    def build(self) -> nn.Module:
        network = SwinFuseNet()
        network.blocks_run = 1 if self.compat else DEPTH
        return network

    def faster(self) -> FastSwin | None:
        return None if self.compat else FastSwin(self.network, _segments)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        pairs = list(zip(b[:, 0], a[:, 0], strict=True))
        if self.compat:
            return torch.stack([self._fuse_tiles(x, y) for x, y in pairs])[:, None]
        fused = torch.zeros_like(a)
        crops = [
            (x[box], y[box], out[box])
            for (x, y), out in zip(pairs, fused[:, 0], strict=True)
            if (box := content_box(x, y)) is not None
        ]
        if at_once(a):
            self._fuse_padded(crops)
        else:
            for x, y, out in crops:
                out.copy_(
                    self._fuse_content(x[None], y[None])[0] if self.quick is None else self._quick(x, y)
                )
        return fused * ((a != 0) | (b != 0))

    def _fuse_content(self, first: Tensor, second: Tensor, inside: Tensor | None = None) -> Tensor:
        """Fuse images (N, H, W), of which only what is `inside` counts."""
        f1, f2 = (self.network.encode(2 * x - 1, inside) for x in (first, second))
        w1 = _share(f1, f2, inside)
        return self.network.decode(w1 * f1 + (1 - w1) * f2) / 2 + 0.5

    def _quick(self, first: Tensor, second: Tensor) -> Tensor:
        """`_fuse_content` of images (H, W) in the faster form."""
        assert self.quick is not None
        quick, shape = self.quick, (first.shape[0], first.shape[1])
        grids = quick.grids(*shape)
        f1, f2 = (quick.encode(2 * x - 1, grids) for x in (first, second))
        w1 = _share(f1[None, None], f2[None, None], None)[0, 0]
        return quick.decode(w1 * f1 + (1 - w1) * f2, grids, shape) / 2 + 0.5

    def _fuse_padded(self, crops: list[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Fuse images of different sizes, the first two of each triple into the third, in one batch.

        In an image no larger than a window the shifted grid is not shifted; those are batches of their own.
        """
        alike: dict[tuple[bool, ...], list[tuple[Tensor, Tensor, Tensor]]] = {}
        for crop in crops:
            alike.setdefault(tuple(n > WINDOW for n in crop[0].shape), []).append(crop)
        for group in alike.values():
            first, second, inside = (
                pad_to_largest(images)
                for images in zip(*((x, y, torch.ones_like(x)) for x, y, _ in group), strict=True)
            )
            fused = self._fuse_content(first, second, inside.bool())
            for (_, _, out), image in zip(group, fused, strict=True):
                out.copy_(image[: out.shape[0], : out.shape[1]])

    def _fuse_tiles(self, first: Tensor, second: Tensor) -> Tensor:
        h, w = first.shape
        pair = nnf.pad(2 * torch.stack((first, second)) - 1, (0, -w % TILE, 0, -h % TILE))
        tiles = pair.unfold(1, TILE, TILE).unfold(2, TILE, TILE)
        rows = [torch.cat([self._fuse_tile(t) for t in row.unbind(1)], 1) for row in tiles.unbind(1)]
        return torch.cat(rows)[:h, :w] / 2 + 0.5

    def _fuse_tile(self, tile: Tensor) -> Tensor:
        """Fuse one tile (2, 224, 224).  Windows never meet, so equal ones (padding, air) are encoded once."""
        n = TILE // WINDOW
        windows = tile.reshape(2, n, WINDOW, n, WINDOW).transpose(2, 3).reshape(-1, WINDOW**2)
        distinct, which = torch.unique(windows, dim=0, return_inverse=True)
        features = self.network.encode(distinct.view(-1, WINDOW, WINDOW))
        f1, f2 = features[which].view(2, n * n, WINDOW, WINDOW, WIDTH)
        e1, e2 = (f.abs().mean((0, 1, 2), keepdim=True).exp() for f in (f1, f2))
        c1, c2 = (f.abs().mean(-1, keepdim=True).exp() for f in (f1, f2))
        row, column, eps = e1 + e2, c1 + c2, 1e-5
        fused = (e1 / (row + eps) + c1 / (column + eps)) * f1 + (e2 / (row + eps) + c2 / (column + eps)) * f2
        image = self.network.decode(fused)
        return image.view(n, n, WINDOW, WINDOW).transpose(1, 2).reshape(TILE, TILE)


def _share(f1: Tensor, f2: Tensor, inside: Tensor | None) -> Tensor:
    """Share of the first features (N, H, W, C), by row and column activity."""
    a1, a2 = f1.abs(), f2.abs()
    row = (_mean(a1, inside) - _mean(a2, inside)).sigmoid()
    column = (a1.mean(-1, keepdim=True) - a2.mean(-1, keepdim=True)).sigmoid()
    return (row + column) / 2


def _mean(x: Tensor, inside: Tensor | None) -> Tensor:
    """Mean over the pixels `inside`, (N, H, W, C) to (N, 1, 1, C)."""
    if inside is None:
        return x.mean((1, 2), keepdim=True)
    share = inside / inside.sum((1, 2), keepdim=True)
    return (x * share[..., None]).sum((1, 2), keepdim=True)


def pad_to_largest(images: Sequence[Tensor]) -> Tensor:
    """Stack images (H, W), with zeros below and to the right of the smaller ones."""
    h, w = (max(x.shape[axis] for x in images) for axis in (0, 1))
    return torch.stack([nnf.pad(x, (0, w - x.shape[1], 0, h - x.shape[0])) for x in images])


def _layout() -> Layout:
    names = {
        "embed": "patch_embed.proj",
        "norm_embed": "patch_embed.norm",
        "norm": "norm",
        "last": "conv",
    }
    table: dict[str, str] = {}
    for s in range(len(HEADS)):
        for i in range(DEPTH):
            ours, theirs = f"stages.{s}.{i}", f"EN{s + 1}_0.blocks.{i}"
            table[f"{ours}.bias"] = f"{theirs}.attn.relative_position_bias_table"
            names |= {f"{ours}.{n}": f"{theirs}.{n}" for n in ("norm1", "norm2")}
            names |= {f"{ours}.qkv": f"{theirs}.attn.qkv", f"{ours}.project": f"{theirs}.attn.proj"}
            names |= {f"{ours}.mlp.0": f"{theirs}.mlp.fc1", f"{ours}.mlp.2": f"{theirs}.mlp.fc2"}
    table |= {f"{o}.{kind}": f"{t}.{kind}" for o, t in names.items() for kind in ("weight", "bias")}
    unused = ("*.relative_position_index", "*.attn_mask", "norm_up.*", "prelu.*")
    return Layout("authors'", table, _pointwise, unused)


def _pointwise(name: str, tensor: Tensor) -> Tensor:
    # A 1x1 convolution is a linear layer.
    return tensor.flatten(1) if name in ("embed.weight", "last.weight") else tensor


SwinFuse.layouts = (_layout(),)
