"""Feature mutual information (Haghighat) on five features.  2D; windows are read column by column."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pywt
import scipy.fft
import torch
from torch import Tensor
from torch.nn import functional

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._gradients import derivative

# Windows worked on at once: their 9x9 joint tables stay in the cache.
_CHUNK = 2048


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


def _dct(x: Tensor) -> Tensor:
    """Cosine transform of the whole image."""
    y = scipy.fft.dctn(x.cpu().numpy(), axes=(1, 2), norm="ortho")
    return torch.from_numpy(y).to(x.device)


def _wavelet(x: Tensor) -> Tensor:
    """One level of the discrete Meyer transform, its four bands side by side, stretched to [0, 1]."""
    low, (h, v, d) = pywt.dwt2(x.cpu().numpy(), "dmey", axes=(1, 2))
    bands = np.concatenate([np.concatenate([low, h], 2), np.concatenate([v, d], 2)], 1)
    lo, hi = bands.min((1, 2), keepdims=True), bands.max((1, 2), keepdims=True)
    out = np.where(hi > lo, (bands - lo) / np.where(hi > lo, hi - lo, 1), 1.0)
    return torch.from_numpy(out).to(x.device)


def _windows(x: Tensor) -> Tensor:
    """3x3 windows as ``(9, P)``, each read column by column."""
    h, w = x.shape[1] - 2, x.shape[2] - 2
    return torch.stack([x[:, i : i + h, j : j + w].flatten() for j in range(3) for i in range(3)])


def _stretch(x: Tensor) -> Tensor:
    """Windows stretched to [0, 1]; flat windows are 1."""
    low, high = x.aminmax(dim=0)
    span = high - low
    return torch.where(span > 0, (x - low) / torch.where(span > 0, span, 1), 1.0)


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(0)


def _information(x: Tensor, f: Tensor) -> Tensor:
    """Normalised mutual information ``(P,)`` of two sets of stretched windows ``(9, P)``.

    The joint distribution is the mixture of independence and the Frechet bound that has the correlation
    of the two densities.
    """
    px, pf = x / x.sum(0), f / f.sum(0)
    dx, df = px - px.mean(0), pf - pf.mean(0)
    c = (dx * df).sum(0)
    norm = ((dx * dx).sum(0) * (df * df).sum(0)).sqrt_()
    flat_x, flat_f = (x == 1).all(0), (f == 1).all(0)
    c = torch.where(flat_x | flat_f, (flat_x & flat_f).to(c.dtype), c / norm)
    # The lower bound is the upper bound against the reversed density, with the sign of c turned.
    px = torch.where(c < 0, px.flip(0), px)
    cx, cf = px.cumsum(0), pf.cumsum(0)
    index = torch.arange(1, 10, dtype=px.dtype, device=px.device)[:, None]
    sd = torch.ones_like(c)
    for p in (px, pf):
        mean = (index * p).sum(0)
        sd = sd * ((index * index * p).sum(0) - mean * mean).clamp_min_(0).sqrt_()
    bound = torch.minimum(cf[:, None], cx[None]).sum((0, 1)) - cf.sum(0) * cx.sum(0)
    share = torch.where((c == 0) | (sd == 0) | (bound == 0), 0.0, c.abs() * sd / bound)
    # Overlap of the two cumulated steps is the mass of the bound in a cell.
    zero = torch.zeros_like(cx[:1])
    lx, lf = torch.cat([zero, cx[:-1]]), torch.cat([zero, cf[:-1]])
    joint = torch.minimum(cf[:, None], cx[None]).sub_(torch.maximum(lf[:, None], lx[None])).clamp_min_(0)
    joint.mul_(share).addcmul_(pf[:, None] * (1 - share), px[None])
    hx, hf = _entropy(px), _entropy(pf)
    hxf = -torch.xlogy(joint, joint.abs()).sum((0, 1))
    mutual = hx + hf - hxf
    return torch.where(mutual == 0, 0.0, 2 * mutual / (hx + hf))


def _window_scores(a: Tensor, b: Tensor, f: Tensor) -> Tensor:
    """Score ``(P,)`` of windows ``(9, P)``: mean over the two sources."""
    sf = _stretch(f)
    same_a = (a == f).all(0)
    # The program has stretched F by the time it compares it with B, unless F equals A.
    same_b = (b == torch.where(same_a, f, sf)).all(0)
    score = torch.zeros_like(a[0])
    for x, same in ((a, same_a), (b, same_b)):
        todo = (~same).nonzero()[:, 0]
        value = torch.ones_like(score)
        value[todo] = _information(_stretch(x[:, todo]), sf[:, todo])
        score += value
    return score / 2


def _fmi(t: Triple, feature: Callable[[Tensor], Tensor], local: bool) -> Tensor:
    a, b, f = (_windows(feature(t.image(name))) for name in ("a", "b", "fused"))
    parts = [_window_scores(*(x[:, i : i + _CHUNK] for x in (a, b, f))) for i in range(0, a.shape[1], _CHUNK)]
    scores = torch.cat(parts).view(len(t), -1)
    if not local:
        return scores.mean(1)
    return t.map_mean(scores.view(len(t), t.shape[0] - 2, t.shape[1] - 2), (1, 1))


_PAPER = "Haghighat, Aghagolzadeh and Seyedarabi 2011, doi:10.1016/j.compeleceng.2011.07.012; Fast-FMI 2014"
_NOTES = (
    "3x3 windows; equal windows score 1, so a common background raises it. Not symmetric: the comparison with A "
    "changes F before it is compared with B. Two flat windows of different grey count as equal. In 3D: slice mean. "
)


@metric(
    MetricInfo(
        name="fmi_none",
        title="Feature mutual information, grey values",
        family="information",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper=_PAPER,
        symmetric=False,
        notes=_NOTES,
    )
)
def fmi_none(t: Triple, part: str, variant: str) -> Tensor:
    """FMI of the grey values themselves."""
    return _fmi(t, _raw, local=True)


@metric(
    MetricInfo(
        name="fmi_gradient",
        title="Feature mutual information, gradient",
        family="information",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper=_PAPER,
        symmetric=False,
        notes=_NOTES,
    )
)
def fmi_gradient(t: Triple, part: str, variant: str) -> Tensor:
    """FMI of the horizontal gradient."""
    return _fmi(t, _slope, local=True)


@metric(
    MetricInfo(
        name="fmi_edge",
        title="Feature mutual information, edges",
        family="information",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper=_PAPER,
        symmetric=False,
        notes=_NOTES
        + "What Tang and others call FMI_pixel. The program leaves ties of the edge thinning to rounding, "
        "which moves it by up to 2e-3.",
    )
)
def fmi_edge(t: Triple, part: str, variant: str) -> Tensor:
    """FMI of thinned Sobel edges."""
    return _fmi(t, _edge, local=True)


@metric(
    MetricInfo(
        name="fmi_dct",
        title="Feature mutual information, cosine transform",
        family="information",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper=_PAPER,
        symmetric=False,
        notes=_NOTES + "The transform is of the whole image: a mask has no effect.",
    )
)
def fmi_dct(t: Triple, part: str, variant: str) -> Tensor:
    """FMI of the cosine transform."""
    return _fmi(t, _dct, local=False)


@metric(
    MetricInfo(
        name="fmi_wavelet",
        title="Feature mutual information, wavelet transform",
        family="information",
        direction="higher",
        low=0.0,
        high=1.0,
        dims=(2,),
        paper=_PAPER,
        symmetric=False,
        notes=_NOTES + "The transform is of the whole image: a mask has no effect.",
    )
)
def fmi_wavelet(t: Triple, part: str, variant: str) -> Tensor:
    """FMI of one level of the discrete Meyer transform."""
    return _fmi(t, _wavelet, local=False)
