"""The default `dcfb` network: what is unexpected in the functional image, shown in the structural one.

A regression on the structural image A gives every voxel an uptake U (``methods/_expected.py``).  A small
network that sees nothing but A and U mends it, and the scanner's blur of that is the expectation E of the
functional image.  What E leaves unexplained over wide regions is a difference of level, R; what then remains,
D, is noise, misfit and findings.  The tokens of the DCFB blocks and a head at full resolution tell these
apart::

    E = blur(U exp(u)) (1 + R)                          |u| <= 1
    D = smooth(B' - E) / smooth(E + floor)              B': aligned by the displacement that the blocks find
    finding = sign(x) max(|x| - t, 0),  x = D + c       |c| <= 0.2, 0.01 <= t <= 0.25, for every voxel
    F = shade * A^contrast (1 + gain * finding + broad * R)         limited smoothly to +-0.8

(the maximum is rounded, so that it can be learned).  At the start u = c = 0 and t = 0.05: training begins at
a conditional residual (``methods/conditional.py``) whose small values are noise.  Where the functional image
shows next to nothing (skull, scalp, air) nothing is to be read in it, and F is A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._expected import blur, fit, foreground
from .alignment import STRIDE, act, warp
from .block import Parts
from .network import HEAD_LAYERS, Design, Features

# Added to the expectation that a difference is divided by; the largest relative difference.
FLOOR, LIMIT = 0.05, 0.8
# Largest correction c; threshold t at the start, its bounds as powers of e, and how it is rounded.
CHANGE, SHRINK, SPAN, BEND = 0.2, 0.05, 1.6, 0.01
# Of the functional image: below the first there is nothing to read, above the second there is.
LIT = (0.08, 0.2)
# Largest relative change of the structural image: a strong finding must not end in plain black or white.
MOST = 0.8
# Convolutions that see the structural image alone.
UPTAKE_LAYERS = 3
# Voxels: smoothing of the mask of what is lit, of the difference, and of the regional level.
NEAR, SMOOTH, REGION = 2.0, 1.75, 6.0


@dataclass(frozen=True)
class Look:
    """How what was found is shown.

    Parameters
    ----------
    gain : float
        Of the findings, relative to the structural image's level.
    strict : float
        What the learned threshold is multiplied by, which a difference must pass to be a finding.
    broad : float
        Of regional differences of uptake that are no findings.
    contrast : float
        Exponent on the structural image: more than 1 parts grey from white matter.
    shade : float
        The structural image's brightest level, which leaves room for brighter findings.
    """

    gain: float = 7.5
    strict: float = 1.5
    broad: float = 1.0
    contrast: float = 1.1
    shade: float = 0.85


@dataclass(frozen=True)
class ReaderDesign(Design):
    """`Design` with the expectation.

    Parameters
    ----------
    expectation : bool
        Start from the regression on the structural image; without it from the surroundings in the functional
        image alone, and show the result on the average of both images.
    """

    expectation: bool = True
    parts: Parts = field(default_factory=Parts)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> ReaderDesign:
        """The design whose state dict `state` is."""
        known = dict(state)
        known["stem_a.weight"] = state["stem.weight"][::2]
        base = Design.of(known)
        return cls(
            dim=base.dim,
            features=base.features,
            hidden=state["stem.weight"].shape[0],
            parts=base.parts,
            expectation="start" in state,
        )


def regional(b: Tensor, expected: Tensor) -> Tensor:
    """Relative difference of level over wide regions, (..., D, H, W)."""
    inside = lit(b)
    level = blur((expected + FLOOR) * inside, REGION)
    return (blur((b - expected) * inside, REGION) / level.clamp_min(FLOOR / 2)).clamp(-LIMIT, LIMIT) * inside


def surroundings(b: Tensor) -> Tensor:
    """Expectation from the functional image alone, its own surroundings, (..., D, H, W)."""
    inside = (b > LIT[0]).to(b.dtype)
    return inside * blur(b * inside, REGION) / blur(inside, REGION).clamp_min(0.05)


class ReaderNetwork(nn.Module):
    """The whole network.

    Parameters
    ----------
    design : ReaderDesign
    """

    start: Tensor

    def __init__(self, design: ReaderDesign | None = None) -> None:
        super().__init__()
        self.design = design = design or ReaderDesign()
        self.flat = design.parts.flat
        kernel, pad = ((1, 3, 3), (0, 1, 1)) if self.flat else ((3, 3, 3), (1, 1, 1))
        self.multiple = (1, STRIDE, STRIDE) if self.flat else (STRIDE,) * 3
        if design.features:
            self.features = Features(design)
            self.context = nn.Linear(2 * design.dim, design.hidden)
            # The unexplained part, told to the tokens of the functional image.
            self.tell = self.features.embedding(design)
        self.stem = nn.Conv3d(4, design.hidden, kernel, padding=pad)
        # Leaves the blocks out, as the first stage of training does: the rest is learned faster alone.
        self.bare = False
        self.uptake = nn.ModuleList(
            nn.Conv3d(2 if i == 0 else design.hidden, design.hidden, kernel, padding=pad)
            for i in range(UPTAKE_LAYERS)
        )
        self.uptake_out = nn.Linear(design.hidden, 1)
        self.head = nn.ModuleList(
            nn.Conv3d(design.hidden, design.hidden, kernel, padding=pad) for _ in range(HEAD_LAYERS)
        )
        self.out = nn.Linear(design.hidden, 2)
        for parameter in [*self.out.parameters(), *self.uptake_out.parameters()]:
            nn.init.zeros_(parameter)
        if design.expectation:
            # Tells the weights of this start from those of the other, which have the same shapes.
            self.register_buffer("start", torch.ones(1))

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        uptake: Tensor,
        level: Tensor,
        sigma: Tensor | float,
        align: Tensor | float = 0.0,
        strict: float = 1.0,
    ) -> Tensor:
        """Findings and aligned functional image, in two channels; see `explain`."""
        found = self.explain(a, b, uptake, level, sigma, align, strict)
        return torch.cat([found["finding"], found["aligned"]], 1)

    def explain(
        self,
        a: Tensor,
        b: Tensor,
        uptake: Tensor,
        level: Tensor,
        sigma: Tensor | float,
        align: Tensor | float = 0.0,
        strict: float = 1.0,
    ) -> dict[str, Tensor]:
        """The unexpected part of the functional image.

        Parameters
        ----------
        a, b : Tensor, shape (B, 1, D, H, W), in [0, 1]
            Structural and functional; any size.
        uptake, level, sigma : Tensor, shape (B, 1, D, H, W), and float or Tensor, shape (B,)
            Of `start_of`: classical uptake, regional level, and the functional image's resolution in voxels.
        align : float or Tensor, shape (B,)
            Share of the displacement found that is applied to `b`.
        strict : float
            What the threshold is multiplied by.

        Returns
        -------
        dict of Tensor
            ``finding`` (relative change), ``expected``, ``difference`` D, ``threshold`` t, ``aligned`` `b`;
            each of the shape of `a`.
        """
        batch, _, *size = a.shape
        expected = self._blurred(self._mended(a, uptake), sigma) * (1 + level)
        images = [a, b, expected]
        if self.flat:
            images = [x.transpose(1, 2).reshape(-1, 1, 1, *size[1:]) for x in images]
            align = align.repeat_interleave(size[0]) if isinstance(align, Tensor) else align
        shape = images[0].shape[2:]
        far = [p for n, m in zip(shape[::-1], self.multiple[::-1], strict=True) for p in (0, -n % m)]
        if any(far):
            images = [F.pad(x, far, mode="replicate") for x in images]
        a, b, expected = images
        context = None
        if self.design.features and not self.bare:
            tokens, displaced = self.features(a, b, self.tell(difference(b, expected)))
            if isinstance(align, Tensor) or align:
                b = warp(b, displaced * (align.view(-1, 1, 1, 1, 1) if isinstance(align, Tensor) else align))
            context = self.context(tokens).permute(0, 4, 1, 2, 3)
            context = F.interpolate(context, size=a.shape[2:], mode="trilinear", align_corners=False)
        apart = difference(b, expected)
        seen = torch.cat([a, b, expected, apart], 1)
        hidden = _wide(self.stem, seen)
        for layer in self.head:
            # oneDNN is about twice as fast on channels-last here.
            hidden = layer(act(hidden).contiguous(memory_format=torch.channels_last_3d))
            if context is not None:
                hidden, context = hidden + context, None
        last = self.out(act(hidden).permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3).contiguous().float()
        correction, stricter = last.chunk(2, 1)
        threshold = strict * SHRINK * torch.exp(SPAN * torch.tanh(stricter))
        x = apart + CHANGE * torch.tanh(correction)
        finding = x.sign() * BEND * F.softplus((x.abs() - threshold) / BEND) * lit(b)
        out = {
            "finding": finding,
            "expected": expected,
            "difference": apart,
            "threshold": threshold,
            "aligned": b,
        }
        out = {k: v[..., : shape[0], : shape[1], : shape[2]] for k, v in out.items()}
        if self.flat:
            out = {k: v.reshape(batch, size[0], 1, *size[1:]).transpose(1, 2) for k, v in out.items()}
        return out

    def _mended(self, a: Tensor, uptake: Tensor) -> Tensor:
        """The uptake that the structural image leads one to expect; nothing of the functional one is seen."""
        hidden = torch.cat([a, uptake], 1)
        for layer in self.uptake:
            hidden = act(layer(hidden.contiguous(memory_format=torch.channels_last_3d)))
        change = self.uptake_out(hidden.permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3).contiguous()
        return uptake * torch.exp(torch.tanh(change.float()))

    @staticmethod
    def _blurred(x: Tensor, sigma: Tensor | float) -> Tensor:
        if isinstance(sigma, Tensor):
            return torch.cat([blur(y, float(s)) for y, s in zip(x.chunk(len(x)), sigma, strict=True)])
        return blur(x, sigma)

    def start_of(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, float]:
        """Uptake, regional level and resolution of whole volumes (D, H, W) that this network starts from."""
        if not self.design.expectation:
            uptake = surroundings(b)
            return uptake, regional(b, uptake), 0.0
        found = fit(a, b, use=b > LIT[0])
        uptake = found.sharp(a, foreground(a, b)).clamp_min(0)
        return uptake, regional(b, blur(uptake, found.sigma)), found.sigma


def _wide(conv: nn.Conv3d, x: Tensor) -> Tensor:
    """A convolution of few channels, padded to as many as it gives: oneDNN's fast path, in training."""
    more = conv.out_channels - conv.in_channels
    x = F.pad(x, (0, 0, 0, 0, 0, 0, 0, more)).contiguous(memory_format=torch.channels_last_3d)
    return F.conv3d(x, F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, more)), conv.bias, padding=conv.padding)


def difference(b: Tensor, expected: Tensor) -> Tensor:
    """D: what the expectation does not explain, relative to it."""
    apart = blur(b - expected, SMOOTH) / (blur(expected, SMOOTH) + FLOOR)
    return apart.clamp(-LIMIT, LIMIT)


def lit(b: Tensor) -> Tensor:
    """How far the functional image shows anything at all, 0 to 1, smooth in space."""
    share = ((blur(b, NEAR) - LIT[0]) / (LIT[1] - LIT[0])).clamp(0, 1)
    return share * share * (3 - 2 * share)


def show(carrier: Tensor, finding: Tensor, level: Tensor, look: Look) -> Tensor:
    """The fused image, (..., D, H, W), in [0, 1].

    Parameters
    ----------
    carrier : Tensor, shape (..., D, H, W)
        What findings are shown on: the structural image.
    finding, level : Tensor, shape (..., D, H, W)
        Relative changes, focal and over wide regions.
    """
    if look.contrast != 1:
        carrier = carrier.clamp_min(0) ** look.contrast
    change = look.gain * finding + look.broad * level
    return (look.shade * carrier * (1 + MOST * torch.tanh(change / MOST))).clamp(0, 1)
