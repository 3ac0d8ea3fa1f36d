"""Phase congruency: Q_P (Zhao) and FSIM (Zhang).  2D models."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two
from ._filters import gaussian, separable
from ._gradients import norm
from ._phase import Bank, responses

_ZHAO = Bank(scales=4, orientations=6, shortest=3.0, step=2.1)
_FSIM = Bank(scales=4, orientations=4, shortest=6.0, step=2.0, transposed=True)
_FEATURE = 0.1
# Filters that answer with less than this, in grey levels, answer with rounding noise: there is no phase.
_SILENT = 1e-6


def _features(t: Triple, name: str) -> Tensor:
    """Phase congruency, its maximum and its minimum moment: ``(3, N, H, W)``."""
    epsilon = 0.0001
    energy = amplitude = xx = yy = xy = torch.zeros_like(t.a)
    for o, r in enumerate(responses(t.image(name), _ZHAO, epsilon, exact_median=True)):
        width = r.amplitude / (r.peak + epsilon) / _ZHAO.scales
        weighted = torch.sigmoid((width - 0.5) * 10) * r.energy
        energy, amplitude = energy + weighted, amplitude + r.amplitude
        # A constant image has no amplitude and no congruency.
        congruency = torch.where(r.amplitude > 0, weighted / r.amplitude, 0.0)
        angle = o * math.pi / _ZHAO.orientations
        cx, cy = congruency * math.cos(angle), congruency * math.sin(angle)
        xx, yy, xy = xx + cx * cx, yy + cy * cy, xy + cx * cy
    half = _ZHAO.orientations / 2
    xx, yy, xy = xx / half, yy / half, xy / _ZHAO.orientations
    spread = torch.sqrt(xy**2 + (xx - yy) ** 2) + epsilon
    return torch.stack([energy / (amplitude + epsilon), (xx + yy + spread) / 2, (xx + yy - spread) / 2])


def _local_correlations(xs: list[Tensor], f: Tensor, seen: list[Tensor]) -> list[Tensor]:
    """Correlations of F in 11-tap Gaussian windows, 0 outside `seen`; border zero."""
    kernels = [gaussian(1.5, 11)] * 2

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        mean = smooth(x)
        return mean, smooth(x * x) - mean * mean

    def smooth(y: Tensor) -> Tensor:
        return separable(functional.pad(y, (5, 5, 5, 5)), kernels)

    mf, vf = moments(f)
    out = []
    for x, inside in zip(xs, seen, strict=True):
        x = x * inside
        mx, vx = moments(x)
        value = (smooth(x * f) - mx * mf + 0.0001) / ((vx * vf).abs().sqrt() + 0.0001)
        out.append(value * inside)
    return out


@metric(
    MetricInfo(
        name="q_p",
        title="Phase congruency quality",
        formula=r"P_p\cdot P_M\cdot P_m,\quad P_k=\max(C^k_{AF},\;C^k_{BF},\;C^k_{SF}),\;S=\max(A,B)",
        family="perception",
        direction="higher",
        low=-1.0,
        high=1.0,
        dims=(2,),
        paper="Zhao, Laganiere and Liu 2007, Int. J. Innovative Computing, Information and Control 3; code "
        "metricZhao",
        notes="Product of the local correlations of phase congruency, maximum and minimum moment, each with "
        "A, B or their maximum, whichever is best. Sources or F without any feature give 0, "
        "where the program may be NaN.",
    )
)
def q_p(t: Triple) -> Tensor:
    """Local correlation of the phase features of F with those of the sources."""
    a, b, f = (_features(t, name) for name in ("a", "b", "fused"))
    first = a[0] > b[0]
    best = torch.where(first, a, b)
    seen = [x[0] > _FEATURE for x in (a, b, best)]
    inside = seen[2] if t.mask is None else seen[2] & t.mask
    count = inside.sum((1, 2))
    value = torch.ones(len(t), dtype=torch.float64, device=t.device)
    for k in range(3):
        maps = _local_correlations([x[k] for x in (a, b, best)], f[k], seen)
        result = torch.maximum(torch.maximum(maps[0], maps[1]), maps[2])
        if t.mask is not None:
            result = result * t.mask
        value = value * torch.where(count > 0, result.sum((1, 2)) / count.clamp_min(1), 0.0)
    # The stabilising constants would call an F without any feature a perfect match.
    return torch.where(f[0].amax((1, 2)) > 0, value, 0.0)


def _fsim_maps(t: Triple, name: str) -> tuple[Tensor, Tensor]:
    """Phase congruency and Scharr gradient, after pooling to about 256 pixels."""

    def make() -> tuple[Tensor, Tensor]:
        x = t.image(name)
        pool = max(1, round(min(t.shape) / 256))
        x = functional.avg_pool2d(x[:, None], pool)[:, 0] if pool > 1 else x
        epsilon = torch.finfo(torch.float32).eps
        energy = amplitude = torch.zeros_like(x)
        for r in responses(x, _FSIM, epsilon, exact_median=False):
            energy, amplitude = energy + r.energy, amplitude + r.amplitude
        p = functional.pad(x, (1, 1, 1, 1))
        rows = p[:, :-2] * 3 + p[:, 1:-1] * 10 + p[:, 2:] * 3
        columns = p[:, :, :-2] * 3 + p[:, :, 1:-1] * 10 + p[:, :, 2:] * 3
        slope = norm([(rows[:, :, 2:] - rows[:, :, :-2]) / 16, (columns[:, 2:] - columns[:, :-2]) / 16])
        return torch.where(amplitude > _SILENT, energy / amplitude, 0.0), slope

    return t.cached(("fsim", name), make)


def _fsim(t: Triple, source: str) -> Tensor:
    (px, gx), (pf, gf) = _fsim_maps(t, source), _fsim_maps(t, "fused")
    weight = torch.maximum(px, pf)
    if t.mask is not None:
        pool = max(1, round(min(t.shape) / 256))
        share = functional.avg_pool2d(t.mask[:, None].float(), pool)[:, 0]
        inside = share >= 0.5
        weight = weight * torch.where(inside.flatten(1).any(1)[:, None, None], inside, share > 0)
    alike = (2 * px * pf + 0.85) / (px * px + pf * pf + 0.85)
    alike = alike * (2 * gx * gf + 160) / (gx * gx + gf * gf + 160)
    total = weight.sum((1, 2), dtype=torch.float64)
    # Without any feature the two images are alike.
    return torch.where(total > 0, (alike * weight).sum((1, 2), dtype=torch.float64) / total, 1.0)


@metric(
    MetricInfo(
        name="fsim",
        title="Feature similarity",
        formula=r"\frac{1}{2}\sum_X\frac{\sum S_{PC}\,S_G\,\max(PC_X,PC_F)}{\sum\max(PC_X,PC_F)}",
        family="perception",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper="Zhang, Zhang, Mou and Zhang 2011, doi:10.1109/TIP.2011.2109730",
        parts=("a", "b", "worst"),
        notes="Phase congruency and Scharr gradient, T1 = .85, T2 = 160, four scales and orientations; "
        "images are pooled by round(min(side) / 256) first. Mean of two. F = A = B gives 1. Where "
        "the filters answer with less than 1e-6 grey levels, as in a constant image, phase "
        "congruency is 0; programs leave it to rounding, or have 1 there.",
    )
)
def fsim(t: Triple, part: str) -> Tensor:
    """Feature similarity of F with A and with B."""
    return mean_of_two(lambda s: _fsim(t, s), part)
