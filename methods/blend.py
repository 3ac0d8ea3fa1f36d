"""Fixed blends F = (1 - t) MRI + t PET: what a global weight alone scores."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fusebench.method import Method, MethodInfo


class Blend(Method):
    """Base of the fixed blends; a subclass sets the share `t` of the functional source and `info`."""

    t: ClassVar[float]

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return ((1 - self.t) * a + self.t * b).clamp(0, 1)


class Blend20(Blend):
    """F = 0.8 MRI + 0.2 PET."""

    info = MethodInfo(name="blend-0.20", summary="0.80 structural + 0.20 functional", control=True)
    t = 0.20


class Blend35(Blend):
    """F = 0.65 MRI + 0.35 PET."""

    info = MethodInfo(name="blend-0.35", summary="0.65 structural + 0.35 functional", control=True)
    t = 0.35
