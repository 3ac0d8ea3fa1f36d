"""Conditional residual: the structural image, brighter where there is more uptake than it lets expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo

from ._expected import expected, relative_residual


class Conditional(Method):
    """F = A (1 + k (B - E) / E), with E the expectation of B given A; 2D and 3D.

    E comes from a regression of B on classes of A's intensity, blurred to the resolution of B.

    Parameters
    ----------
    k : float
        How much the residual is amplified.
    bins : int
        Classes of A's intensity.
    smooth : float
        Of the residual: standard deviation in voxels.
    limit : float
        Largest relative residual, before it is amplified.
    """

    info = MethodInfo(
        name="conditional",
        summary="structural image modulated by the functional one's residual after regression on it",
        paper="residual of a partial-volume regression (Mueller-Gaertner et al., J. Cereb. Blood Flow Metab. "
        "12, 1992; Thomas et al., Eur. J. Nucl. Med. Mol. Imaging 38, 2011)",
        notes="keeps the structural image's levels: pooled PSNR is low by intention; wants aligned images",
        cost=0.13,
        tolerance=5e-5,
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"1": {"k": 1.0}, "2": {"k": 2.0}}
    default_variant: ClassVar[str] = "1"

    def __init__(self, k: float = 1.0, bins: int = 10, smooth: float = 0.8, limit: float = 0.8) -> None:
        if not 2 <= bins <= 256:
            raise InputError(f"conditional: bins={bins} must lie in 2..256")
        if smooth < 0 or limit <= 0 or k < 0:
            raise InputError(
                f"conditional: k={k} and smooth={smooth} must be 0 or more, limit={limit} above 0"
            )
        self.k, self.bins, self.smooth, self.limit = k, bins, smooth, limit

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        x, y = a.to(self.device, torch.float32), b.to(self.device, torch.float32)
        expectation, _ = expected(x, y, self.bins)
        residual = relative_residual(y, expectation, self.smooth).clamp(-self.limit, self.limit)
        return (x * (1 + self.k * residual)).clamp(0, 1)
