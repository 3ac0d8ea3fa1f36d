"""Information: entropy, mutual information and its normalised forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two, sum_of_two
from ._histogram import binned_joint, joint, joint_counts, levels, marginal_entropies, stretched_joint

Joint = Callable[[Triple, str, str], Tensor]
# Orders of the Tsallis entropy.
_NAVA = 0.43137
_CVEJIC = 1.85


def _entropies(t: Triple, x: str, y: str, counts: Joint = joint) -> tuple[Tensor, Tensor, Tensor]:
    return t.cached(("entropies", x, y, counts.__name__), lambda: marginal_entropies(counts(t, x, y)))


def _mutual(t: Triple, x: str, y: str, counts: Joint = joint) -> Tensor:
    hx, hy, hxy = _entropies(t, x, y, counts)
    return (hx + hy - hxy).clamp_min(0)


def _ten_bins(t: Triple, x: str, y: str) -> Tensor:
    return binned_joint(t, x, y, 10)


def _hundred_bins(t: Triple, x: str, y: str) -> Tensor:
    return binned_joint(t, x, y, 100)


def _saturated(t: Triple, source: str) -> Tensor:
    """Mutual information where level 255 counts as 254 in the joint histogram only."""
    hx, hf, _ = _entropies(t, source, "fused")
    counts = joint_counts(levels(t, source).clamp_max(254), levels(t, "fused").clamp_max(254))
    return hx + hf - marginal_entropies(counts)[2]


@metric(
    MetricInfo(
        name="en",
        title="Entropy",
        formula=r"-\sum_k p_F(k)\,\log_2 p_F(k)",
        family="information",
        direction="none",
        low=0.0,
        high=8.0,
        unit="bit",
        paper="Roberts, van Aardt and Ahmed 2008, Journal of Applied Remote Sensing 2, 023522",
        notes="Shannon entropy of the 256 grey levels of F. Uses no source: noise has the most.",
    )
)
def en(t: Triple) -> Tensor:
    """Entropy of the fused image."""
    return _entropies(t, "a", "fused")[1]


@metric(
    MetricInfo(
        name="mi",
        title="Mutual information",
        formula=r"I(A;F)+I(B;F)",
        family="information",
        direction="higher",
        low=0.0,
        high=16.0,
        unit="bit",
        paper="Qu, Zhang and Yan 2002, doi:10.1049/el:20020212",
        parts=("a", "b"),
        variants={
            "cddfuse": "nats instead of bits (CDDFuse, VIFB, scikit-learn summed)",
            "dc2fusion": "mean of two in nats, 10 bins over the range of each image (DC2Fusion, dilran)",
            "tang": "grey level 255 merged into 254 in the joint histogram (Tang)",
        },
        units={"cddfuse": "nat", "dc2fusion": "nat"},
        notes="I(A, F) + I(B, F) over 256 grey levels. Constant F gives 0, F = A = B gives H(A) + H(B).",
    )
)
def mi(t: Triple, part: str, variant: str) -> Tensor:
    """Mutual information of F with A plus that with B."""
    if variant == "dc2fusion":
        return mean_of_two(lambda s: _mutual(t, s, "fused", _ten_bins), part) * math.log(2)
    if variant == "tang":
        return sum_of_two(lambda s: _saturated(t, s), part)
    bits = sum_of_two(lambda s: _mutual(t, s, "fused"), part)
    return bits * math.log(2) if variant == "cddfuse" else bits


def _hossny(t: Triple, source: str) -> Tensor:
    hx, hf, hxf = _entropies(t, source, "fused", stretched_joint)
    total = hx + hf
    return torch.where(total > 0, 2 * (total - hxf).clamp_min(0) / total, 0.0)


@metric(
    MetricInfo(
        name="q_mi",
        title="Normalised mutual information (Hossny)",
        formula=r"2\left[\frac{I(A;F)}{H(A)+H(F)}+\frac{I(B;F)}{H(B)+H(F)}\right]",
        family="information",
        direction="higher",
        low=0.0,
        high=2.0,
        paper="Hossny, Nahavandi and Creighton 2008, doi:10.1049/el:20081754",
        parts=("a", "b"),
        ranked=True,
        notes="2 I(A, F) / (H(A) + H(F)) plus the same for B; each image stretched to 0..255 first. Constant "
        "F gives 0, F = A = B gives 2.",
    )
)
def q_mi(t: Triple, part: str) -> Tensor:
    """Mutual information over the mean entropy, summed over the sources."""
    return sum_of_two(lambda s: _hossny(t, s), part)


def _studholme(t: Triple, source: str, counts: Joint) -> Tensor:
    hx, hf, hxf = _entropies(t, source, "fused", counts)
    return torch.where(hxf > 0, (hx + hf) / hxf, 1.0)


@metric(
    MetricInfo(
        name="nmi",
        title="Normalised mutual information (Studholme)",
        formula=r"\frac{1}{2}\sum_X\frac{H(X)+H(F)}{H(X,F)}",
        family="information",
        direction="higher",
        low=1.0,
        high=2.0,
        paper="Studholme, Hill and Hawkes 1999, doi:10.1016/S0031-3203(98)00091-0",
        parts=("a", "b", "worst"),
        variants={
            "dc2fusion": "100 bins over the range of each image (DC2Fusion, dilran, scikit-image default)"
        },
        notes="(H(X) + H(F)) / H(X, F) over 256 grey levels, mean of two. Constant F gives 1.",
    )
)
def nmi(t: Triple, part: str, variant: str) -> Tensor:
    """Sum of the entropies over the joint entropy, mean of the two sources."""
    counts = _hundred_bins if variant == "dc2fusion" else joint
    return mean_of_two(lambda s: _studholme(t, s, counts), part)


@metric(
    MetricInfo(
        name="q_ncie",
        title="Nonlinear correlation information entropy",
        formula=r"1+\sum_{i=1}^{3}\frac{\lambda_i}{3}\,\log_{256}\frac{\lambda_i}{3}"
        r",\quad\lambda:\;\mathrm{eigenvalues\;of\;}[I_{256}(X;Y)]",
        family="information",
        direction="higher",
        low=1 - math.log(3, 256),
        high=1.0,
        paper="Wang, Shen and Jin, in Stathaki (ed.), Image Fusion, 2008, chapter 19",
        notes="From the eigenvalues of the 3x3 matrix of mutual informations to base 256 of the stretched "
        "images. Values lie close together: report four decimals or more.",
    )
)
def q_ncie(t: Triple) -> Tensor:
    """Entropy of the eigenvalues of the nonlinear correlation matrix of A, B and F."""
    matrix = torch.eye(3, dtype=torch.float64, device=t.device).repeat(len(t), 1, 1)
    for i, j, x, y in ((0, 1, "a", "b"), (0, 2, "a", "fused"), (1, 2, "b", "fused")):
        matrix[:, i, j] = matrix[:, j, i] = _mutual(t, x, y, stretched_joint) / 8
    values = torch.linalg.eigvalsh(matrix).clamp_min(0) / 3
    return 1 + torch.xlogy(values, values).sum(1) / math.log(256)


def _tsallis(t: Triple, x: str, y: str, q: float, swapped: bool) -> Tensor:
    p = stretched_joint(t, x, y)
    p = p / p.sum((1, 2), keepdim=True)
    px, py = p.sum(2), p.sum(1)
    if swapped:
        px, py = py, px
    product = px[:, :, None] * py[:, None, :]
    terms = torch.where(product > 0, p**q / torch.where(product > 0, product, 1) ** (q - 1), 0)
    return (1 - terms.sum((1, 2))) / (1 - q)


@metric(
    MetricInfo(
        name="q_te",
        title="Tsallis mutual information",
        formula=r"\frac{I^q(A;F)+I^q(B;F)}{H(A)^q+H(B)^q+I^q(A;B)}"
        r",\quad I^q=\frac{1}{1-q}\left(1-\sum\frac{p_{xy}^q}{(p_x p_y)^{q-1}}\right)",
        family="information",
        direction="higher",
        low=0.0,
        high=math.inf,
        paper="Nava, Cristobal and Escalante-Ramirez 2007, SPIE Newsroom; code metricMI",
        variants={
            "cvejic": "order 1.85, sum of two, not normalised (Cvejic, Canagarajah and Bull 2006; Liu)",
            "paper": "marginals on their own axes; Liu's program has them swapped",
        },
        notes="Order 0.43137, normalised by the sources, as Liu's metricMI(3), whose two marginal histograms "
        "are swapped. Three constant images give 0.",
    )
)
def q_te(t: Triple, variant: str) -> Tensor:
    """Tsallis mutual information of F with both sources."""
    swapped = variant != "paper"
    if variant == "cvejic":
        return _tsallis(t, "a", "fused", _CVEJIC, True) + _tsallis(t, "b", "fused", _CVEJIC, True)
    top = _tsallis(t, "a", "fused", _NAVA, swapped) + _tsallis(t, "b", "fused", _NAVA, swapped)
    ha, hb, _ = _entropies(t, "a", "b", stretched_joint)
    bottom = ha**_NAVA + hb**_NAVA + _tsallis(t, "a", "b", _NAVA, swapped)
    return torch.where(bottom.abs() > 1e-12, top / bottom, 0.0)
