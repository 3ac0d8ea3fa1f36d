"""Visual information fidelity on a steerable pyramid: VIF (wavelet)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from fusebench.errors import InputError
from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two
from ._filters import separable

_LEVELS = 4
_BLOCK = 3
_NOISE = 0.4
_EPS = 1e-15
# Of the six orientations the program uses two.
_BANDS = (0, 3)

Bands = list[tuple[int, Tensor]]


def _bands(t: Triple, name: str) -> Bands:
    """Level and subband ``(N, h, w)``, cropped to whole blocks of 3x3."""

    def make() -> Bands:
        try:
            from pyrtools.pyramids import SteerablePyramidSpace
        except ImportError:
            raise InputError("vif_wavelet needs pyrtools; install fusebench[vif]") from None
        if min(t.shape) < 32:
            raise InputError(f"vif_wavelet needs 32 pixels a side, the images have {t.shape}")
        height = _LEVELS if min(t.shape) >= 128 else 2
        stacks: dict[tuple[int, int], list[Tensor]] = {}
        for x in t.image(name).cpu().numpy():
            pyramid = SteerablePyramidSpace(x, height=height, order=5, edge_type="reflect1")
            for key, band in pyramid.pyr_coeffs.items():
                if isinstance(key, tuple) and key[1] in _BANDS:
                    h, w = (n // _BLOCK * _BLOCK for n in band.shape)
                    stacks.setdefault(key, []).append(torch.from_numpy(np.ascontiguousarray(band[:h, :w])))
        return [(level, torch.stack(x).to(t.device)) for (level, _), x in stacks.items()]

    return t.cached(("steerable", name), make)


def _source_model(y: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian scale mixture of 3x3 blocks: eigenvalues ``(N, 9)`` and multiplier of every block."""
    m = range(_BLOCK)
    h, w = y.shape[1:]
    patches = torch.stack([y[:, i : h - 2 + i, j : w - 2 + j].flatten(1) for j in m for i in m], dim=1)
    patches = patches - patches.mean(2, keepdim=True)
    cov = patches @ patches.mT / patches.shape[2]
    values = torch.linalg.eigvalsh(cov).clamp_min(0)
    blocks = torch.stack([y[:, i::3, j::3].flatten(1) for j in m for i in m], dim=1)
    # A subband without any signal has no mixture: the pseudo-inverse is 0 there.
    scale = (torch.linalg.pinv(cov, hermitian=True) @ blocks * blocks).sum(1) / _BLOCK**2
    return values, scale.view(-1, h // 3, w // 3)


def _vif(t: Triple, source: str) -> Tensor:
    top = bottom = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for (level, x), (_, f) in zip(_bands(t, source), _bands(t, "fused"), strict=True):
        radius = 2 ** (_LEVELS - level - 1)
        size = 2 * radius + 1
        margin = -(-radius // _BLOCK)
        if min(x.shape[1:]) < size + 2 * _BLOCK * margin:
            continue
        at = (slice(None), *(slice(1 + 3 * margin - radius, n - 3 * margin - radius, 3) for n in x.shape[1:]))

        def total(y: Tensor, size: int = size, at: tuple[slice, ...] = at) -> Tensor:
            return separable(y, [(1.0,) * size] * 2)[at]

        count = float(size * size)
        mx, mf = total(x) / count, total(f) / count
        cov = total(x * f) - count * mx * mf
        vx = (total(x * x) - count * mx * mx).clamp_min_(0)
        vf = (total(f * f) - count * mf * mf).clamp_min_(0)
        gain = (cov / (vx + _EPS)).masked_fill_((vx < _EPS) | (vf < _EPS), 0)
        rest = torch.where(vx < _EPS, vf, (vf - gain * cov) / count).masked_fill_(vf < _EPS, 0)
        rest = torch.where(gain < 0, vf, rest).clamp_min_(_EPS)
        values, scale = _source_model(x)
        signal = scale[:, margin : scale.shape[1] - margin, margin : scale.shape[2] - margin]
        signal = signal[:, None] * values[:, :, None, None]
        kept = torch.log2(1 + (gain.clamp_min(0) ** 2 / (rest + _NOISE))[:, None] * signal).sum(1)
        whole = torch.log2(1 + signal / _NOISE).sum(1)
        if t.mask is not None:
            step = 3 * 2**level
            inside = t.mask[:, step // 2 :: step, step // 2 :: step].double()
            inside = inside[:, margin:, margin:][:, : kept.shape[1], : kept.shape[2]]
            kept, whole = (v[:, : inside.shape[1], : inside.shape[2]] * inside for v in (kept, whole))
        top, bottom = top + kept.sum((1, 2)), bottom + whole.sum((1, 2))
    return torch.where(bottom > 0, top / bottom, 1.0)


@metric(
    MetricInfo(
        name="vif_wavelet",
        title="Visual information fidelity, wavelet domain",
        formula=r"\frac{1}{2}\sum_X\frac{\sum\log_2\left(1+\frac{g^2 s^2\lambda}{\sigma_v^2"
        r"+\sigma_n^2}\right)}{\sum\log_2\left(1+\frac{s^2\lambda}{\sigma_n^2}\right)}"
        r",\quad\sigma_n^2=0.4",
        family="perception",
        direction="higher",
        low=0.0,
        high=math.inf,
        dims=(2,),
        paper="Sheikh and Bovik 2006, doi:10.1109/TIP.2005.859378; code vifvec",
        parts=("a", "b", "worst"),
        notes="Steerable pyramid of pyrtools (an extra), vector Gaussian scale mixture, noise variance 0.4; "
        "mean of two. Four levels from 128 pixels a side, two below. F = A = B gives 1, a source without "
        "contrast gives 1.",
    )
)
def vif_wavelet(t: Triple, part: str) -> Tensor:
    """Wavelet-domain VIF of F against A and B."""
    return mean_of_two(lambda s: _vif(t, s), part)
