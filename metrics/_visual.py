"""Multi-scale visual information: what VIFp and VIFF share (pixel-domain Gaussian scale mixture)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from fusebench.triple import Triple

from ._filters import gaussian, separable
from ._moments import Moments

_SCALES = 4
_EPS = 1e-10


def _decimate(t: Triple, sigma: float, taps: int) -> Triple:
    """Low-pass, valid part, every second voxel of every axis that has room."""
    kernels = [gaussian(sigma, taps) if n >= taps + 1 else (1.0,) for n in t.shape]
    steps = tuple(slice(None, None, 2 if len(k) > 1 else 1) for k in kernels)
    at = (slice(None), *steps)

    # Double precision, so that what was flat stays flat; from here on the images are small.
    def smaller(name: str) -> Tensor:
        return separable(t.image(name).double(), kernels)[at].contiguous()

    key = ("decimated", sigma, taps)
    sources = [t.of_sources((*key, name), partial(smaller, name)) for name in ("a", "b")]
    images = torch.stack([*sources, smaller("fused")])
    inner = tuple(slice(len(k) // 2, n - len(k) // 2) for k, n in zip(kernels, t.shape, strict=True))
    mask = None if t.mask is None else t.mask[(slice(None), *inner)][at].contiguous()
    return Triple(images, mask, t.scale, sources=t.shared_with(key))


def scales(t: Triple) -> Iterator[Moments]:
    """Gaussian moments at four scales, windows of 17, 9, 5 and 3 taps, each scale decimated by two.

    Sheikh's vifp_mscale.  Scales at which no window fits are left out.
    """

    def make() -> list[Moments]:
        # 20 voxels are what the widest window of the coarsest scale reaches; 8 keeps decimation in phase.
        level, out = t.crop((24,) * t.dims, step=8), []
        for scale in range(_SCALES):
            taps = 2 ** (_SCALES - scale) + 1
            if scale:
                level = _decimate(level, taps / 5, taps)
            if min(level.shape) < 1 or (level.mask is not None and not bool(level.mask.any())):
                break
            out.append(Moments(level, taps / 5, taps, crop=False))
        return out

    yield from t.cached("visual", make)


def information(m: Moments, source: str, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gain of F on a source, information of the source kept in F, and information of the source.

    Returns
    -------
    gain, kept, whole : Tensor
        Maps; kept and whole in natural logarithms.
    """

    def make() -> tuple[Tensor, Tensor, Tensor]:
        var_s, var_f = m.cov(source, source).clamp_min(0), m.cov("fused", "fused").clamp_min(0)
        flat_s, flat_f = m.flat(source, _EPS), m.flat("fused", _EPS)
        gain = m.cov(source, "fused") / (var_s + _EPS)
        rest = torch.addcmul(var_f, gain, m.cov(source, "fused"), value=-1)
        rest = torch.where(flat_s, var_f, rest)
        var_s = var_s.masked_fill(flat_s, 0)
        gain = gain.masked_fill(flat_s | flat_f, 0)
        rest = torch.where(gain < 0, var_f, rest.masked_fill(flat_f, 0)).clamp_min_(_EPS)
        gain = gain.clamp_min_(0)
        kept = torch.log1p((gain * gain).mul_(var_s).div_(rest.add_(noise)))
        return gain, kept, torch.log1p(var_s / noise)

    return m.triple.cached(("information", source, noise), make)
