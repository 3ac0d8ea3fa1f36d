"""The default `dcfb` network: DCFB features at a quarter of the resolution steer a fusion at full resolution.

A three-level U of DCFB blocks (tokens of 4, 8 and 16 voxels) reads both images and gathers, block by block, a
displacement between them.  It aligns the functional image, and from the tokens and full-resolution stems of
both images a small head predicts a weight and a residual for every voxel::

    fused = w * a + (1 - w) * b' + r,      0 <= w <= 1,  |r| <= 0.1

The last layer starts at zero, so training starts at the plain average of the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .block import DCFB, Parts

# Sizes are padded to a multiple of this: three levels of tokens, the finest of four voxels.
STRIDE = 16
# The residual fades below about FAINT, and everything below DARK, of the brighter source.
FAINT, DARK = 0.02, 0.01
HEAD_LAYERS = 2

Step = tuple[int, int, int]


@dataclass(frozen=True)
class Design:
    """Size and parts of the network.

    Parameters
    ----------
    dim : int
        Channels of the finest tokens; doubled at each coarser level.
    features : bool
        DCFB features and alignment at all; without them the full-resolution head stands alone.
    hidden : int
        Channels at full resolution.
    residual : float
        Largest residual.
    parts : Parts
        Of every block.
    """

    dim: int = 24
    features: bool = True
    hidden: int = 16
    residual: float = 0.1
    parts: Parts = field(default_factory=Parts)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Design:
        """The design whose state dict `state` is, so that ablations run from their weights alone."""
        if "stem_a.weight" not in state:
            return cls()  # not one of ours; loading it says what does not fit
        first = "features.encoder.0."
        parts = Parts(
            deform=first + "offset_out.weight" in state,
            attention=first + "q.weight" in state,
            conv=first + "conv_own.weight" in state,
            flat=state["stem_a.weight"].shape[2] == 1,
        )
        features = "features.norm.weight" in state
        dim = state["features.norm.weight"].numel() // 2 if features else cls.dim
        hidden = 2 * state["stem_a.weight"].shape[0]
        return cls(
            dim=dim, features=features, hidden=hidden, parts=parts if features else Parts(flat=parts.flat)
        )


class _Down(nn.Module):
    def __init__(self, dim: int, step: Step) -> None:
        super().__init__()
        self.step, merged = step, dim * step[0] * step[1] * step[2]
        self.norm, self.linear = nn.LayerNorm(merged), nn.Linear(merged, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        b, d, h, w, c = x.shape
        i, j, k = self.step
        x = x.view(b, d // i, i, h // j, j, w // k, k, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
        out: Tensor = self.linear(self.norm(x.reshape(b, d // i, h // j, w // k, -1)))
        return out


class _Up(nn.Module):
    def __init__(self, dim: int, step: Step) -> None:
        super().__init__()
        self.step = step
        self.norm, self.linear = nn.LayerNorm(dim), nn.Linear(dim, dim // 2)
        self.join = nn.Linear(dim, dim // 2)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.join(torch.cat([_resize(self.linear(self.norm(x)), self.step), skip], -1))
        return out


def _resize(x: Tensor, factor: tuple[float, ...]) -> Tensor:
    """Trilinear resampling of channels-last tokens."""
    y = F.interpolate(x.permute(0, 4, 1, 2, 3), scale_factor=factor, mode="trilinear", align_corners=False)
    return y.permute(0, 2, 3, 4, 1).contiguous()


class Coarse(nn.Module):
    """A first displacement from both images at a quarter of the resolution, by plain convolutions.

    The blocks see a few tokens around each other; a shift of the whole head is easier to see from afar.
    """

    POOL = 4

    def __init__(self, flat: bool, width: int = 24) -> None:
        super().__init__()
        self.flat = flat
        kernel, pad = ((1, 3, 3), (0, 1, 1)) if flat else ((3, 3, 3), (1, 1, 1))
        half = (1, 2, 2) if flat else (2, 2, 2)
        w = width
        self.fine = nn.Conv3d(2, w, kernel, padding=pad)
        self.middle = nn.Conv3d(w, 2 * w, kernel, half, pad)
        self.deep = nn.ModuleList(
            [nn.Conv3d(2 * w, 3 * w, kernel, half, pad), nn.Conv3d(3 * w, 3 * w, kernel, padding=pad)]
        )
        self.join = nn.Conv3d(5 * w, 2 * w, kernel, padding=pad)
        self.out = nn.Conv3d(2 * w, 3, kernel, padding=pad)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def pool(self, image: Tensor, factor: int) -> Tensor:
        """Average `factor` voxels per axis."""
        return F.avg_pool3d(image, (1, factor, factor) if self.flat else factor)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pooled images (B, 1, d, h, w) to a displacement (B, 3, d/2, h/2, w/2) in voxels before pooling."""
        fine = _act(self.fine(torch.cat([a, b], 1)))
        middle = _act(self.middle(fine))
        deep = middle
        for layer in self.deep:
            deep = _act(layer(deep))
        deep = F.interpolate(deep, size=middle.shape[2:], mode="trilinear", align_corners=False)
        field: Tensor = self.out(_act(self.join(torch.cat([middle, deep], 1)))) * self.POOL
        return field


