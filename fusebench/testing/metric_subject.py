"""`MetricSubject`, a metric under test: its images, a fair fusion of them, and how values are judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from ..metric import MetricInfo
from ..plugins import create_dataset
from ._kit import CheckFailed, Subject
from .images import Image, Mask, head

SIZE = (72, 64)
SLICES = 16  # of a metric that is defined in volumes only


class MetricSubject(Subject):
    """A metric under test, or its registered name."""

    kind = "metric"

    @property
    def info(self) -> MetricInfo:
        info: MetricInfo = self.plugin.info
        return info

    @property
    def size(self) -> tuple[int, ...]:
        """Shape of the images: a slice, or a few slices where the definition is 3D only."""
        return SIZE if 2 in self.info.dims else (SLICES, *SIZE)

    @cached_property
    def images(self) -> tuple[Image, Image, Mask, Mapping[str, Any] | None]:
        """Sources, foreground and, for a task metric, the ground truth."""
        if self.info.of_images:
            return (*head(self.size), None)
        # A reader wants places for findings, and tissue that can be told from tissue.
        size = 64 if self.info.needs_trial else 32
        case = next(c for c in create_dataset("phantom", size=size).cases() if c.meta.get("lesion"))
        truth = dict(case.truth or {})
        if self.info.needs_trial:
            if self.plugin.trial is None:
                raise CheckFailed("needs_trial without a trial; give @metric(..., trial=function of a case)")
            truth["trial"] = self.plugin.trial(case)
        return case.a.data, case.b.data, case.mask, truth

    def fuse(self, a: Image, b: Image) -> Image:
        """A fair fusion: the mean; for task metrics closer to the MRI, as a mean cancels tissue contrast."""
        share = 0.5 if self.images[3] is None else 0.8
        return np.asarray(share * a + (1 - share) * b, np.float32)

    @property
    def fused(self) -> Image:
        return self.fuse(*self.images[:2])

    def value(self, a: Any, b: Any, fused: Any, **options: Any) -> float:
        """The metric; ground truth is added where it needs one."""
        if self.images[3] is not None and "truth" not in options:
            options["truth"] = self._truth(lambda a, b, f: f)
        return float(self.plugin(a, b, fused, **options))

    def judged(self, change: Callable[[Image, Image, Image], Image]) -> float:
        """Value of ``change(a, b, fair fusion)``; the same is done to the other images of the case."""
        a, b, mask, truth = self.images
        options: dict[str, Any] = {} if truth is None else {"truth": self._truth(change)}
        return self.value(a, b, change(a, b, self.fused), mask=mask, **options)

    def _truth(self, change: Callable[[Image, Image, Image], Image]) -> Mapping[str, Any]:
        """Ground truth with what ``change(a, b, fair fusion)`` makes of the twin, or of the trial."""
        truth = self.images[3] or {}
        trial = truth.get("trial")
        name = "fused_with" if trial else "fused_twin"
        pair = (trial.a_with, trial.b_with) if trial else (truth["mri_twin"], truth["pet_twin"])
        return {**truth, name: change(*pair, self.fuse(*pair))}

    def goodness(self, value: float) -> float:
        """`value` turned so that more is better."""
        if self.info.direction == "zero":
            return -abs(value)
        return -value if self.info.direction == "lower" else value

    def same(self, x: float, y: float, rtol: float = 1e-6) -> bool:
        return x == y or math.isclose(x, y, rel_tol=rtol, abs_tol=rtol * 0.1)
