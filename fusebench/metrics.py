"""Every fusion metric by name, and `evaluate`: ``from fusebench.metrics import psnr, ssim, evaluate``.

This module stands for the ``metrics/`` folder: its ``__path__`` is that folder, so each family imports as
``fusebench.metrics.fidelity``.  Names are read from the files without importing them; a metric's file is
loaded when its name is first asked for.  No method, dataset or runner code is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .metric import Metric, MetricId, MetricInfo, evaluate, evaluate_slices, metric_registry, ranking_set

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent
__path__ = [str((_ROOT if (_ROOT / "run_bench.py").exists() else _HERE) / "metrics")]

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
