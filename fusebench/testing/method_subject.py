"""`MethodSubject`, a fusion method under test, and how its checks fuse, compare and judge."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.fusing import RANGE_TOLERANCE
from ..method import Method, MethodInfo, SliceMethod
from ..plugins import find_plugins
from ._kit import CheckFailed, ExpectedFailures, Subject

# Even in every axis; what odd and tiny sizes do has checks of its own.
SHAPE = (16, 24, 32)
# Two roundings of one sum in float32, with room for other orders of summation.
SAME = 1e-5


class MethodSubject(Subject):
    """A fusion method under test.

    Parameters
    ----------
    plugin : type, Method or str
        Class (made without arguments), instance (made anew with the same parameters), or registered name,
        also ``name@variant``.
    device : str
    """

    kind = "method"

    def __init__(
        self, plugin: Any, expected_failed_checks: ExpectedFailures | None = None, device: str = "cpu"
    ) -> None:
        super().__init__(plugin, expected_failed_checks)
        self.device = torch.device(device)

    @cached_property
    def cls(self) -> type[Method]:
        return self.plugin if isinstance(self.plugin, type) else type(self.plugin)

    @cached_property
    def info(self) -> MethodInfo:
        """Facts of the method as it is set."""
        return self.cls(**self.parameters).describe() if self.parameters else self.cls.info

    @cached_property
    def parameters(self) -> Mapping[str, Any]:
        if isinstance(self.given, str):
            variant = find_plugins().methods.entry(self.given).variant
            return dict(self.cls.variants[variant]) if variant else {}
        return {} if isinstance(self.plugin, type) else dict(self.plugin.parameters())

    def fresh(self, device: torch.device | None = None) -> Method:
        """A new instance, set up."""
        method = self.cls(**self.parameters)
        method.setup(device or self.device)
        return method

    @cached_property
    def ready(self) -> Method:
        """The instance that most checks share."""
        self.settings = global_settings()
        return self.fresh()

    @property
    def on_cpu(self) -> Method:
        return self.ready if self.device.type == "cpu" else self.fresh(torch.device("cpu"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the plain test volume: a few slices are enough for a method that fuses them one by one."""
        return (4, *SHAPE[1:]) if self.sliced else SHAPE

    @property
    def sliced(self) -> bool:
        """True if it fuses slices."""
        return issubclass(self.cls, SliceMethod)

    def fuse(self, a: Any, b: Any, seed: int = 0, method: Method | None = None) -> Tensor:
        """Fuse copies of `a` and `b`, seeded; the result on the CPU."""
        method = method or self.ready
        return seeded(lambda x, y: method.fuse(x, y), a, b, seed, method.device)

    def fuse_slices(self, a: Any, b: Any) -> Tensor:
        method = self.ready
        assert isinstance(method, SliceMethod)
        return seeded(method.fuse_slices, a, b, 0, method.device)


def global_settings() -> dict[str, Any]:
    return {
        "torch default dtype": torch.get_default_dtype(),
        "torch number of threads": torch.get_num_threads(),
        "torch deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch gradient mode": torch.is_grad_enabled(),
        "numpy error handling": tuple(np.geterr().items()),
    }


def seeded(function: Callable[[Tensor, Tensor], Any], a: Any, b: Any, seed: int, device: Any) -> Tensor:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - plugins may use the global generator
    torch.manual_seed(seed)
    ta, tb = (torch.as_tensor(x).clone().to(device) for x in (a, b))
    with torch.inference_mode():
        out = function(ta, tb)
    if not isinstance(out, Tensor):
        raise CheckFailed(f"fuse returned {type(out).__name__}; return a torch.Tensor")
    return out.detach().cpu()


def gap_between(x: Tensor, y: Tensor) -> float:
    """Largest difference; infinite where the shapes differ or one is NaN."""
    if x.shape != y.shape:
        return float("inf")
    worst = (x.double() - y.double()).abs().max()
    return float("inf") if bool(worst.isnan()) else float(worst)


def require_in_range(out: Tensor, when: str, todo: str) -> None:
    if not bool(out.isfinite().all()):
        raise CheckFailed(f"NaN or infinity {when}; {todo}")
    low, high = float(out.min()), float(out.max())
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise CheckFailed(f"values in [{low:.4g}, {high:.4g}] {when}; {todo}")
