"""Gradient: edge preservation (Xydeas-Petrovic) and fusion artefacts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._gradients import gradients, magnitude, parallel


def _angle(t: Triple, name: str) -> Tensor:
    """Orientation in [-90, 90] degrees, in radians; 90 where the horizontal derivative is 0."""

    def make() -> Tensor:
        gy, gx = gradients(t, name)
        # The sign of the published program: it shows where gx is 0, whatever the sign of gy.
        return torch.where(gx == 0, math.pi / 2, torch.atan(-gy / gx))

    return t.cached(("angle", name), make)


def _preservation(t: Triple, source: str) -> Tensor:
    """Edge preservation Q of a source in F at every pixel (Xydeas and Petrovic 2000)."""

    def make() -> Tensor:
        g, f = magnitude(t, source), magnitude(t, "fused")
        strength = torch.where(g == f, g, torch.minimum(g, f) / torch.maximum(g, f))
        if t.dims == 2:
            aligned = 1 - (_angle(t, source) - _angle(t, "fused")).abs_() * (2 / math.pi)
        else:
            aligned = parallel(t, source)
        q = strength.sub_(0.5).mul_(15).sigmoid_().mul_(0.9994 * 0.9879)
        return q.mul_(aligned.sub(0.8).mul_(22).sigmoid_())

    return t.cached(("preservation", source), make)


def _liu(t: Triple) -> Tensor:
    """Mean over pixels of the ratio of weighted preservation, with Liu's constants (metricXydeas)."""
    strength, angle = {}, {}
    for name in ("a", "b", "fused"):
        gy, gx = gradients(t, name)
        strength[name] = magnitude(t, name)
        angle[name] = torch.atan(gy / torch.where(gx == 0, 1e-5, gx))
    f = strength["fused"]
    top = bottom = torch.zeros_like(f)
    for name in ("a", "b"):
        g = strength[name]
        larger = g > f
        g = torch.where(g == 0, 1e-5, g)
        kept = f / g
        # The program leaves its guard in F for the second source.
        f = torch.where(f == 0, 1e-5, f)
        kept = torch.where(larger, kept, g / f)
        aligned = ((angle[name] - angle["fused"]).abs() - math.pi / 2).abs() * (2 / math.pi)
        q = torch.sigmoid(10 * (kept - 0.5)) * torch.sigmoid(20 * (aligned - 0.75))
        top, bottom = top + q * g, bottom + g
    return t.map_mean(top / bottom, (0,) * t.dims)


@metric(
    MetricInfo(
        name="qabf",
        title="Edge preservation Q^AB/F",
        formula=r"\frac{\sum\,(Q^{AF}G_A+Q^{BF}G_B)}{\sum\,(G_A+G_B)},\quad Q^{XF}=Q_g^{XF}\,Q_\alpha^{XF}",
        family="gradient",
        direction="higher",
        low=0.0,
        high=1.0,
        paper="Xydeas and Petrovic 2000, doi:10.1049/el:20000267",
        parts=("a", "b"),
        variants={
            "liu": "other constants and mean of per-pixel ratios (Liu's metricXydeas); slice mean in 3D"
        },
        ranked=True,
        notes="Sobel strength and orientation, L = 1. In 3D the angle between gradient vectors replaces the "
        "difference of orientations, in double precision. F = A = B gives 0.975. No edge in the sources: 0.",
    )
)
def qabf(t: Triple, part: str, variant: str) -> Tensor:
    """Edge strength and orientation kept from both sources, weighted by source gradient."""
    if variant == "liu":
        return _liu(t) if t.dims == 2 else t.slice_mean(_liu)
    c = t.crop((1,) * t.dims)
    top = bottom = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for source in (part,) if part else ("a", "b"):
        g = magnitude(c, source)
        top = top + c.map_sum(_preservation(c, source) * g, (0,) * t.dims)
        bottom = bottom + c.map_sum(g, (0,) * t.dims)
    return torch.where(bottom > 0, top / bottom, 0.0)


def _artefacts(t: Triple, a: Tensor, b: Tensor, f: Tensor, aligned: list[Tensor]) -> Tensor:
    """Weighted loss of preservation where F has a stronger edge than both sources."""
    added = (f > a) & (f > b)
    top = bottom = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for g, along in zip((a, b), aligned, strict=True):
        low, high = torch.minimum(g, f), torch.maximum(g, f)
        strength = torch.where(low == 0, 0.0, low / high)
        q = torch.sigmoid(19 * (strength - 0.5)) * torch.sigmoid(22 * (along - 0.5)) * (0.9999 * 0.9995)
        weight = torch.where(g >= 2, g**1.5, 0.001)
        top = top + t.map_sum(torch.where(added, (1 - q.sqrt()) * weight, 0), (0,) * t.dims)
        bottom = bottom + t.map_sum(weight, (0,) * t.dims)
    return top / bottom


@metric(
    MetricInfo(
        name="nabf",
        title="Fusion artefacts N^AB/F, modified",
        formula=r"\frac{\sum_M\,[(1-Q^{AF})\,G_A+(1-Q^{BF})\,G_B]}{\sum\,(G_A+G_B)}"
        r",\quad M:\;G_F>\max(G_A,G_B)",
        family="gradient",
        direction="lower",
        low=0.0,
        high=1.0,
        paper="Shreyamsha Kumar 2013, Signal, Image and Video Processing 7, 1125-1143; code analysis_nabf",
        variants={"tang": "arguments in the order of Tang's call, so that A is taken for F"},
        notes="Edges of F that neither source has. A constant image and a copy of a source both score 0, "
        "which is perfect: never rank by it alone.",
    )
)
def nabf(t: Triple, variant: str) -> Tensor:
    """Share of edge information in F that comes from neither source."""
    c = t.crop((1,) * t.dims)
    if variant == "tang":
        c = Triple(c.given[[1, 2, 0]], c.mask, c.scale)
    a, b, f = (magnitude(c, name, "reflect") / 8 for name in ("a", "b", "fused"))
    if t.dims == 3:
        return _artefacts(c, a, b, f, [parallel(c, s, "reflect") for s in ("a", "b")])
    angles = {}
    for name in ("a", "b", "fused"):
        gy, gx = gradients(c, name, "reflect")
        angles[name] = torch.where((gx == 0) & (gy == 0), 0.0, torch.atan(gx / gy))
    aligned = [
        ((angles[s] - angles["fused"]).abs_() - math.pi / 2).abs_() * (2 / math.pi) for s in ("a", "b")
    ]
    return _artefacts(c, a, b, f, aligned)
