"""The default `dcfb` network: DCFB features at a quarter of the resolution steer a fusion at full resolution.

A three-level U of DCFB blocks (tokens of 4, 8 and 16 voxels) reads both images and gathers, block by block, a
displacement between them, which aligns the functional image where it has to be.  From the tokens and
full-resolution stems of both images a small head predicts a weight and a residual for every voxel.  Their
departure from the plain average is balanced, so that it brings the result no nearer to one source than to the
other, and scaled::

    fused = (a + b') / 2 + strength * (e - beta (a - b')),     e = (w - 1/2) (a - b') + r,  |r| <= 0.1

with beta = <e, a - b'> / <a - b', a - b'> in a small window.  The last layer starts at zero, so
training starts at the average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .alignment import STRIDE, Coarse, act, warp
from .block import DCFB, Parts

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


class Features(nn.Module):
    """The U of DCFB blocks: images to tokens and displacement."""

    def __init__(self, design: Design) -> None:
        super().__init__()
        dim, flat = design.dim, design.parts.flat
        self.step: Step = (1, 2, 2) if flat else (2, 2, 2)
        self.embed = nn.ModuleList(self.embedding(design) for _ in range(2))
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

    @staticmethod
    def embedding(design: Design) -> nn.Conv3d:
        """An image (B, 1, D, H, W) to its first tokens."""
        flat = design.parts.flat
        patch, width = ((1, 4, 4), (1, 8, 8)) if flat else ((4, 4, 4), (8, 8, 8))
        return nn.Conv3d(1, design.dim, width, patch, (0 if flat else 2, 2, 2))

    def forward(self, a: Tensor, b: Tensor, told: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, D/4, H/4, W/4, 2C) of both streams; displacement (B, D/4, H/4, W/4, 3) in voxels.

        The displacement says where in `b` the content of `a` is found.  `told` (B, C, D/4, H/4, W/4) is added
        to the first tokens of `b`.
        """
        first, second = (e(t) for e, t in zip(self.embed, (a, b), strict=True))
        x = torch.cat([first, second if told is None else second + told])
        x = x.permute(0, 2, 3, 4, 1).contiguous()
        scale = x.new_tensor(self.step)
        finer = tuple(1 / s for s in self.step)
        field = x.new_zeros(*x.shape[:-1], 3)
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

    def forward(self, a: Tensor, b: Tensor, **options: Any) -> Tensor:
        """Fuse; see `explain`.

        Parameters
        ----------
        a, b : Tensor, shape (B, 1, D, H, W), in [0, 1]
            Structural and functional; any size.

        Returns
        -------
        Tensor, shape (B, 1, D, H, W), in [0, 1]
        """
        return self.explain(a, b, **options)["fused"]

    def explain(
        self,
        a: Tensor,
        b: Tensor,
        *,
        align: Tensor | float = 0.0,
        strength: float = 1.0,
        alpha: float = 0.5,
        balance: int = 8,
    ) -> dict[str, Tensor]:
        """`forward` with what leads to it.

        Parameters
        ----------
        a, b : Tensor, shape (B, 1, D, H, W), in [0, 1]
        align : float or Tensor, shape (B,)
            Share of the displacement found that is applied to `b`.  Resampling costs detail, so 0 suits
            images that are aligned.
        strength : float
            Of the departure from the average.
        alpha : float
            Share of `a` in the average.
        balance : int
            Voxels per axis, a divisor of 16, over which the squared errors to both sources are made equal
            (before smoothing by three): wider for training, which leaves the network more freedom; 0 for not
            at all.

        Returns
        -------
        dict of Tensor
            ``fused``, ``weight`` of `a`, ``residual``, ``aligned`` `b`; all of the shape of `a`.
        """
        batch, _, *size = a.shape
        if self.flat:
            a, b = (x.transpose(1, 2).reshape(-1, 1, 1, *size[1:]) for x in (a, b))
            align = align.repeat_interleave(size[0]) if isinstance(align, Tensor) else align
        shape = a.shape[2:]
        far = [p for n, m in zip(shape[::-1], self.multiple[::-1], strict=True) for p in (0, -n % m)]
        if any(far):
            a, b = (F.pad(x, far, mode="replicate") for x in (a, b))
        # Where both images are black, so is the result, wherever the alignment moves what.
        lit = (torch.maximum(a, b) / DARK).clamp(0, 1)
        context = None
        if self.design.features:
            tokens, field = self.features(a, b)
            if isinstance(align, Tensor) or align:
                b = warp(b, field * (align.view(-1, 1, 1, 1, 1) if isinstance(align, Tensor) else align))
            context = self.context(tokens).permute(0, 4, 1, 2, 3)
            context = F.interpolate(context, size=a.shape[2:], mode="trilinear", align_corners=False)
        hidden = self._stems(a, b)
        for layer in self.head:
            # oneDNN is about twice as fast on channels-last here.
            hidden = layer(act(hidden).contiguous(memory_format=torch.channels_last_3d))
            if context is not None:
                hidden, context = hidden + context, None
        # On channels-last a linear layer is ten times faster than the same 1x1x1 convolution.
        last = F.linear(act(hidden).permute(0, 2, 3, 4, 1), self.out.weight.flatten(1), self.out.bias)
        logit, raw = last.permute(0, 4, 1, 2, 3).contiguous().chunk(2, 1)
        peak = torch.maximum(a, b)
        residual = strength * self.design.residual * torch.tanh(raw) * (peak / (peak + FAINT))
        weight = strength * (torch.sigmoid(logit) - 0.5)
        apart = a - b
        if balance:
            weight = weight - self._lean(weight * apart + residual, apart, balance)
        weight = weight + alpha
        fused = (b + weight * apart + residual).clamp(0, 1) * lit
        out = {"fused": fused, "weight": weight, "residual": residual, "aligned": b}
        out = {k: v[..., : shape[0], : shape[1], : shape[2]] for k, v in out.items()}
        if self.flat:
            out = {k: v.reshape(batch, size[0], 1, *size[1:]).transpose(1, 2) for k, v in out.items()}
        return out

    def _stems(self, a: Tensor, b: Tensor) -> Tensor:
        """Both stems as one convolution: of one channel each they would miss oneDNN's fast path."""
        wa, wb = self.stem_a.weight, self.stem_b.weight
        none = torch.zeros_like(wa)
        weight = torch.cat([torch.cat([wa, none], 1), torch.cat([none, wb], 1)])
        bias = torch.cat([cast(Tensor, stem.bias) for stem in (self.stem_a, self.stem_b)])
        both = torch.cat([a, b], 1).contiguous(memory_format=torch.channels_last_3d)
        return F.conv3d(both, weight, bias, padding=self.stem_a.padding)

    def _lean(self, change: Tensor, apart: Tensor, side: int) -> Tensor:
        """How far `change` goes from one source towards the other, as a share of the way; smooth in space."""
        window = (1 if self.flat else side, side, side)
        near = (0 if self.flat else 1, 1, 1)
        sums = F.avg_pool3d(torch.cat([change * apart, apart * apart], 1), window)
        sums = F.avg_pool3d(
            F.pad(sums, [n for n in near[::-1] for _ in "ab"], mode="replicate"), [2 * n + 1 for n in near], 1
        )
        share = sums[:, :1] / (sums[:, 1:] + 1e-5)
        return F.interpolate(share, size=apart.shape[2:], mode="trilinear", align_corners=False)


SWITCHES = ("displacement", "attention", "convolution", "context")


@torch.no_grad()
def switch_off(network: Any, part: str) -> None:
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