class Features(nn.Module):
    """The U of DCFB blocks: images to tokens and displacement."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        dim, flat = design.dim, design.parts.flat
        self.step: Step = (1, 2, 2) if flat else (2, 2, 2)
        patch, width = ((1, 4, 4), (1, 8, 8)) if flat else ((4, 4, 4), (8, 8, 8))
        pad = (0 if flat else 2, 2, 2)
        self.embed = nn.ModuleList(nn.Conv3d(1, dim, width, patch, pad) for _ in range(2))
        dims = [dim, 2 * dim, 4 * dim]

        def block(level: int, shift: bool) -> DCFB:
            return DCFB(dims[level], dims[level] // 12, shift=shift, parts=design.parts)

        self.encoder = nn.ModuleList([block(0, False), block(1, False)])
        self.down = nn.ModuleList([_Down(dims[0], self.step), _Down(dims[1], self.step)])
        self.bottom = nn.ModuleList([block(2, False), block(2, True)])
        self.up = nn.ModuleList([_Up(dims[2], self.step), _Up(dims[1], self.step)])
        self.decoder = nn.ModuleList([block(1, True), block(0, True)])
        self.norm = nn.LayerNorm(2 * dim)
        if design.parts.deform:
            self.coarse = Coarse(flat)
        self.checkpointing = False

    def forward(self, a: Tensor, b: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Tokens (B, D/4, H/4, W/4, 2C) of both streams; displacement (B, D/4, H/4, W/4, 3) in voxels.

        The displacement says where in `b` the content of `a` is found; `share` of the coarse one is used.
        """
        x = torch.cat([e(t) for e, t in zip(self.embed, (a, b), strict=True)])
        x = x.permute(0, 2, 3, 4, 1).contiguous()
        scale = x.new_tensor(self.step)
        finer = tuple(1 / s for s in self.step)
        field = x.new_zeros(*x.shape[:-1], 3)
        if share and hasattr(self, "coarse"):
            first = share * self.coarse(*(self.coarse.pool(t, self.coarse.POOL) for t in (a, b)))
            first = _resize(first.permute(0, 2, 3, 4, 1), self.step) / scale**2
            field = torch.cat([first, -first])  # nearly each other's inverse, for the blocks to better
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            x, field = self._run(block, x, field)
            skips.append(x)
            x, field = down(x), _resize(field, finer) / scale
        for block in self.bottom:
            x, field = self._run(block, x, field)
        for block, up in zip(self.decoder, self.up, strict=True):
            x, field = up(x, skips.pop()), _resize(field, self.step) * scale
            x, field = self._run(block, x, field)
        tokens = self.norm(torch.cat(x.chunk(2), -1))
        return tokens, field[: a.shape[0]] * scale**2

    def _run(self, block: nn.Module, x: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
        if self.checkpointing and torch.is_grad_enabled():
            out: tuple[Tensor, Tensor] = checkpoint(block, x, field, use_reentrant=False)
            return out
        pair: tuple[Tensor, Tensor] = block(x, field)
        return pair


class FusionNetwork(nn.Module):
    """The whole network.

    Parameters
    ----------
    design : Design
    """

    def __init__(self, design: Design | None = None) -> None:
        super().__init__()
        self.design = design = design or Design()
        self.flat = design.parts.flat
        kernel, pad = ((1, 3, 3), (0, 1, 1)) if self.flat else ((3, 3, 3), (1, 1, 1))
        self.multiple = (1, STRIDE, STRIDE) if self.flat else (STRIDE,) * 3
        if design.features:
            self.features = Features(design)
            self.context = nn.Linear(2 * design.dim, design.hidden)
        self.stem_a, self.stem_b = (nn.Conv3d(1, design.hidden // 2, kernel, padding=pad) for _ in range(2))
        self.head = nn.ModuleList(
            nn.Conv3d(design.hidden, design.hidden, kernel, padding=pad) for _ in range(HEAD_LAYERS)
        )
        self.out = nn.Conv3d(design.hidden, 2, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, a: Tensor, b: Tensor, share: float = 1.0) -> Tensor:
        """Fuse.

        Parameters
        ----------
        a, b : Tensor, shape (B, 1, D, H, W), in [0, 1]
            Structural and functional; any size.
        share : float
            How much of the coarse displacement to apply; see `trust`.

        Returns
        -------
        Tensor, shape (B, 1, D, H, W), in [0, 1]
        """
        return self.explain(a, b, share)["fused"]

    def explain(self, a: Tensor, b: Tensor, share: float = 1.0) -> dict[str, Tensor]:
        """`forward` with what leads to it: ``fused``, ``weight`` of `a`, ``residual``, ``aligned`` `b`."""
        batch, _, *size = a.shape
        if self.flat:
            a, b = (x.transpose(1, 2).reshape(-1, 1, 1, *size[1:]) for x in (a, b))
        shape = a.shape[2:]
        far = [p for n, m in zip(shape[::-1], self.multiple[::-1], strict=True) for p in (0, -n % m)]
        if any(far):
            a, b = (F.pad(x, far, mode="replicate") for x in (a, b))
        # Where both images are black, so is the result, wherever the alignment moves what.
        lit = (torch.maximum(a, b) / DARK).clamp(0, 1)
        context = None
        if self.design.features:
            tokens, field = self.features(a, b, share)
            b = warp(b, field)
            context = self.context(tokens).permute(0, 4, 1, 2, 3)
            context = F.interpolate(context, size=a.shape[2:], mode="trilinear", align_corners=False)
        hidden = torch.cat([self.stem_a(a), self.stem_b(b)], 1)
        for layer in self.head:
            # oneDNN is about twice as fast on channels-last here.
            hidden = layer(_act(hidden).contiguous(memory_format=torch.channels_last_3d))
            if context is not None:
                hidden, context = hidden + context, None
        logit, raw = self.out(_act(hidden)).chunk(2, 1)
        weight = torch.sigmoid(logit)
        peak = torch.maximum(a, b)
        residual = self.design.residual * torch.tanh(raw) * (peak / (peak + FAINT))
        fused = (weight * a + (1 - weight) * b + residual).clamp(0, 1) * lit
        out = {"fused": fused, "weight": weight, "residual": residual, "aligned": b}
        out = {k: v[..., : shape[0], : shape[1], : shape[2]] for k, v in out.items()}
        if self.flat:
            out = {k: v.reshape(batch, size[0], 1, *size[1:]).transpose(1, 2) for k, v in out.items()}
        return out


def _act(x: Tensor) -> Tensor:
    # At full resolution the exact GELU's backward pass would cost as much as a convolution.
    return F.leaky_relu(x, 0.1)


def trust(network: FusionNetwork, a: Tensor, b: Tensor) -> float:
    """How much of the coarse displacement to apply to a pair: none, half or all of it.

    Heads unlike those it was trained on (with skull, other voxels) can mislead it.  The share that gives the
    functional image the most mutual information with the structural one is taken; none at a draw.

    Parameters
    ----------
    a, b : Tensor, shape (1, 1, D, H, W)
        Whole volumes.
    """
    if (
        network.flat
        or min(a.shape[2:]) < STRIDE
        or not (network.design.features and network.design.parts.deform)
    ):
        return 0.0
    coarse = network.features.coarse
    far = [p for n in a.shape[:1:-1] for p in (0, -n % STRIDE)]
    a, b = (F.pad(x, far, mode="replicate") for x in (a, b))
    field = coarse(*(coarse.pool(x, coarse.POOL) for x in (a, b))).permute(0, 2, 3, 4, 1)
    a, b = (F.avg_pool3d(x, 2) for x in (a, b))
    field = field / 2
    shares = (0.0, 0.5, 1.0)
    information = [_mutual_information(a, warp(b, field * share) if share else b) for share in shares]
    return shares[information.index(max(information))]


def _mutual_information(a: Tensor, b: Tensor, bins: int = 32) -> float:
    """Mutual information of two images in [0, 1], in nats, from a joint histogram."""
    i, j = ((x.flatten() * bins).long().clamp(0, bins - 1) for x in (a, b))
    joint = torch.bincount(i * bins + j, minlength=bins * bins).view(bins, bins).double()
    joint = joint / joint.sum()
    apart = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    seen = joint > 0
    return float((joint[seen] * (joint[seen] / apart[seen]).log()).sum())


SWITCHES = ("displacement", "attention", "convolution", "context")


@torch.no_grad()
def switch_off(network: FusionNetwork, part: str) -> None:
    """Take one of `SWITCHES` out of a trained network by setting the weights that lead from it to zero.

    "context" is everything that the blocks say to the full-resolution head; the alignment stays.
    """
    if not network.design.features:
        return
    blocks = [m for m in network.features.modules() if isinstance(m, DCFB)]
    silenced: list[Tensor] = []
    if part == "displacement":
        last = [b.offset_out for b in blocks if b.parts.deform] + [c.out for c in [network.features.coarse]]
        silenced = [p for layer in last for p in layer.parameters()]
    elif part == "context":
        silenced = list(network.context.parameters())
    else:
        for block in blocks:
            if block.parts.attention and block.parts.conv:
                attention, conv = block.join.weight.chunk(2, 1)
                silenced.append(attention if part == "attention" else conv)
    for weight in silenced:
        weight.zero_()


def warp(image: Tensor, field: Tensor) -> Tensor:
    """Sample `image` (B, 1, D, H, W) at voxel + displacement, given in voxels on any grid (B, d, h, w, 3)."""
    size = image.shape[2:]
    field = field.permute(0, 4, 1, 2, 3)
    if field.shape[2:] != size:
        field = F.interpolate(field, size=size, mode="trilinear", align_corners=False)
    axes = [(2 * torch.arange(n, device=image.device, dtype=image.dtype) + 1) / n - 1 for n in size]
    grid = [
        f * (2 / n) + axis.view([-1 if j == i else 1 for j in range(3)])
        for i, (f, n, axis) in enumerate(zip(field.unbind(1), size, axes, strict=True))
    ]
    return F.grid_sample(image, torch.stack(grid[::-1], -1), padding_mode="border", align_corners=False)
