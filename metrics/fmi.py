"""Feature mutual information (Haghighat) on five features.  2D; windows are read column by column."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pywt
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fusebench.metric import Metric, MetricInfo
from fusebench.triple import Triple

from ._gradients import derivative

Feature = Callable[[Tensor], Tensor]

# Windows worked on at once: their 9x9 joint tables stay in the cache.
_CHUNK = 512
# Coefficients of at most this share of the largest are rounding noise.
_NOISE = 1e-13


def _raw(x: Tensor) -> Tensor:
    return x


def _slope(x: Tensor) -> Tensor:
    """Horizontal central difference."""
    return torch.gradient(x, dim=2)[0]


def _edge(x: Tensor) -> Tensor:
    """Thinned Sobel edges as Octave's `edge` finds them, ties between neighbours exact."""
    squares = [derivative(x, k, (1.0, 1.0), "replicate").square_() for k in range(2)]
    strength = squares[0] + squares[1]
    strength = torch.where(strength <= 4 * strength.mean((1, 2), keepdim=True), 0, strength)
    p = functional.pad(strength, (1, 1, 1, 1))
    across = (strength > p[:, 1:-1, :-2]) & (strength > p[:, 1:-1, 2:])
    along = (strength > p[:, :-2, 1:-1]) & (strength > p[:, 2:, 1:-1])
    return (across | along).to(x.dtype)


