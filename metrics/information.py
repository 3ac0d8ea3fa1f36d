"""Information: entropy and mutual information."""

from __future__ import annotations

import math

from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import sum_of_two
from ._histogram import joint, marginal_entropies


def _entropies(t: Triple, source: str) -> tuple[Tensor, Tensor, Tensor]:
    return t.cached(("entropies", source), lambda: marginal_entropies(joint(t, source, "fused")))


def _mutual(t: Triple, source: str) -> Tensor:
    x, y, xy = _entropies(t, source)
    return x + y - xy


@metric(
    MetricInfo(
        name="mi",
        title="Mutual information",
        family="information",
        direction="higher",
        low=0.0,
        high=16.0,
        unit="bit",
        paper="Qu, Zhang and Yan 2002, doi:10.1049/el:20020212",
        parts=("a", "b"),
        variants={
            "cddfuse": "nats instead of bits (CDDFuse, VIFB, scikit-learn summed)",
        },
        notes="I(A, F) + I(B, F) over 256 grey levels. Constant F gives 0.",
    )
)
def mi(t: Triple, part: str, variant: str) -> Tensor:
    """Mutual information of F with A plus that with B."""
    bits = sum_of_two(lambda s: _mutual(t, s), part)
    return bits * math.log(2) if variant == "cddfuse" else bits
