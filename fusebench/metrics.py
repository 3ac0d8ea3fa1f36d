"""Every fusion metric by name, and `evaluate`: ``from fusebench.metrics import psnr, ssim, evaluate``.

This module stands for the ``metrics/`` folder: its ``__path__`` is that folder, so each family imports as
``fusebench.metrics.fidelity``.  Names are read from the files without importing them; a metric's file is
loaded when its name is first asked for.  No method, dataset or runner code is loaded.
"""

from __future__ import annotations

from typing import Any

from .files import plugin_folder
from .metric import Metric, MetricId, MetricInfo
from .scoring.evaluate import evaluate, evaluate_slices
from .scoring.select import metric_registry, ranking_set

__path__ = [str(plugin_folder("metrics"))]

__all__ = [
    "Metric",
    "MetricId",
    "MetricInfo",
    "evaluate",
    "evaluate_slices",
    "ranking_set",
]


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and name in metric_registry():
        return metric_registry().load(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *metric_registry().names()])
