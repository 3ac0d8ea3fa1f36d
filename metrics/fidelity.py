"""Fidelity: PSNR, RMSE, CC, SCD."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two

Array = NDArray[np.float64]

_PEAK = 255.0
# Voxels worked on at once.
_CHUNK = 1 << 20
# So many products of two bytes add up without rounding in single precision.
_EXACT = 256
# An image, or a difference, whose variance is at most this share of the mean square is flat: rounding, being
# 1e-16 of the mean square, moves the correlation of others by less than a millionth.
_FLAT = 1e-9
_ROWS = {"a": 0, "b": 1, "fused": 2}


def _parts(t: Triple) -> Iterator[NDArray[Any]]:
    """Foreground ``(3, N, P)`` in NumPy, which costs less on 2D images than torch, a part at a time."""
    points = t.given_points
    for start in range(0, points.shape[2], _CHUNK):
        yield points[:, :, start : start + _CHUNK].cpu().numpy()


def _dot(x: NDArray[Any], y: NDArray[Any]) -> Any:
    """Sum of products over the last axis in double precision; of float32, which hold bytes, exact."""
    if x.dtype == np.float64:
        return np.vecdot(x, y)
    n = x.shape[-1] // _EXACT * _EXACT
    blocks = [v[..., :n].reshape(*v.shape[:-1], -1, _EXACT) for v in (x, y)]
    return np.vecdot(*blocks).sum(-1, dtype=np.float64) + np.vecdot(x[..., n:], y[..., n:])


def _errors(t: Triple) -> Array:
    """Mean squared errors ``(2, N)`` of F against A and B over the foreground."""

    def make() -> Array:
        if t.weights is not None:
            gaps = t.given_points[:2].double() - t.given_points[2].double()
            return np.stack([t.mean(x.square_()).cpu().numpy() for x in gaps])
        total = np.zeros((2, len(t)))
        for part in _parts(t):
            sources, f = part[:2], part[2]
            if t.whole:
                # The size of a difference of bytes is a byte.
                size = np.maximum(sources, f)
                size -= np.minimum(sources, f)
                gap = size.astype(np.float32)
            else:
                gap = sources.astype(np.float64) - f
            total += _dot(gap, gap)
        return total / t.given_points.shape[2]

    return t.cached("errors", make)


def _error(t: Triple, part: str) -> Array:
    """The error against one source, the larger, or the mean of both."""
    errors = _errors(t)
    both: Array = errors.max(0) if part == "worst" else errors.mean(0)
    return errors[_ROWS[part]] if part in _ROWS else both


def decibel(error: Array) -> Array:
    """PSNR of mean squared errors; inf for 0."""
    with np.errstate(divide="ignore"):
        out: Array = 10 * np.log10(_PEAK**2 / error)
    return out


def _tensor(t: Triple, x: Array) -> Tensor:
    return torch.from_numpy(x).to(t.device)


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
    return torch.tensor(out, dtype=torch.float64, device=t.device)


@metric(
    MetricInfo(
        name="psnr",
        title="Peak signal-to-noise ratio",
        formula=r"10\,\log_{10}\frac{255^2}{\frac{1}{2}(\mathrm{MSE}_{AF}+\mathrm{MSE}_{BF})}",
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
    if variant == "cddfuse":
        return _psnr_cddfuse(t, part)
    if variant == "paper" and not part:
        return _tensor(t, decibel(_errors(t)).mean(0))
    error = _error(t, part)
    return _tensor(t, decibel(error / 255**2 if variant == "tang" else error))


@metric(
    MetricInfo(
        name="rmse",
        title="Root mean squared error",
        formula=r"\sqrt{\frac{1}{2}(\mathrm{MSE}_{AF}+\mathrm{MSE}_{BF})}",
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
    if variant == "vifb":
        count = t.given_points.shape[2] if t.weights is None else t.weights.sum(1).cpu().numpy()
        roots = np.sqrt(_error(t, part)) if part else np.sqrt(_errors(t)).mean(0)
        return _tensor(t, roots / count**0.5)
    return _tensor(t, np.sqrt(_error(t, part)))


def _covariance(t: Triple) -> tuple[Array, Array]:
    """Covariances ``(N, 3, 3)`` of (a, b, fused), and the largest mean square of the three ``(N,)``."""

    def make() -> tuple[Array, Array]:
        if t.weights is not None:
            weights = (t.weights / t.weights.sum(1, keepdim=True))[:, None]
            x = t.given_points.double().transpose(0, 1)
            size = (x * x * weights).sum(2).amax(1)
            x = x - (x * weights).sum(2, keepdim=True)
            return ((x * weights) @ x.mT).cpu().numpy(), size.cpu().numpy()
        return _exact(t) if t.whole else _centred(t)

    return t.cached("covariance", make)


def _exact(t: Triple) -> tuple[Array, Array]:
    """As `_covariance`, of bytes: sums of them and of their products are exact."""
    mean, product = np.zeros((3, len(t))), np.zeros((3, 3, len(t)))
    for part in _parts(t):
        rows = part.astype(np.float32)
        mean += _dot(rows, np.ones_like(rows[0]))
        _add_products(product, rows)
    count = t.given_points.shape[2]
    mean, product = mean.T / count, product.T / count
    return product - mean[:, :, None] * mean[:, None, :], product.max(axis=(1, 2))


def _centred(t: Triple) -> tuple[Array, Array]:
    """As `_covariance`, of fractions: differences from the mean keep the digits of a faint contrast."""
    count = t.given_points.shape[2]
    mean, square, product = np.zeros((3, len(t), 1)), np.zeros((3, len(t))), np.zeros((3, 3, len(t)))
    for part in _parts(t):
        rows = part.astype(np.float64)
        mean += rows.sum(2, keepdims=True) / count
        square += _dot(rows, rows) / count
    for part in _parts(t):
        _add_products(product, part - mean)
    return product.T / count, square.max(0)


def _add_products(total: Array, rows: NDArray[Any]) -> None:
    """Add the sums of products of each two of ``(3, N, P)`` to ``(3, 3, N)``."""
    for k in range(3):
        sums = _dot(rows[k], rows[k:])
        total[k, k:] += sums
        total[k + 1 :, k] += sums[1:]


def correlation(cov: Array, var_x: Array, var_y: Array, scale: Array) -> Array:
    """Pearson correlation ``(N,)``; 0 where either variance is next to nothing beside `scale`."""
    flat = (var_x <= _FLAT * scale) | (var_y <= _FLAT * scale)
    safe = np.sqrt(np.where(flat, 1.0, var_x) * np.where(flat, 1.0, var_y))
    out: Array = np.clip(np.where(flat, 0.0, cov) / safe, -1, 1)
    return out


@metric(
    MetricInfo(
        name="cc",
        title="Correlation coefficient",
        formula=r"\frac{1}{2}\,(r_{AF}+r_{BF})",
        family="fidelity",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Pearson correlation, mean of two; as in Tang's evaluation toolbox",
        parts=("a", "b", "worst"),
        notes="A constant image correlates 0 with everything. F = A = B gives 1.",
    )
)
def cc(t: Triple, part: str) -> Tensor:
    """Mean Pearson correlation of F with A and with B."""
    c, scale = _covariance(t)

    def one(source: str) -> Tensor:
        k = _ROWS[source]
        return _tensor(t, correlation(c[:, k, 2], c[:, k, k], c[:, 2, 2], scale))

    return mean_of_two(one, part)


@metric(
    MetricInfo(
        name="scd",
        title="Sum of the correlations of differences",
        formula=r"r(F-B,\;A)+r(F-A,\;B)",
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
def scd(t: Triple) -> Tensor:
    """Correlation of F - B with A plus that of F - A with B."""
    c, scale = _covariance(t)

    def one(x: int, y: int) -> Array:
        variance = c[:, 2, 2] + c[:, y, y] - 2 * c[:, 2, y]
        return correlation(c[:, 2, x] - c[:, y, x], variance, c[:, x, x], scale)

    return _tensor(t, one(0, 1) + one(1, 0))