def _without_noise(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Coefficients ``(N, H, W)``, those that are rounding noise next to the largest set to 0.

    A window of such noise would be stretched to full contrast.
    """
    size = np.abs(x)
    x[size <= _NOISE * size.max((1, 2), keepdims=True)] = 0
    return x


def _dct(x: Tensor) -> Tensor:
    """Cosine transform of the whole image."""
    import scipy.fft  # a fifth of a second, for one feature

    # Of differences from one voxel, so that rounding is small beside the contrast, not beside the mean.
    offset = x[:, :1, :1].double()
    y = scipy.fft.dctn((x.double() - offset).cpu().numpy(), axes=(1, 2), norm="ortho")
    y[:, 0, 0] += offset[:, 0, 0].cpu().numpy() * math.sqrt(x.shape[1] * x.shape[2])
    return torch.from_numpy(_without_noise(y)).to(x.device)


def _wavelet(x: Tensor) -> Tensor:
    """One level of the discrete Meyer transform, its four bands side by side, stretched to [0, 1]."""
    low, (h, v, d) = pywt.dwt2(x.cpu().numpy(), "dmey", axes=(1, 2))
    bands = np.concatenate([np.concatenate([low, h], 2), np.concatenate([v, d], 2)], 1)
    lo, hi = bands.min((1, 2), keepdims=True), bands.max((1, 2), keepdims=True)
    out = np.where(hi > lo, (bands - lo) / np.where(hi > lo, hi - lo, 1), 1.0)
    return torch.from_numpy(out).to(x.device)


def _all_in_window(x: Tensor) -> Tensor:
    """Where all of a 3x3 window of a bool map ``(N, H, W)`` is true."""
    x = x[:, :-2] & x[:, 1:-1] & x[:, 2:]
    return x[:, :, :-2] & x[:, :, 1:-1] & x[:, :, 2:]


def _stretch(x: Tensor) -> tuple[Tensor, Tensor]:
    """Windows ``(9, ...)`` stretched to [0, 1], and which are flat; those become 1."""
    low, high = x.aminmax(dim=0)
    span = high - low
    flat = span == 0
    return (x - low).div_(span).masked_fill_(flat, 1), flat


def _entropy(p: Tensor) -> Tensor:
    # torch.xlogy is an order of magnitude slower than a clamped logarithm.
    return -p.clamp_min(1e-300).log_().mul_(p).sum(0)


def _deviation(p: Tensor) -> Tensor:
    """Standard deviation of the position 1..9 under densities ``(9, ...)``."""
    index = torch.arange(1, 10, dtype=p.dtype, device=p.device).view(9, *[1] * (p.ndim - 1))
    mean = (index * p).sum(0)
    return ((index * index * p).sum(0) - mean * mean).clamp_min_(0).sqrt_()


def _information(x: Tensor, flat_x: Tensor, f: Tensor, flat_f: Tensor) -> Tensor:
    """Normalised mutual information ``(2, P)`` of stretched windows ``(9, 2, P)`` with ``(9, 1, P)``.

    The joint distribution is the mixture of independence and the Frechet bound that has the correlation
    of the two densities.
    """
    px, pf = x / x.sum(0), f / f.sum(0)
    dx, df = px - px.mean(0), pf - pf.mean(0)
    c = (dx * df).sum(0).div_(((dx * dx).sum(0) * (df * df).sum(0)).sqrt_())
    c = torch.where(flat_x | flat_f, (flat_x & flat_f).to(c.dtype), c)
    # The lower bound is the upper bound against the reversed density, with the sign of c turned.
    px = torch.where(c < 0, px.flip(0), px)
    cx, cf = px.cumsum(0), pf.cumsum(0)
    # Overlap of the two cumulated steps is the mass of the bound in a cell.
    joint = torch.minimum(cf[:, None], cx[None])
    bound = joint.flatten(0, 1).sum(0) - cf.sum(0) * cx.sum(0)
    sd = _deviation(px) * _deviation(pf)
    share = torch.where((c == 0) | (sd == 0) | (bound == 0), 0.0, c.abs() * sd / bound)
    joint.sub_(torch.maximum((cf - pf)[:, None], (cx - px)[None])).clamp_min_(0).mul_(share)
    joint.addcmul_((pf * (1 - share))[:, None], px[None])
    hxf = -joint.abs().clamp_min_(1e-30).log_().mul_(joint).flatten(0, 1).sum(0)
    total = _entropy(px) + _entropy(pf)
    mutual = total - hxf
    return torch.where(mutual == 0, 0.0, 2 * mutual / total)


def _fmi(t: Triple, feature: Feature, local: bool) -> Tensor:
    a, b, f = (feature(t.image(name)).contiguous() for name in ("a", "b", "fused"))
    n, h, w = a.shape
    same_a, same_b = _all_in_window(a == f), _all_in_window(b == f)
    scores = torch.ones(2, n, h - 2, w - 2, dtype=torch.float64, device=a.device)
    row, y, x = (~(same_a & same_b)).nonzero(as_tuple=True)
    first = (row * h + y) * w + x
    offsets = torch.tensor([i * w + j for j in range(3) for i in range(3)], device=a.device)[:, None]
    values = []
    for start in range(0, len(first), _CHUNK):
        at = first[start : start + _CHUNK] + offsets
        sources = torch.stack([a.flatten()[at], b.flatten()[at]], dim=1)
        stretched_f, flat_f = _stretch(f.flatten()[at][:, None])
        value = _information(*_stretch(sources), stretched_f, flat_f)
        # The program has stretched F by the time it compares it with B.
        value[1].masked_fill_((sources[:, 1] - stretched_f[:, 0]).abs().amax(0) == 0, 1)
        values.append(value)
    if values:
        scores[:, row, y, x] = torch.cat(values, dim=1)
        scores[0].masked_fill_(same_a, 1)
        scores[1].masked_fill_(same_a & same_b, 1)
    mean = scores.mean(0)
    score = t.map_mean(mean, (1, 1)) if local else mean.mean((1, 2))
    return score.clamp(0, 1)  # the tables' single precision may pass the bounds by 1e-7


_NOTES = (
    "3x3 windows; equal windows score 1, so a common background raises it. Not symmetric: the comparison "
    "with A changes F before it is compared with B. Two flat windows of different grey count as equal. In "
    "3D: slice mean. "
)
_WHOLE = "The transform is of the whole image: a mask has no effect. "
_FACTS: dict[str, Any] = {
    "family": "information",
    "direction": "higher",
    "low": 0.0,
    "high": 1.0,
    "dims": (2,),
    "symmetric": False,
    "formula": r"\frac{1}{2}\sum_X\;\overline{\frac{2\,I(X_w;F_w)}{H(X_w)+H(F_w)}}"
    r",\quad w:\;3\times 3\mathrm{\;windows}",
    "paper": "Haghighat, Aghagolzadeh and Seyedarabi 2011, doi:10.1016/j.compeleceng.2011.07.012; "
    "Fast-FMI 2014",
}


def _metric(info: MetricInfo, feature: Feature, local: bool = True) -> Metric:
    """The metric of one feature; a mask applies to its windows where they are `local`."""

    def core(t: Triple) -> Tensor:
        return _fmi(t, feature, local)

    core.__doc__ = f"{info.title}."
    return Metric(info, core)


fmi_none = _metric(
    MetricInfo(name="fmi_none", title="Feature mutual information, grey values", notes=_NOTES, **_FACTS),
    _raw,
)
fmi_gradient = _metric(
    MetricInfo(name="fmi_gradient", title="Feature mutual information, gradient", notes=_NOTES, **_FACTS),
    _slope,
)
fmi_edge = _metric(
    MetricInfo(
        name="fmi_edge",
        title="Feature mutual information, edges",
        notes=_NOTES
        + "What Tang and others call FMI_pixel. The program leaves ties of the edge thinning to rounding, "
        "which moves it by up to 2e-3.",
        **_FACTS,
    ),
    _edge,
)
fmi_dct = _metric(
    MetricInfo(
        name="fmi_dct",
        title="Feature mutual information, cosine transform",
        notes=_NOTES + _WHOLE + "Coefficients below 1e-13 of the largest are rounding noise and count as 0.",
        **_FACTS,
    ),
    _dct,
    local=False,
)
fmi_wavelet = _metric(
    MetricInfo(
        name="fmi_wavelet",
        title="Feature mutual information, wavelet transform",
        notes=_NOTES
        + _WHOLE
        + "On a black background the long filters leave coefficients of the size of rounding, which count "
        "as in the program: one build of PyWavelets gives the same number on every processor, another "
        "build may not.",
        **_FACTS,
    ),
    _wavelet,
    local=False,
)
