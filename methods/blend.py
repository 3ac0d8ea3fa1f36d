"""Fixed blends F = (1 - t) MRI + t PET: the score of a global weight alone."""

from __future__ import annotations

from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo


class Blend(Method):
    """F = (1 - t) A + t B.

    Parameters
    ----------
    t : float
        Share of the functional image, in [0, 1].
    """

    info = MethodInfo(name="blend", summary="a fixed share of each image", control=True, cost=0.01)
    # The last is the weight at which a blend is read best: what a method made for readers has to beat.
    variants = {"0.20": {"t": 0.20}, "0.35": {"t": 0.35}, "0.75": {"t": 0.75}}
    default_variant = "0.35"

    def __init__(self, t: float = 0.35) -> None:
        if not 0 <= t <= 1:
            raise InputError(f"blend: t={t:g} is not in [0, 1]")
        self.t = t

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return ((1 - self.t) * a + self.t * b).clamp(0, 1)
