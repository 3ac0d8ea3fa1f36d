"""Task metrics on ground truth: does the fused volume keep what a reader needs?  Simulated data only.

Each reads arrays of ``truth`` by name, of the shape of the images:

``gm``, ``wm``, ``csf``
    Tissue fractions.
``uptake``, ``lesion``, ``lesion_depth``
    True uptake on the scale of the functional image, lesion mask (bool), relative loss of uptake.
``pet_clean``
    The functional image without noise.
``fused_twin``
    What the same method makes of the same case without its lesion (same seeds): the runner adds it.

A case without lesion has no lesion score: NaN, which is "not defined", not a failure.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from fusebench.errors import InputError, Undefined
from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._gradients import derivative, magnitude, norm
from .fidelity import correlation, decibel

# A voxel with this much of a tissue is taken for that tissue.
_PURE = 0.8
# Healthy grey matter lost less than this share of the greatest loss.
_HEALTHY = 0.05
# A voxel without this much fluid in it or beside it is away from fluid.
_DRY = 0.1


def _truth(t: Triple, name: str) -> NDArray[Any]:
    assert t.truth is not None
    try:
        array = np.asarray(t.truth[name])
    except KeyError:
        raise Undefined(f"the ground truth has no {name!r}, which this metric reads") from None
    if array.size != t.fused[0].numel() or len(t) > 1:
        raise InputError(f"truth {name!r} has shape {array.shape}, the images have {t.shape}")
    return array.reshape(t.shape)


def _fused(t: Triple) -> NDArray[Any]:
    out: NDArray[Any] = t.fused[0].cpu().numpy()
    return out


def _inside(t: Triple) -> NDArray[np.bool_]:
    if t.mask is None:
        return np.ones(t.shape, bool)
    out: NDArray[np.bool_] = t.mask[0].cpu().numpy()
    return out


def _value(t: Triple, x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64, device=t.device)


def auc(low: NDArray[Any], high: NDArray[Any]) -> float:
    """Chance that a value of `high` exceeds one of `low`, ties half; NaN where either is empty."""
    if not (low.size and high.size):
        return float("nan")
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left").mean(dtype=np.float64)
    upto = np.searchsorted(ordered, high, "right").mean(dtype=np.float64)
    return float((below + upto) / 2 / low.size)


@metric(
    MetricInfo(
        name="lesion_contrast",
        title="Lesion contrast recovery",
        formula=r"\frac{1-\sum_L F/\sum_L F_{\mathrm{twin}}}{1-\sum_L u/\sum_L u_{\mathrm{twin}}}",
        family="task",
        direction="higher",
        low=-math.inf,
        high=math.inf,
        paper="FuseBench phantom; counterfactual twin",
        ranked=True,
        needs_truth=True,
        needs_twin=True,
        symmetric=False,
        notes="Relative deficit of F in the lesion against the fused twin without lesion, over the true "
        "relative deficit of uptake. The structural image alone gives 0; more than 1 exaggerates "
        "the lesion, below 0 it looks brighter than healthy tissue, as in an inverted image.",
    )
)
def lesion_contrast(t: Triple) -> Tensor:
    """Share of the true lesion contrast that the fused image shows."""
    lesion = _truth(t, "lesion").astype(bool)
    if not lesion.any():
        return _value(t, float("nan"))
    uptake = _truth(t, "uptake")[lesion].astype(np.float64)
    healthy = uptake / (1 - np.clip(_truth(t, "lesion_depth")[lesion].astype(np.float64), 0, 0.99))
    twin = _truth(t, "fused_twin")[lesion].astype(np.float64).sum()
    shown = _fused(t)[lesion].astype(np.float64).sum() / 255
    true = 1 - uptake.sum() / healthy.sum()
    if true <= 0 or twin <= 0:
        return _value(t, float("nan") if true <= 0 else 0.0)
    return _value(t, (1 - shown / twin) / true)


@metric(
    MetricInfo(
        name="lesion_auc",
        title="Lesion detection (AUC)",
        formula=r"P(F_{\mathrm{healthy\;grey}}>F_{\mathrm{lesion}})",
        family="task",
        direction="higher",
        low=0.0,
        high=1.0,
        paper="FuseBench phantom; Mann-Whitney",
        ranked=True,
        needs_truth=True,
        symmetric=False,
        notes="Chance that a voxel of healthy grey matter is brighter than one of the lesion. 0.5 is no "
        "information, which is what the structural image has.",
    )
)
def lesion_auc(t: Triple) -> Tensor:
    """Separation of lesion and healthy grey matter by the grey value of F."""
    lesion = _truth(t, "lesion").astype(bool)
    if not lesion.any():
        return _value(t, float("nan"))
    depth = _truth(t, "lesion_depth")
    healthy = (_truth(t, "gm") > 0.5) & (depth <= _HEALTHY * depth.max()) & _inside(t)
    fused = _fused(t)
    return _value(t, auc(fused[lesion], fused[healthy]))


@metric(
    MetricInfo(
        name="gm_wm_auc",
        title="Grey and white matter separation (AUC)",
        formula=r"\max(p,\;1-p),\quad p=P(F_{\mathrm{grey}}>F_{\mathrm{white}})",
        family="task",
        direction="higher",
        low=0.5,
        high=1.0,
        paper="FuseBench phantom; Mann-Whitney",
        ranked=True,
        needs_truth=True,
        symmetric=False,
        notes="Either tissue may be the brighter: T1 and FDG have opposite order, so averaging cancels the "
        "contrast.",
    )
)
def gm_wm_auc(t: Triple) -> Tensor:
    """Separation of grey and white matter by the grey value of F."""
    fused, inside = _fused(t), _inside(t)
    value = auc(fused[(_truth(t, "wm") > _PURE) & inside], fused[(_truth(t, "gm") > _PURE) & inside])
    return _value(t, max(value, 1 - value))


@metric(
    MetricInfo(
        name="wm_edge",
        title="White-matter edge correlation",
        formula=r"r(|\nabla F|,\;|\nabla W|),\quad W:\;\mathrm{white\;matter}",
        family="task",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="FuseBench phantom",
        ranked=True,
        needs_truth=True,
        symmetric=False,
        notes="Correlation of the gradient magnitude of F with that of the true white-matter fraction in the "
        "foreground, away from fluid: the rim of the brain, the strongest edge of most images, is no border "
        "of the white matter. The structural image has .9; F without any edge gives 0.",
    )
)
def wm_edge(t: Triple) -> Tensor:
    """Correlation of the edges of F with the true border between grey and white matter."""
    border, kept = t.of_sources("border of white matter", lambda: _border(t))
    x = torch.stack([border, t.pick(magnitude(t, "fused", "replicate"))[0][kept]]).double()
    if x.shape[1] < 2:
        return _value(t, float("nan"))
    x = x - x.mean(1, keepdim=True)
    c = (x @ x.mT / x.shape[1]).cpu().numpy()[None]
    r = correlation(c[:, 0, 1], c[:, 0, 0], c[:, 1, 1], np.array([1e-12]))
    return torch.from_numpy(r).to(t.device)


def _border(t: Triple) -> tuple[Tensor, Tensor]:
    """Gradient magnitude of the white-matter fraction where there is no fluid, and where that is."""
    wm = torch.from_numpy(np.ascontiguousarray(_truth(t, "wm"), dtype=np.float32)).to(t.a)[None]
    border = norm([derivative(wm, k, t.scale, "replicate") for k in range(t.dims)])
    dry = torch.from_numpy(ndimage.maximum_filter(_truth(t, "csf"), 3) < _DRY).to(t.device)[None]
    kept = t.pick(dry)[0]
    return t.pick(border)[0][kept], kept


@metric(
    MetricInfo(
        name="psnr_clean",
        title="PSNR against the noise-free functional image",
        formula=r"10\,\log_{10}\frac{255^2}{\frac{1}{2}(\mathrm{MSE}_{AF}+\mathrm{MSE}_{B_0F})}"
        r",\quad B_0:\;B\mathrm{\;without\;noise}",
        family="task",
        direction="higher",
        low=0.0,
        high=float("inf"),
        unit="dB",
        paper="FuseBench phantom",
        parts=("b",),
        needs_truth=True,
        symmetric=False,
        notes="Pooled as psnr, the functional source without its noise: what a method denoises counts for "
        "it. Part b leaves out the structural source.",
    )
)
def psnr_clean(t: Triple, part: str) -> Tensor:
    """PSNR of F against the structural and the noise-free functional image, pooled."""
    clean = torch.from_numpy(np.ascontiguousarray(_truth(t, "pet_clean"), dtype=np.float32)).to(t.a)
    f = t.points("fused")
    mse = t.mean((t.pick(clean[None] * 255) - f).square_())
    if part != "b":
        mse = (mse + t.mean((t.points("a") - f).square_())) / 2
    return torch.from_numpy(decibel(mse.cpu().numpy())).to(t.device)
