"""Sharpness and contrast of the fused image alone, and sharpness against the sources."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._gradients import derivative, norm


@metric(
    MetricInfo(
        name="sd",
        title="Standard deviation",
        formula=r"\sqrt{\overline{(F-\overline{F})^2}}",
        family="gradient",
        direction="none",
        low=0.0,
        high=127.5,
        paper="Population standard deviation, as in Tang's evaluation toolbox",
        notes="Of F alone: stretching and noise raise it.",
    )
)
def sd(t: Triple) -> Tensor:
    """Standard deviation of the fused image."""
    x = t.points("fused").double()
    x = x - t.mean(x)[:, None]
    return t.mean(x * x).sqrt()


def _step(x: Tensor, offsets: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The two ends of a step of -1, 0 or 1 voxel along every axis."""
    first: list[slice] = [slice(None)]
    second: list[slice] = [slice(None)]
    for d in offsets:
        first.append(slice(None, -1) if d > 0 else slice(1, None) if d < 0 else slice(None))
        second.append(slice(1, None) if d > 0 else slice(None, -1) if d < 0 else slice(None))
    return x[tuple(first)], x[tuple(second)]


def _difference(x: Tensor, offsets: tuple[int, ...]) -> Tensor:
    first, second = _step(x, offsets)
    return second - first


def _mean_square(t: Triple, squares: Tensor, offsets: tuple[int, ...]) -> Tensor:
    """Mean over the steps whose two ends lie inside the mask."""
    if squares.shape[1:].numel() == 0:
        return torch.zeros(len(t), dtype=torch.float64, device=t.device)
    if t.mask is None:
        return squares.flatten(1).mean(1, dtype=torch.float64)
    p, q = _step(t.mask, offsets)
    inside = (p & q).flatten(1)
    return (squares.flatten(1).double() * inside).sum(1) / inside.sum(1).clamp_min(1)


@metric(
    MetricInfo(
        name="sf",
        title="Spatial frequency",
        formula=r"\sqrt{\overline{(\Delta_x F)^2}+\overline{(\Delta_y F)^2}}",
        family="gradient",
        direction="none",
        low=0.0,
        high=math.inf,
        paper="Eskicioglu and Fisher 1995, doi:10.1109/26.477498",
        variants={"vifb": "squares over the count of pixels instead of the count of differences (VIFB)"},
        notes="Root of the summed mean squares of neighbour differences of F alone, in 3D per finest voxel "
        "size.",
    )
)
def sf(t: Triple, variant: str) -> Tensor:
    """Spatial frequency of the fused image."""
    total = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for axis in range(t.dims):
        offsets = tuple(int(k == axis) for k in range(t.dims))
        mean = _mean_square(t, _difference(t.fused, offsets).square_() * t.scale[axis] ** 2, offsets)
        total = total + mean * ((1 - 1 / t.shape[axis]) if variant == "vifb" else 1.0)
    return total.sqrt()


@metric(
    MetricInfo(
        name="ag",
        title="Average gradient",
        formula=r"\overline{\sqrt{\frac{1}{2}(F_x^2+F_y^2)}}",
        family="gradient",
        direction="none",
        low=0.0,
        high=math.inf,
        paper="Cui, Feng, Xu, Li and Chen 2015, doi:10.1016/j.optcom.2014.12.032",
        variants={"tang": "sum over MN pixels divided by (M - 1)(N - 1) (Tang, VIFB)"},
        notes="Mean of the root mean square of the central differences of F alone.",
    )
)
def ag(t: Triple, variant: str) -> Tensor:
    """Average gradient of the fused image."""
    axes = [k for k in range(t.dims) if t.shape[k] > 1]
    if not axes:
        return torch.zeros(len(t), dtype=torch.float64, device=t.device)
    parts = [torch.gradient(t.fused, dim=k + 1)[0] * t.scale[k] for k in axes]
    value = t.map_mean(norm(parts) / math.sqrt(2), (0,) * t.dims)
    if variant == "tang":
        value = value * math.prod(n / (n - 1) for n in t.shape if n > 1)
    return value


@metric(
    MetricInfo(
        name="ei",
        title="Edge intensity",
        formula=r"\overline{\sqrt{S_x^2+S_y^2}},\quad S:\;\mathrm{Sobel\;of\;}F",
        family="gradient",
        direction="none",
        low=0.0,
        high=math.inf,
        paper="Mean Sobel magnitude, as in VIFB",
        notes="Of F alone, border repeated. IVIF_ZOO pads with zeros, so a constant image scores there.",
    )
)
def ei(t: Triple) -> Tensor:
    """Mean Sobel magnitude of the fused image."""
    parts = [derivative(t.fused, k, t.scale, "replicate") for k in range(t.dims)]
    return t.map_mean(norm(parts), (0,) * t.dims)


