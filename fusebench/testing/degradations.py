"""Ways to make a fused image worse, and what a metric says of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from .images import Image
from .metric_subject import MetricSubject

Degrade = Callable[[Image, float], Image]


def _noise(f: Image, grade: float) -> Image:
    grain = np.random.default_rng(7).normal(scale=0.2 * grade, size=f.shape)
    return f + grain.astype(np.float32)


def _blur(f: Image, grade: float) -> Image:
    return np.asarray(ndimage.gaussian_filter(f, [3.0 * grade if n > 1 else 0 for n in f.shape]), np.float32)


def _contrast(f: Image, grade: float) -> Image:
    return np.asarray(f + grade * 0.8 * (f.mean() - f), np.float32)


def _shift(f: Image, grade: float) -> Image:
    return np.roll(f, round(6 * grade), axis=-1)


DEGRADATIONS: Mapping[str, Degrade] = {
    "noise": _noise,
    "blur": _blur,
    "contrast loss": _contrast,
    "shift": _shift,
}


def degradation_trends(
    metric: Any, grades: Sequence[float] = (0.25, 0.5, 1.0)
) -> dict[str, tuple[float, ...]]:
    """Values of a metric as a fair fusion gets worse: what it rewards and what it does not see.

    Parameters
    ----------
    metric : Metric or str
    grades : sequence of float
        Strengths, 1 the strongest.

    Returns
    -------
    dict
        Degradation ("noise", "blur", "contrast loss", "shift") to values: of the mean of both sources, then
        of each grade of the degradation.
    """
    s = metric if isinstance(metric, MetricSubject) else MetricSubject(metric)
    start = s.judged(lambda a, b, f: f)
    return {
        name: (start, *(s.judged(partial(degraded, degrade, g)) for g in grades))
        for name, degrade in DEGRADATIONS.items()
    }


def degraded(degrade: Degrade, grade: float, a: Image, b: Image, fused: Image) -> Image:
    """The fused image, degraded and clipped to [0, 1]: a change as `MetricSubject.judged` takes it."""
    return np.asarray(np.clip(degrade(fused, grade), 0, 1), np.float32)
