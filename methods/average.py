"""Voxel-wise mean of both sources: the yardstick every fusion method has to beat."""

from __future__ import annotations

from torch import Tensor

from fusebench.method import Method, MethodInfo


class Average(Method):
    """F = (A + B) / 2, the optimum of pooled PSNR."""

    info = MethodInfo(name="average", summary="voxel-wise mean of both sources", cost=0.01)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a + b) / 2).clamp(0, 1)
