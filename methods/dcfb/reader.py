"""The default `dcfb` network: what is unexpected in the functional image, shown in the structural one.

The tokens of the DCFB blocks, read by a head at full resolution, mend a classical expectation E of the
functional image (a regression on the structural one); what then is left is a finding::

    E' = E (1 + c)                       |c| <= 0.8, what context and alignment teach
    finding = (B' - E') / (E' + floor)
    regional = low-pass of what E leaves unexplained and the finding does not claim
    F = shade * A (1 + gain * finding + broad * regional)

c = 0 at the start: training begins at the conditional residual (``methods/conditional.py``).  Where the
functional image shows next to nothing (skull, scalp, air) nothing is to be read in it, and F is A.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._expected import blur, fit, foreground
from .alignment import STRIDE, act, warp
from .block import Parts
from .network import HEAD_LAYERS, Design, Features

# Added to the expectation that a difference is divided by; the largest relative difference.
FLOOR, LIMIT = 0.05, 0.8
# Largest change of the expectation by the network.
CHANGE = 0.8
# Of the functional image: below the first there is nothing to read, above the second there is.
LIT = (0.08, 0.2)
# Voxels: smoothing of the mask of what is lit, and of the regional part.
NEAR, REGION = 2.0, 6.0


@dataclass(frozen=True)
class Look:
    """How what was found is shown.

    Parameters
    ----------
    gain : float
        Of the findings, relative to the structural image's level.
    broad : float
        Of regional differences of uptake that are no findings.
    contrast : float
        Exponent on the structural image: more than 1 parts grey from white matter.
    shade : float
        The structural image's brightest level, which leaves room for brighter findings.
    """

    gain: float = 3.0
    broad: float = 0.3
    contrast: float = 1.0
    shade: float = 0.75


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


def expectation(a: Tensor, b: Tensor) -> Tensor:
    """The classical start: regression of `b` on `a`, both (D, H, W), learned where `b` shows something."""
    return fit(a, b, use=b > LIT[0]).predict(a, foreground(a, b))


def surroundings(b: Tensor) -> Tensor:
    """What the functional image alone leads one to expect: its own surroundings, (..., D, H, W)."""
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
        self.stem = nn.Conv3d(4, design.hidden, kernel, padding=pad)
        self.head = nn.ModuleList(
            nn.Conv3d(design.hidden, design.hidden, kernel, padding=pad) for _ in range(HEAD_LAYERS)
        )
        self.out = nn.Linear(design.hidden, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        if design.expectation:
            # Tells the weights of this start from those of the other, which have the same shapes.
            self.register_buffer("start", torch.ones(1))

    def forward(self, a: Tensor, b: Tensor, expected: Tensor, align: Tensor | float = 0.0) -> Tensor:
        """Findings and aligned functional image, in two channels; see `explain`."""
        found = self.explain(a, b, expected, align)
        return torch.cat([found["finding"], found["aligned"]], 1)

    def explain(
        self, a: Tensor, b: Tensor, expected: Tensor, align: Tensor | float = 0.0
    ) -> dict[str, Tensor]:
        """What is unexpected in the functional image.

        Parameters
        ----------
        a, b : Tensor, shape (B, 1, D, H, W), in [0, 1]
            Structural and functional; any size.
        expected : Tensor, shape (B, 1, D, H, W)
            Of `start_of`.
        align : float or Tensor, shape (B,)
            Share of the displacement found that is applied to `b`.

        Returns
        -------
        dict of Tensor
            ``finding`` (relative change), ``expected`` (mended), ``aligned`` `b`; of the shape of `a`.
        """
        batch, _, *size = a.shape
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
        if self.design.features:
            tokens, displaced = self.features(a, b)
            if isinstance(align, Tensor) or align:
                b = warp(b, displaced * (align.view(-1, 1, 1, 1, 1) if isinstance(align, Tensor) else align))
            context = self.context(tokens).permute(0, 4, 1, 2, 3)
            context = F.interpolate(context, size=a.shape[2:], mode="trilinear", align_corners=False)
        seen = torch.cat([a, b, expected, residual(b, expected)], 1)
        hidden = self.stem(seen.contiguous(memory_format=torch.channels_last_3d))
        for layer in self.head:
            # oneDNN is about twice as fast on channels-last here.
            hidden = layer(act(hidden).contiguous(memory_format=torch.channels_last_3d))
            if context is not None:
                hidden, context = hidden + context, None
        change = self.out(act(hidden).permute(0, 2, 3, 4, 1)).permute(0, 4, 1, 2, 3).contiguous()
        mended = expected * (1 + CHANGE * torch.tanh(change))
        finding = residual(b, mended) * lit(b)
        out = {"finding": finding, "expected": mended, "aligned": b}
        out = {k: v[..., : shape[0], : shape[1], : shape[2]] for k, v in out.items()}
        if self.flat:
            out = {k: v.reshape(batch, size[0], 1, *size[1:]).transpose(1, 2) for k, v in out.items()}
        return out

    def start_of(self, a: Tensor, b: Tensor) -> Tensor:
        """The classical expectation of whole volumes (D, H, W) that this network starts from."""
        return expectation(a, b) if self.design.expectation else surroundings(b)


def residual(b: Tensor, expected: Tensor) -> Tensor:
    """Relative difference, limited."""
    return ((b - expected) / (expected + FLOOR)).clamp(-LIMIT, LIMIT)


def lit(b: Tensor) -> Tensor:
    """How far the functional image shows anything at all, 0 to 1, smooth in space."""
    share = ((blur(b, NEAR) - LIT[0]) / (LIT[1] - LIT[0])).clamp(0, 1)
    return share * share * (3 - 2 * share)


def show(
    a: Tensor, b: Tensor, expected: Tensor, finding: Tensor, look: Look, average: bool = False
) -> Tensor:
    """The fused image, (..., D, H, W), in [0, 1].

    Parameters
    ----------
    a, b, expected, finding : Tensor, shape (..., D, H, W)
        Structural and aligned functional image, classical expectation, what the network found.
    average : bool
        Show it on the average of both images instead of the structural one.
    """
    carrier = (a + b) / 2 if average else a
    if look.contrast != 1:
        carrier = carrier.clamp_min(0) ** look.contrast
    change = look.gain * finding
    if look.broad:
        weight = lit(b)
        rest = blur((residual(b, expected) - finding) * weight, REGION) / blur(weight, REGION).clamp_min(0.05)
        change = change + look.broad * rest * weight
    return (look.shade * carrier * (1 + change)).clamp(0, 1)


def options(look: Look) -> dict[str, Any]:
    """The fields of a `Look`."""
    return {k: getattr(look, k) for k in ("gain", "broad", "contrast", "shade")}
