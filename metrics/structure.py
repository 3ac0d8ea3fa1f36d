"""Structure: SSIM, MS-SSIM and MEF-SSIM."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two, sum_of_two
from ._filters import gaussian, separable
from ._moments import Moments, moments

_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ssim_map(m: Moments, x: str, y: str) -> Tensor:
    """SSIM of two images at every window (Wang 2004)."""

    def make() -> Tensor:
        mx, my = m.mean(x), m.mean(y)
        top = (mx * my).mul_(2).add_(_C1).mul_((2 * m.cov(x, y)).add_(_C2))
        bottom = (mx * mx).addcmul_(my, my).add_(_C1).mul_((m.cov(x, x) + m.cov(y, y)).add_(_C2))
        return top.div_(bottom)

    return m.triple.cached(("ssim", m.margin, x, y), make)


def _contrast_map(m: Moments, x: str, y: str) -> Tensor:
    """Contrast and structure terms of SSIM."""
    return (2 * m.cov(x, y)).add_(_C2).div_((m.cov(x, x) + m.cov(y, y)).add_(_C2))


def _torchmetrics_ssim(t: Triple, source: str) -> Tensor:
    """SSIM as torchmetrics computes it: [0, 1], reflected border, negative variances set to 0.

    It works in single precision, whose rounding moves the value by 1e-6 from one processor to the next and by
    more on flat images; this does not.
    """
    kernels = [gaussian(1.5, 11)] * t.dims
    x, y = (
        functional.pad(t.image(s)[:, None].double() / 255, (5,) * (2 * t.dims), mode="reflect")[:, 0]
        for s in ("fused", source)
    )
    mx, my, xx, yy, xy = (separable(v, kernels) for v in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01**2, 0.03**2
    var = (xx - mx * mx).clamp_min(0) + (yy - my * my).clamp_min(0)
    values = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2) / ((mx * mx + my * my + c1) * (var + c2))
    return t.map_mean(values, (0,) * t.dims)


def _uniform_ssim(t: Triple, source: str, data_range: float) -> Tensor:
    """SSIM in uniform windows of 7 with sample covariance: the defaults of scikit-image."""
    x, y = t.image(source).double(), t.image("fused").double()
    kernels = [(1 / 7,) * 7] * t.dims
    mx, my = separable(x, kernels), separable(y, kernels)
    count = 7**t.dims
    xx, yy, xy = (
        (separable(p * q, kernels) - mp * mq) * (count / (count - 1))
        for p, q, mp, mq in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = (2 * mx * my + c1) * (2 * xy + c2) / ((mx * mx + my * my + c1) * (xx + yy + c2))
    return t.map_mean(values, (3,) * t.dims)


@metric(
    MetricInfo(
        name="ssim",
        title="Structural similarity",
        formula=r"\frac{1}{2}\,\overline{S_{AF}+S_{BF}}"
        r",\quad S_{XF}=\frac{(2\mu_X\mu_F+C_1)(2\sigma_{XF}+C_2)}{(\mu_X^2+\mu_F^2"
        r"+C_1)(\sigma_X^2+\sigma_F^2+C_2)}",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Wang, Bovik, Sheikh and Simoncelli 2004, doi:10.1109/TIP.2003.819861",
        parts=("a", "b", "worst"),
        variants={
            "torchmetrics": "border reflected and averaged in; equal to the rounding of their single "
            "precision (torchmetrics, DC2Fusion, dilran)",
            "cddfuse": "sum of two, uniform 7x7 window, L = 2 on 0..255: what scikit-image took for floats "
            "(CDDFuse)",
            "cddfuse-255": "the same with L = 255 (CDDFuse with the data range given)",
        },
        ranked=True,
        notes="11-tap Gaussian window of sigma 1.5, K = (0.01, 0.03), L = 255, valid windows, signed; mean "
        "of the two sources. F = A = B gives 1. A shorter axis takes the widest odd window that fits.",
    )
)
def ssim(t: Triple, part: str, variant: str) -> Tensor:
    """Mean structural similarity of F with A and with B."""
    if variant.startswith("cddfuse"):
        data_range = 255.0 if variant == "cddfuse-255" else 2.0
        combine = mean_of_two if part == "worst" else sum_of_two
        return combine(lambda s: _uniform_ssim(t, s, data_range), part)
    if variant == "torchmetrics":
        return mean_of_two(lambda s: _torchmetrics_ssim(t, s), part)
    m = moments(t)
    return mean_of_two(lambda s: m.average(ssim_map(m, s, "fused")), part)


def _halved(t: Triple) -> Triple:
    """Means of 2x2(x2) voxels; an odd border is repeated.  Axes already coarser than the others wait."""
    axes = [scale > 0.7 * max(t.scale) for scale in t.scale]

    def pool(x: Tensor) -> Tensor:
        for k, halve in enumerate(axes, start=x.ndim - t.dims):
            if halve:
                n = x.shape[k]
                before = (slice(None),) * k
                second = x[(*before, slice(1, None, 2))]
                if n % 2:
                    second = torch.cat([second, x.narrow(k, n - 1, 1)], dim=k)
                x = (x[(*before, slice(0, None, 2))] + second) / 2
        return x

    mask = None if t.mask is None else pool(t.mask.float()) >= 0.5
    if mask is not None and not bool(mask.flatten(1).any(1).all()):
        mask = pool(t.mask.float()) > 0  # type: ignore[union-attr]
    scale = [s / 2 if halve else s for s, halve in zip(t.scale, axes, strict=True)]
    scale = [s / max(scale) for s in scale]
    return Triple(pool(t.images), mask, tuple(scale))


def pyramid(t: Triple, count: int) -> list[Triple]:
    """`t` and up to ``count - 1`` halvings of it, as long as a window of 11 fits."""

    def make() -> list[Triple]:
        levels = [t]
        while len(levels) < count and min(-(-n // 2) for n in levels[-1].shape) >= 11:
            levels.append(_halved(levels[-1]))
        return levels

    return t.cached(("pyramid", count), make)


def _ms_ssim(t: Triple, source: str) -> Tensor:
    levels = pyramid(t, 5)
    weights = _SCALE_WEIGHTS[: len(levels)]
    total = math.fsum(weights)
    value = torch.ones(len(t), dtype=torch.float64, device=t.device)
    for weight, level in zip(weights, levels, strict=True):
        m = moments(level)
        make = ssim_map if level is levels[-1] else _contrast_map
        mean = m.average(make(m, source, "fused")).clamp_min(0)
        # Five scales carry the published weights; fewer share their sum.
        value = value * mean ** (weight if len(weights) == 5 else weight / total)
    return value


@metric(
    MetricInfo(
        name="ms_ssim",
        title="Multi-scale structural similarity",
        formula=r"\frac{1}{2}\sum_X\;\overline{S^{(5)}_{XF}}^{\,w_5}\;\prod_{s"
        r"=1}^{4}\;\overline{c^{(s)}_{XF}}^{\,w_s}"
        r",\quad c_{XF}=\frac{2\sigma_{XF}+C_2}{\sigma_X^2+\sigma_F^2+C_2}",
        family="structure",
        direction="higher",
        low=0.0,
        high=1.0,
        paper="Wang, Simoncelli and Bovik 2003, doi:10.1109/ACSSC.2003.1292216",
        parts=("a", "b", "worst"),
        notes="Five scales, mean of two. Where a side is below 176 only the scales that hold a window of 11 "
        "count, their weights scaled to sum 1: compare equal sizes only. A negative scale mean counts as 0.",
    )
)
def ms_ssim(t: Triple, part: str) -> Tensor:
    """Multi-scale structural similarity of F with A and with B."""
    return mean_of_two(lambda s: _ms_ssim(t, s), part)


def _mef_ssim(t: Triple) -> Tensor:
    """Structural similarity of F with the patch that the two sources make together."""
    m = moments(t)
    t = m.triple
    flat = tuple((1.0,) * len(w) for w in m.windows)
    count = float(math.prod(len(w) for w in m.windows))

    def total(x: Tensor) -> Tensor:
        return separable(x, flat)

    # Sums of whole numbers are exact, so a flat window has no contrast at all.
    a, b = t.a.double(), t.b.double()
    sa, sb = total(a) / count, total(b) / count
    aa = total(a * a).sub_(sa * sa * count).clamp_min_(0)
    bb = total(b * b).sub_(sb * sb * count).clamp_min_(0)
    ab = total(a * b).sub_(sa * sb * count)
    na, nb = aa.sqrt(), bb.sqrt()
    eps = torch.finfo(na.dtype).eps
    consistency = ((aa + bb + 2 * ab).clamp_min_(0).sqrt() + eps) / (na + nb + eps)
    # The power stops at 10.
    power = torch.tan(math.pi / 2 * consistency.clamp_(0, math.atan(10) * 2 / math.pi))
    na, nb = na + 0.001, nb + 0.001
    wa, wb = (na / math.sqrt(count)) ** power + eps, (nb / math.sqrt(count)) ** power + eps
    ca, cb = wa / (wa + wb) / na, wb / (wa + wb) / nb
    parts = ca * ca * aa + cb * cb * bb
    # Patches that are each other's negatives leave rounding, which must not be stretched to a contrast.
    square = parts + 2 * ca * cb * ab
    gain = torch.where(square > 1e-6 * parts, torch.maximum(na, nb) / square.clamp_min(0).sqrt(), 0.0)
    ca, cb = ca * gain, cb * gain
    var_r = ca * ca * m.cov("a", "a") + cb * cb * m.cov("b", "b") + 2 * ca * cb * m.cov("a", "b")
    cov = ca * m.cov("a", "fused") + cb * m.cov("b", "fused")
    return m.average((2 * cov + _C2) / (var_r + m.cov("fused", "fused") + _C2))


@metric(
    MetricInfo(
        name="mef_ssim",
        title="Structural similarity to the joint patch of both sources",
        formula=r"\overline{\frac{2\sigma_{JF}+C}{\sigma_J^2+\sigma_F^2+C}}"
        r",\quad J:\;\mathrm{joint\;patch\;of\;}A\mathrm{\;and\;}B",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Ma, Zeng and Wang 2015, doi:10.1109/TIP.2015.2442920",
        variants={"tang": "product over three scales; what Tang's toolbox calls MS_SSIM"},
        notes="One scale, luminance left out, as mef_ssim.m. F = A = B gives 1.",
    )
)
def mef_ssim(t: Triple, variant: str) -> Tensor:
    """MEF-SSIM: contrast and structure of F against those of the stronger source, patch by patch."""
    if variant != "tang":
        return _mef_ssim(t)
    levels = pyramid(t, 3)
    weights = _SCALE_WEIGHTS[: len(levels)]
    value = torch.ones(len(t), dtype=torch.float64, device=t.device)
    for weight, level in zip(weights, levels, strict=True):
        value = value * _mef_ssim(level).clamp_min(0) ** (weight / math.fsum(weights))
    return value
