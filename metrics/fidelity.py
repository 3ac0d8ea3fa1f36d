"""Fidelity: PSNR, RMSE, CC, SCD."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two

_PEAK = 255.0


def _mse(t: Triple, source: str) -> Tensor:
    def make() -> Tensor:
        d = t.points(source) - t.points("fused")
        if len(t) == 1 and d.dtype == torch.float64:
            return (torch.dot(d[0], d[0]) / d.shape[1])[None]
        return t.mean(d.square_())

    return t.cached(("mse", source), make)


def decibel(mse: Tensor, peak: float | Tensor = _PEAK) -> Tensor:
    return 10 * torch.log10(peak**2 / mse)


def _psnr_cddfuse(t: Triple, part: str) -> Tensor:
    """The program works in single precision to its last step, where an ulp is 1e-6 dB; so does this."""
    out = []
    for row in range(len(t)):
        at = slice(None) if t.weights is None else (t.weights[row] > 0).cpu().numpy()
        a, b, f = (t.points(name)[row].cpu().numpy().astype(np.float32)[at] for name in ("a", "b", "fused"))
        sources = {"a": (a,), "b": (b,)}.get(part, (a, b))
        errors = [np.mean((x - f) ** 2) for x in sources]
        mse = max(errors) if part == "worst" else sum(errors) / len(errors)
        with np.errstate(divide="ignore"):
            out.append(float(10 * np.log10(np.max(f) ** 2 / mse)) if mse else math.inf)
    return torch.tensor(out, dtype=torch.float64, device=t.a.device)


@metric(
    MetricInfo(
        name="psnr",
        title="Peak signal-to-noise ratio",
        family="fidelity",
        direction="higher",
        low=0.0,
        high=math.inf,
        unit="dB",
        paper="Jagalingam and Hegde 2015, doi:10.1016/j.aqpro.2015.02.019",
        parts=("a", "b", "worst"),
        variants={
            "paper": "mean of the two PSNRs (torchmetrics, DC2Fusion, dilran); inf when F equals a source",
            "cddfuse": "the peak is the maximum of F (CDDFuse)",
            "tang": "images scaled to [0, 1] but peak 255: 48.13 dB more (Tang, IVIF_ZOO)",
        },
        ranked=True,
        notes="Pooled: 10 log10(255^2 / mean of the two MSEs). F = A = B gives inf.",
    )
)
def psnr(t: Triple, part: str, variant: str) -> Tensor:
    """Peak signal-to-noise ratio against both sources, pooled."""
    a, b = (_mse(t, part if part in ("a", "b") else s) for s in ("a", "b"))
    if part == "worst":
        a = b = torch.maximum(a, b)
    if variant == "paper":
        return (decibel(a) + decibel(b)) / 2
    if variant == "cddfuse":
        return _psnr_cddfuse(t, part)
    mse = (a + b) / 2
    if variant == "tang":
        return decibel(mse / 255**2)
    return decibel(mse)


@metric(
    MetricInfo(
        name="rmse",
        title="Root mean squared error",
        family="fidelity",
        direction="lower",
        low=0.0,
        high=255.0,
        paper="Jagalingam and Hegde 2015, doi:10.1016/j.aqpro.2015.02.019",
        parts=("a", "b", "worst"),
        variants={"vifb": "root of the summed squares over the count of pixels, mean of two (VIFB)"},
        notes="Square root of the mean of the two MSEs, on the 8-bit scale.",
    )
)
def rmse(t: Triple, part: str, variant: str) -> Tensor:
    """Root of the mean of the two mean squared errors."""
    a, b = (_mse(t, part if part in ("a", "b") else s) for s in ("a", "b"))
    if part == "worst":
        a = b = torch.maximum(a, b)
    if variant == "vifb":
        count = t.points("a").shape[1] if t.weights is None else t.weights.sum(1)
        return (a.sqrt() + b.sqrt()) / 2 / count**0.5
    return ((a + b) / 2).sqrt()


def _covariance(t: Triple) -> tuple[Tensor, Tensor]:
    """Covariance matrices ``(N, 3, 3)`` of (a, b, fused) over the foreground, and the size of their terms."""

    def make() -> tuple[Tensor, Tensor]:
        x = t.stacked.double()
        w = t.weights
        if w is None and len(t) == 1:
            mean = (x.sum(2) / x.shape[2]).mT
            product = (x[:, 0] @ x[:, 0].mT / x.shape[2])[None]
        else:
            x = x.transpose(0, 1)
            y = x / x.shape[2] if w is None else x * (w / w.sum(1, keepdim=True))[:, None]
            mean, product = y.sum(2), y @ x.mT
        return product - mean[:, :, None] * mean[:, None, :], product.diagonal(dim1=1, dim2=2).amax(1)

    return t.cached("covariance", make)


def correlation(cov: Tensor, var_x: Tensor, var_y: Tensor, scale: Tensor) -> Tensor:
    """Pearson correlation; 0 where either variance is rounding noise next to `scale`."""
    flat = (var_x <= 1e-12 * scale) | (var_y <= 1e-12 * scale)
    return torch.where(flat, 0.0, cov / (var_x * var_y).sqrt()).clamp_(-1, 1)


@metric(
    MetricInfo(
        name="cc",
        title="Correlation coefficient",
        family="fidelity",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Pearson correlation, mean of two; as in Tang's evaluation toolbox",
        parts=("a", "b", "worst"),
        notes="A constant image correlates 0 with everything. F = A = B gives 1.",
    )
)
def cc(t: Triple, part: str, variant: str) -> Tensor:
    """Mean Pearson correlation of F with A and with B."""
    c, scale = _covariance(t)
    rows = {"a": 0, "b": 1}
    return mean_of_two(
        lambda s: correlation(c[:, rows[s], 2], c[:, rows[s], rows[s]], c[:, 2, 2], scale), part
    )


@metric(
    MetricInfo(
        name="scd",
        title="Sum of the correlations of differences",
        family="fidelity",
        direction="higher",
        low=-2.0,
        high=2.0,
        paper="Aslantas and Bendes 2015, doi:10.1016/j.aeue.2015.09.004",
        ranked=True,
        notes="corr(F - B, A) + corr(F - A, B), in floating point. A difference without contrast (F equals a "
        "source) correlates 0.",
    )
)
def scd(t: Triple, part: str, variant: str) -> Tensor:
    """Correlation of F - B with A plus that of F - A with B."""
    c, scale = _covariance(t)

    def one(x: int, y: int) -> Tensor:
        variance = c[:, 2, 2] + c[:, y, y] - 2 * c[:, 2, y]
        return correlation(c[:, 2, x] - c[:, y, x], variance, c[:, x, x], scale)

    return one(0, 1) + one(1, 0)
