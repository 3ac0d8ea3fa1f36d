"""A fusion method and a metric for FuseBench, in a package of their own."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from fusebench.method import Method, MethodInfo
from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple


class GradientWeighted(Method):
    """The image with the stronger local gradient weighs more.

    Parameters
    ----------
    floor : float
        Weight of flat regions, above 0: there the result is the mean.
    """

    info = MethodInfo(
        name="example-gradient",
        summary="sources weighted by their local gradient (example package)",
        dims=3,
        licence="MIT",
    )

    def __init__(self, floor: float = 0.01) -> None:
        self.floor = floor

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        wa, wb = (activity(x) + self.floor for x in (a, b))
        return ((wa * a + wb * b) / (wa + wb)).clamp(0, 1)


def activity(x: Tensor) -> Tensor:
    """Sum of absolute forward differences of (D, H, W), averaged over 3 x 3 x 3 voxels."""
    total = torch.zeros_like(x)
    for axis in range(3):
        # A single slice has no neighbour along its axis.
        if x.shape[axis] > 1:
            total += torch.diff(x, dim=axis, append=x.narrow(axis, -1, 1)).abs()
    padded = nnf.pad(total[None, None], (1,) * 6, mode="replicate")
    return nnf.avg_pool3d(padded, 3, stride=1)[0, 0]


@metric(
    MetricInfo(
        name="example_mae",
        title="Mean absolute error to both sources",
        family="fidelity",
        direction="lower",
        low=0.0,
        high=255.0,
        paper="textbook definition; example package",
    )
)
def example_mae(t: Triple) -> Tensor:
    """Mean over both sources of the mean absolute difference, on the scale 0..255."""
    gaps = [t.mean((t.points(source) - t.points("fused")).abs()) for source in ("a", "b")]
    return (gaps[0] + gaps[1]) / 2
