"""Contrast sensitivity and saliency: Q_CB (Chen-Blum) and Q_CV (Chen-Varshney).  2D viewing models."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._filters import separable
from ._gradients import derivative, norm
from ._histogram import stretched

_BLOCK = 16


@lru_cache(maxsize=8)
def _radius(shape: tuple[int, int], divisor: float, device: torch.device) -> Tensor:
    """Radial frequency for rfft2, rows and columns scaled by their length over `divisor`."""
    h, w = shape
    # MATLAB's freqspace spans [-1, 1): twice the cycles per pixel.
    v = torch.fft.fftfreq(h, dtype=torch.float64, device=device) * (2 * h / divisor)
    u = torch.fft.rfftfreq(w, dtype=torch.float64, device=device) * (2 * w / divisor)
    return torch.hypot(v[:, None], u[None, :])


def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
    out: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[1:])
    return out


@lru_cache(maxsize=4)
def _bell(sigma: float) -> tuple[float, ...]:
    """31 taps of a Gaussian density, not normalised, as in the program."""
    return tuple(
        math.exp(-(x * x) / (2 * sigma * sigma)) / (math.sqrt(2 * math.pi) * sigma) for x in range(-15, 16)
    )


# A difference of one grey level leaves so much in the mean after the filter: a mean below it is black.
_LEVEL = 1 - 0.7622
# Masked contrasts that are smaller than this are the same: nobody sees a contrast of 0.05 %.
_UNSEEN = 1e-6


def _masked_contrast(t: Triple, name: str, floor: float) -> Tensor:
    """Contrast of an image as the eye sees it: CSF filter, local contrast, masking.

    Parameters
    ----------
    floor : float
        Contrast is taken against a local mean of at least this size.  With 0 it is 0 / 0 on a black
        background, and what rounding makes of that; where rounding gives an exact 0, there is no contrast.
    """
    r = _radius((t.shape[0], t.shape[1]), 30.0, t.device)
    transfer = torch.exp(-((r / 15.3870) ** 2)) - 0.7622 * torch.exp(-((r / 1.3456) ** 2))
    x = functional.pad(_filtered(stretched(t, name), transfer), (15, 15, 15, 15))
    narrow, wide = (separable(x, [_bell(sigma)] * 2) for sigma in (2.0, 4.0))
    size = wide.abs()
    size = size.clamp_min(floor) if floor else torch.where(size == 0, torch.inf, size)
    c = (narrow - wide).abs_() / size
    square = c * c
    return square * c / (square + 0.0001)


@metric(
    MetricInfo(
        name="q_cb",
        title="Chen-Blum quality",
        formula=r"\overline{\lambda_A\,Q_{AF}+\lambda_B\,Q_{BF}}"
        r",\quad\lambda_X=\frac{C_X^2}{C_A^2+C_B^2}"
        r",\quad Q_{XF}=\frac{\min(C_X,C_F)}{\max(C_X,C_F)}",
        family="perception",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper="Chen and Blum 2009, Image and Vision Computing 27, 1421-1432; code metricChenBlum",
        variants={
            "liu": "contrast of a black background is the ratio of two rounding errors: equal to 0.004 from "
            "one processor to the next (Liu's metricChenBlum, VIFB)"
        },
        tolerances={"liu": 0.004},
        notes="Images stretched to 0..255, DoG contrast sensitivity. Contrast is taken against a local mean "
        "of at least one grey level, and masked contrasts below 1e-6 count as equal: where neither image "
        "has contrast, as on a black background, it is kept (1), whatever the rounding. F = A = B gives 1.",
    )
)
def q_cb(t: Triple, variant: str) -> Tensor:
    """Masked contrast of the sources kept in F, weighted by its saliency."""
    floor, unseen = (0.0, 0.0) if variant == "liu" else (_LEVEL, _UNSEEN)
    a, b, f = (_masked_contrast(t, name, floor) for name in ("a", "b", "fused"))

    def kept(c: Tensor) -> Tensor:
        high = torch.maximum(c, f) + unseen
        return torch.where(high > 0, (torch.minimum(c, f) + unseen) / high, 1.0)

    aa, bb = a * a + unseen**2, b * b + unseen**2
    share = torch.where(aa + bb > 0, aa / (aa + bb), 0.5)
    return t.map_mean(torch.lerp(kept(b), kept(a), share), (0, 0))


def _blocks(x: Tensor) -> Tensor:
    """Sums over 16x16 blocks; the last ones are padded with zeros."""
    h, w = x.shape[1:]
    x = functional.pad(x, (0, -w % _BLOCK, 0, -h % _BLOCK))
    n, h, w = x.shape
    return x.reshape(n, h // _BLOCK, _BLOCK, w // _BLOCK, _BLOCK).sum((2, 4))


@metric(
    MetricInfo(
        name="q_cv",
        title="Chen-Varshney quality",
        formula=r"\frac{\sum_w(\lambda_A D_{AF}+\lambda_B D_{BF})}{\sum_w(\lambda_A+\lambda_B)}"
        r",\quad\lambda_X=\sum_w G_X^5",
        family="perception",
        direction="lower",
        low=0.0,
        high=math.inf,
        dims=(2,),
        paper="Chen and Varshney 2007, Information Fusion 8, 193-207; code metricChen",
        notes="Images stretched to 0..255; squared error after a Mannos-Sakrison filter in 16x16 blocks "
        "weighted by their summed gradient to the fifth. A block counts where at least half of it is "
        "foreground. F = A = B gives 0, sources without any edge give 0.",
    )
)
def q_cv(t: Triple) -> Tensor:
    """Perceived error of F against both sources, weighted by block saliency."""
    r = 0.144 * _radius((t.shape[0], t.shape[1]), 8.0, t.device)
    transfer = 2.6 * (0.0192 + r) * torch.exp(-(r**1.1))
    counts = None
    if t.mask is not None:
        share = _blocks(t.mask.double())
        inside = share >= _blocks(torch.ones_like(t.mask, dtype=share.dtype)) / 2
        counts = torch.where(inside.flatten(1).any(1)[:, None, None], inside, share > 0)
    f = stretched(t, "fused")
    top = bottom = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for name in ("a", "b"):
        x = stretched(t, name)
        edges = norm([derivative(x, k, (1.0, 1.0), "constant") for k in range(2)])
        salience = _blocks(edges**5)
        if counts is not None:
            salience = salience * counts
        error = _blocks(_filtered(x - f, transfer).square_()) / _BLOCK**2
        top = top + (salience * error).sum((1, 2))
        bottom = bottom + salience.sum((1, 2))
    return torch.where(bottom > 0, top / bottom, 0.0)
