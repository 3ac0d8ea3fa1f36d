"""Fidelity: PSNR, RMSE, CC, SCD."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

_PEAK = 255.0


def _mse(t: Triple, source: str) -> Tensor:
    return t.cached(("mse", source), lambda: t.mean((t.points(source) - t.points("fused")).square_()))


def _decibel(mse: Tensor, peak: float | Tensor = _PEAK) -> Tensor:
    return 10 * torch.log10(peak**2 / mse)


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
        return (_decibel(a) + _decibel(b)) / 2
    mse = (a + b) / 2
    if variant == "cddfuse":
        return _decibel(mse, t.points("fused").amax(1).double())
    if variant == "tang":
        return _decibel(mse / 255**2)
    return _decibel(mse)


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
        variants={"vifb": "sqrt of the summed squares over the count, on [0, 1], mean of two (VIFB)"},
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
        return (a.sqrt() + b.sqrt()) / 2 / 255 / math.sqrt(count)
    return ((a + b) / 2).sqrt()
