"""Fusion quality from local similarity: Q_S, Q_W, Q_E (Piella), Q_Y (Yang), Q_C (Cvejic)."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._gradients import derivative, norm
from ._moments import Moments, moments
from .structure import ssim_map

_TINY = 2e-16


def _variance(m: Moments, x: str) -> Tensor:
    """Local variance, 0 in flat windows."""
    return m.triple.cached(("variance", m.margin, x), lambda: m.cov(x, x).masked_fill(m.flat(x), 0))


def _covariance(m: Moments, x: str, y: str) -> Tensor:
    """Local covariance, 0 where rounding would decide its sign."""
    return m.triple.cached(
        ("covariance", m.margin, x, y), lambda: m.cov(x, y).masked_fill(m.unrelated(x, y), 0)
    )


def _shares(m: Moments) -> tuple[Tensor, Tensor]:
    """Share of source A in the local variance, and the larger variance, where both are flat 0.5 each."""

    def make() -> tuple[Tensor, Tensor]:
        va, vb = _variance(m, "a"), _variance(m, "b")
        both = (va == 0) & (vb == 0)
        va, vb = va.masked_fill(both, 0.5), vb.masked_fill(both, 0.5)
        return va / (va + vb), torch.maximum(va, vb)

    return m.triple.cached(("shares", m.margin), make)


def _mixed(m: Moments) -> Tensor:
    share, _ = _shares(m)
    return m.triple.cached(
        ("mixed", m.margin),
        lambda: torch.lerp(ssim_map(m, "b", "fused"), ssim_map(m, "a", "fused"), share),
    )


def _weighted(t: Triple) -> Tensor:
    m = moments(t)
    _, weight = _shares(m)
    top = m.triple.map_sum(_mixed(m) * weight, m.margin)
    return top / m.triple.map_sum(weight, m.margin)


@metric(
    MetricInfo(
        name="q_s",
        title="Fusion quality index Q_S",
        formula=r"\overline{\lambda\,S_{AF}+(1-\lambda)\,S_{BF}}"
        r",\quad\lambda=\frac{\sigma_A^2}{\sigma_A^2+\sigma_B^2}",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Piella and Heijmans 2003, Proc. ICIP; code metricPeilla",
        notes="SSIM in 11-tap Gaussian windows mixed by local variance. Windows flat in both sources count "
        "half and half; the program leaves that to rounding. F = A = B gives 1.",
    )
)
def q_s(t: Triple) -> Tensor:
    """Mean over windows of SSIM mixed by the variance of the sources."""
    m = moments(t)
    return m.average(_mixed(m))


@metric(
    MetricInfo(
        name="q_w",
        title="Weighted fusion quality index Q_W",
        formula=r"\frac{\sum c\,[\lambda\,S_{AF}+(1-\lambda)\,S_{BF}]}{\sum c}"
        r",\quad c=\max(\sigma_A^2,\sigma_B^2)",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Piella and Heijmans 2003, Proc. ICIP; code metricPeilla",
        notes="As Q_S, windows weighted by the larger source variance. F = A = B gives 1.",
    )
)
def q_w(t: Triple) -> Tensor:
    """Variance-weighted mean of SSIM mixed by the variance of the sources."""
    return t.cached("q_w", lambda: _weighted(t))


def _edges(t: Triple) -> Triple:
    """Prewitt magnitude of the three images; border zero in 2D, repeated in 3D as in `gradients`."""
    mode = "constant" if t.dims == 2 else "replicate"
    x = t.images.flatten(0, 1)
    edges = norm([derivative(x, k, t.scale, mode, centre=1.0) for k in range(t.dims)])
    return Triple(edges.view_as(t.images), t.mask, t.scale)


@metric(
    MetricInfo(
        name="q_e",
        title="Edge-dependent fusion quality index Q_E",
        formula=r"Q_W(A,B,F)\cdot Q_W(\nabla A,\nabla B,\nabla F)",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Piella and Heijmans 2003, Proc. ICIP",
        notes="Q_W of the images times Q_W of their Prewitt magnitudes, both to the power 1. The published "
        "branch does not run, so there is no reference program. F = A = B gives 1.",
    )
)
def q_e(t: Triple) -> Tensor:
    """Product of Q_W of intensity and of edges."""
    return q_w.core(t) * _weighted(t.cached("edges", lambda: _edges(t)))


def _similarity(m: Moments, x: str, y: str) -> Tensor:
    """SSIM without stabilising constants, exact in flat windows."""

    def make() -> Tensor:
        mx, my = m.mean(x), m.mean(y)
        luminance = (2 * mx * my + _TINY) / (mx * mx + my * my + _TINY)
        rest = (2 * _covariance(m, x, y) + _TINY) / (_variance(m, x) + _variance(m, y) + _TINY)
        return luminance * rest

    return m.triple.cached(("similarity", x, y), make)


@metric(
    MetricInfo(
        name="q_y",
        title="Fusion quality index Q_Y",
        formula=r"\overline{\lambda\,S_{AF}"
        r"+(1-\lambda)\,S_{BF}}\;\mathrm{where\;}S_{AB}\geq 0.75,\;\mathrm{else}\;\max(S_{AF},S_{BF}"
        r")",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Yang, Zhang, Wang and Liu 2008, Information Fusion 9, 156-160; code metricYang",
        notes="7-tap Gaussian windows of sigma 1.5. Where A and B are alike (SSIM at least 0.75) both count "
        "by their variance, else the better one. Windows flat in both count half and half; the program is "
        "NaN there. A copy of a source scores 1 wherever it wins.",
    )
)
def q_y(t: Triple) -> Tensor:
    """Local similarity of F with both sources where they agree, with the better one where they do not."""
    m = moments(t, 1.5, 7)
    share, _ = _shares(m)
    sa, sb = _similarity(m, "a", "fused"), _similarity(m, "b", "fused")
    alike = _similarity(m, "a", "b") >= 0.75 - 1e-6  # an equal one counts, whatever rounding leaves of it
    return m.average(torch.where(alike, torch.lerp(sb, sa, share), torch.maximum(sa, sb)))


@metric(
    MetricInfo(
        name="q_c",
        title="Fusion quality index Q_C",
        formula=r"\overline{\tau\,S_{AF}+(1-\tau)\,S_{BF}}"
        r",\quad\tau=\frac{\sigma_{AF}}{\sigma_{AF}+\sigma_{BF}}",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Cvejic, Loza, Bull and Canagarajah 2005, Int. J. Signal Processing 2, 178-182",
        variants={"liu": "a share outside [0, 1] sets the result, not the share (Liu's metricCvejic)"},
        notes="7-tap Gaussian windows; share of A is cov(A, F) / (cov(A, F) + cov(B, F)), clipped to [0, "
        "1], 0.5 where both vanish; covariances that cancel count by their sign, not by what "
        "rounding leaves of their sum. No reference: Liu's program is NaN on flat windows.",
    )
)
def q_c(t: Triple, variant: str) -> Tensor:
    """Local similarity of F with both sources, mixed by their covariance with F."""
    m = moments(t, 1.5, 7)
    ca, cb = _covariance(m, "a", "fused"), _covariance(m, "b", "fused")
    total = ca + cb
    # Covariances that are each other's negatives leave rounding, whose sign must not choose the source.
    total = total.masked_fill(total.abs() <= 1e-6 * (ca.abs() + cb.abs()), 0)
    share = torch.where(total == 0, torch.where(ca == 0, 0.5, torch.sign(ca) * torch.inf), ca / total)
    sa, sb = _similarity(m, "a", "fused"), _similarity(m, "b", "fused")
    clipped = share.clamp(0, 1)
    values = torch.lerp(sb, sa, clipped)
    if variant == "liu":
        values = torch.where(share == clipped, values, clipped)
    return m.average(values)
