"""Voxel-wise maximum of both sources."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.method import Method, MethodInfo


class Maximum(Method):
    """F = max(A, B)."""

    info = MethodInfo(name="max", summary="voxel-wise maximum of both sources", cost=0.01)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.maximum(a, b).clamp(0, 1)
