"""Structure: SSIM and what is built on its maps."""

from __future__ import annotations

from torch import Tensor

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

from ._combine import mean_of_two
from ._moments import Moments, moments

_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim_map(m: Moments, x: str, y: str, c1: float = _C1, c2: float = _C2) -> Tensor:
    """SSIM at every window (Wang 2004)."""

    def make() -> Tensor:
        mx, my = m.mean(x), m.mean(y)
        top = (mx * my).mul_(2).add_(c1).mul_((2 * m.cov(x, y)).add_(c2))
        bottom = (mx * mx).addcmul_(my, my).add_(c1).mul_((m.cov(x, x) + m.cov(y, y)).add_(c2))
        return top.div_(bottom)

    return m.triple.cached(("ssim", m.margin, x, y, c1, c2), make)


@metric(
    MetricInfo(
        name="ssim",
        title="Structural similarity",
        family="structure",
        direction="higher",
        low=-1.0,
        high=1.0,
        paper="Wang, Bovik, Sheikh and Simoncelli 2004, doi:10.1109/TIP.2003.819861",
        parts=("a", "b", "worst"),
        ranked=True,
        notes="11-tap Gaussian window of sigma 1.5, K = (0.01, 0.03), L = 255, valid windows, signed; mean "
        "of the two sources. F = A = B gives 1.",
    )
)
def ssim(t: Triple, part: str, variant: str) -> Tensor:
    """Mean structural similarity of F with A and with B."""
    m = moments(t)
    return mean_of_two(lambda s: m.average(ssim_map(m, s, "fused")), part)