@metric(
    MetricInfo(
        name="q_sf",
        title="Ratio of spatial frequency error",
        formula=r"\frac{\mathrm{SF}_F-\mathrm{SF}_R}{\mathrm{SF}_R}"
        r",\quad R:\;\mathrm{the\;larger\;source\;gradient}",
        family="gradient",
        direction="zero",
        low=-1.0,
        high=math.inf,
        dims=(2,),
        paper="Zheng, Essock, Hansen and Haun 2007, Information Fusion 8, 177-192; code metricZheng",
        notes="Four directions; the reference takes the larger of the two source gradients. Below 0 F lost "
        "detail, above 0 it gained detail or noise. Sources without detail give 0.",
    )
)
def q_sf(t: Triple) -> Tensor:
    """Relative error of the spatial frequency of F against the stronger source gradients."""
    have = want = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    count = float(math.prod(t.shape))
    for offsets in ((0, 1), (1, 0), (1, 1), (1, -1)):
        f, a, b = (_difference(x, offsets).abs_() for x in (t.fused, t.a, t.b))
        # Published as a sum over the count of pixels, diagonals weighted by their length.
        weight = math.sqrt(0.5) ** (offsets[0] * abs(offsets[1]))
        if t.mask is None:
            weight *= f.shape[1:].numel() / count
        have = have + weight * _mean_square(t, f * f, offsets)
        want = want + weight * _mean_square(t, torch.maximum(a, b).square_(), offsets)
    return torch.where(want > 0, have.sqrt() / want.sqrt() - 1, 0.0)


def _haar(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """One level of the orthonormal Haar transform: low band and three detail bands."""
    h, w = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    corners = {(i, j): x[:, i:h:2, j:w:2] for i, j in product((0, 1), repeat=2)}
    p, q, r, s = (corners[k] for k in ((0, 0), (0, 1), (1, 0), (1, 1)))
    return (p + q + r + s) / 2, [(p + q - r - s) / 2, (p - q + r - s) / 2, (p - q - r + s) / 2]


@metric(
    MetricInfo(
        name="q_m",
        title="Multi-scale edge preservation (Haar)",
        formula=r"Q_1^{2/3}\,Q_2^{1/3},\quad Q_s=\frac{\sum\,(E^{AF}w_A+E^{BF}w_B)}{\sum\,(w_A+w_B)}"
        r",\quad E^{XF}=\sum_d e^{-|X_d-F_d|}",
        family="gradient",
        direction="higher",
        low=0.0,
        high=3.0,
        dims=(2,),
        paper="Wang and Liu 2008, Proc. ICSP, 965-968; code metricPWW",
        notes="Two levels. F = A = B gives 3. Sources without detail give 0.",
    )
)
def q_m(t: Triple) -> Tensor:
    """Haar detail of the sources kept in F, weighted by its energy."""
    low = {name: t.image(name) for name in ("a", "b", "fused")}
    mask = None if t.mask is None else t.mask.double()
    value = torch.ones(len(t), dtype=torch.float64, device=t.device)
    for power in (2 / 3, 1 / 3):
        if min(low["a"].shape[1:]) < 2:
            return torch.zeros_like(value)
        bands = {}
        for name, image in low.items():
            low[name], bands[name] = _haar(image)
        if mask is not None:
            # A block counts where at least half of it is foreground; without such a block all count.
            share = _haar(mask)[0] / 2
            inside = share >= 0.5
            mask = torch.where(inside.flatten(1).any(1)[:, None, None], inside, True).double()
        top = bottom = torch.zeros_like(value)
        for source in ("a", "b"):
            energy = sum((x * x for x in bands[source][1:]), bands[source][0] ** 2)
            kept = [torch.exp(-(x - y).abs_()) for x, y in zip(bands[source], bands["fused"], strict=True)]
            if mask is not None:
                energy = energy * mask
            top = top + ((kept[0] + kept[1] + kept[2]) * energy).sum((1, 2))
            bottom = bottom + energy.sum((1, 2))
        value = value * torch.where(bottom > 0, top / bottom, 0.0) ** power
    return value
