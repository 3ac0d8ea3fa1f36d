"""Visual information fidelity: VIFp and VIFF."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import sum_of_two
from ._visual import information, scales

_VIFP_NOISE = 2.0
_VIFF_NOISE = 0.005 * 255**2
_VIFF_WEIGHTS = (1.0, 0.0, 0.15, 1.0)


def _vifp(t: Triple, source: str) -> Tensor:
    top = bottom = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    for m in scales(t):
        _, kept, whole = information(m, source, _VIFP_NOISE)
        top = top + m.triple.map_sum(kept, m.margin)
        bottom = bottom + m.triple.map_sum(whole, m.margin)
    return torch.where(bottom > 0, top / bottom, 1.0)


@metric(
    MetricInfo(
        name="vifp",
        title="Visual information fidelity, pixel domain",
        formula=r"\sum_X\frac{\sum\log_2\left(1+\frac{g^2\sigma_X^2}{\sigma_v^2+\sigma_n^2}\right)}"
        r"{\sum\log_2\left(1+\frac{\sigma_X^2}{\sigma_n^2}\right)},\quad\sigma_n^2=2",
        family="perception",
        direction="higher",
        low=0.0,
        high=math.inf,
        paper="Sheikh and Bovik 2006, doi:10.1109/TIP.2005.859378; code vifp_mscale",
        parts=("a", "b"),
        notes="Sum over the two sources, noise variance 2. F = A = B gives 2; more contrast than the "
        "source gives more. A window whose variance is rounding noise is flat; a source without "
        "contrast gives 1. Depends on the size of the image.",
    )
)
def vifp(t: Triple, part: str) -> Tensor:
    """Pixel-domain VIF of F against A plus that against B."""
    return sum_of_two(lambda s: _vifp(t, s), part)


@metric(
    MetricInfo(
        name="viff",
        title="Visual information fidelity for fusion",
        formula=r"\sum_s w_s\;\frac{\sum\log_2\left(1+\frac{g^2\sigma^2}{\sigma_v^2+\sigma_n^2}\right)}"
        r"{\sum\log_2\left(1+\frac{\sigma^2}{\sigma_n^2}\right)}"
        r",\quad\mathrm{at\;each\;point\;the\;source\;with\;the\;smaller\;}g",
        family="perception",
        direction="higher",
        low=0.0,
        high=math.inf,
        paper="Han, Cai, Cao and Xu 2013, Information Fusion 14, 127-135",
        ranked=True,
        symmetric=False,
        notes="Per pixel the source with the smaller gain, scales weighted (1, 0, .15, 1) / 2.15, noise "
        "variance 0.005 * 255^2. Where both gains are equal source B counts, so swapping the sources "
        "changes about 1e-6. A window whose variance is rounding noise is flat and has gain 0. F = A "
        "= B gives 1; F with more contrast than flat sources gives far more.",
    )
)
def viff(t: Triple) -> Tensor:
    """Share of the visual information of the sources that F keeps."""
    total = torch.zeros(len(t), dtype=torch.float64, device=t.device)
    weights = 0.0
    for weight, m in zip(_VIFF_WEIGHTS, scales(t), strict=False):
        if not weight:
            continue
        a, b = (information(m, s, _VIFF_NOISE) for s in ("a", "b"))
        first = a[0] < b[0]
        # 1e-7 is a base-10 figure in the published program; here logarithms are natural.
        kept, whole = (
            torch.where(first, x, y).add_(1e-7 * 2.302585092994046) for x, y in zip(a[1:], b[1:], strict=True)
        )
        total = total + weight * m.triple.map_sum(kept, m.margin) / m.triple.map_sum(whole, m.margin)
        weights += weight
    return total / weights
