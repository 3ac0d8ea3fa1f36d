"""Fidelity: PSNR, RMSE, CC, SCD."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two

Array = NDArray[np.float64]

_PEAK = 255.0


# Below this a difference of sums is no longer exact, and the error is computed voxel by voxel.
_SURE = 1e-3
# Voxels in double precision at once.
_CHUNK = 1 << 20
_ROWS = {"a": 0, "b": 1, "fused": 2}


def _moments(t: Triple) -> tuple[Array, Array]:
    """Means ``(N, 3)`` and mean products ``(N, 3, 3)`` of (a, b, fused) over the foreground.

    In NumPy: on a handful of numbers torch's calls would cost more than the sums over the images.
    """

    def make() -> tuple[Array, Array]:
        w = t.weights
        if w is None and len(t) == 1:
            mean, product = np.zeros(3), np.zeros((3, 3))
            count = t.stacked.shape[2]
            for start in range(0, count, _CHUNK):
                rows = t.stacked[:, 0, start : start + _CHUNK].double()
                mean = mean + rows.sum(1).cpu().numpy()
                product = product + (rows @ rows.mT).cpu().numpy()
            return mean[None] / count, product[None] / count
        x = t.stacked.double().transpose(0, 1)
        y = x / x.shape[2] if w is None else x * (w / w.sum(1, keepdim=True))[:, None]
        return y.sum(2).cpu().numpy(), (y @ x.mT).cpu().numpy()

    return t.cached("moments of points", make)


def _mse(t: Triple, source: str) -> Tensor:
    def make() -> Tensor:
        _, p = _moments(t)
        k = _ROWS[source]
        mse = p[:, k, k] + p[:, 2, 2] - 2 * p[:, k, 2]
        if mse.min() > _SURE:
            return torch.from_numpy(mse).to(t.a.device)
        return t.mean((t.points(source).double() - t.points("fused")).square_())

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


def _covariance(t: Triple) -> tuple[Array, Array]:
    """Covariance matrices ``(N, 3, 3)`` of (a, b, fused), and the size of the terms they are made of."""

    def make() -> tuple[Array, Array]:
        mean, product = _moments(t)
        return product - mean[:, :, None] * mean[:, None, :], product.max(axis=(1, 2))

    return t.cached("covariance", make)


def correlation(cov: Array, var_x: Array, var_y: Array, scale: Array) -> Array:
    """Pearson correlation ``(N,)``; 0 where either variance is rounding noise next to `scale`."""
    flat = (var_x <= 1e-12 * scale) | (var_y <= 1e-12 * scale)
    safe = np.sqrt(np.where(flat, 1.0, var_x) * np.where(flat, 1.0, var_y))
    out: Array = np.clip(np.where(flat, 0.0, cov) / safe, -1, 1)
    return out


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

    def one(source: str) -> Tensor:
        k = _ROWS[source]
        return torch.from_numpy(correlation(c[:, k, 2], c[:, k, k], c[:, 2, 2], scale)).to(t.a.device)

    return mean_of_two(one, part)


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

    def one(x: int, y: int) -> Array:
        variance = c[:, 2, 2] + c[:, y, y] - 2 * c[:, 2, y]
        return correlation(c[:, 2, x] - c[:, y, x], variance, c[:, x, x], scale)

    return torch.from_numpy(one(0, 1) + one(1, 0)).to(t.a.device)
