"""FuseBench: one command, every fusion method, one calibrated metric library.

The plugin folders ``methods/``, ``datasets/``, ``metrics/`` and ``leaderboard/`` lie at the top of the
checkout and are imported as ``fusebench.methods.x`` and so on.  In a checkout that works because the
checkout root is appended to this package's ``__path__``; in a wheel the folders are installed inside it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Run, fuse, load_case, load_run, run
    from .case import Case, Volume
    from .dataset import Dataset, DatasetInfo
    from .method import Method, SliceMethod
    from .method_info import MethodInfo
    from .metric import MetricInfo
    from .notebook import show
    from .plugins import (
        create_dataset,
        create_method,
        create_metric,
        list_datasets,
        list_methods,
        list_metrics,
    )
    from .scoring.evaluate import evaluate
    from .store.read_rows import read_rows

__version__ = "0.1.0"

if (Path(__file__).resolve().parent.parent / "run_bench.py").exists():
    __path__.append(str(Path(__file__).resolve().parent.parent))

# Public name -> module, imported on first use so that `import fusebench.metrics` loads no runner code.
_PUBLIC = {
    "Case": "case",
    "Volume": "case",
    "Dataset": "dataset",
    "DatasetInfo": "dataset",
    "Method": "method",
    "MethodInfo": "method_info",
    "SliceMethod": "method",
    "MetricInfo": "metric",
    "create_dataset": "plugins",
    "create_method": "plugins",
    "create_metric": "plugins",
    "list_datasets": "plugins",
    "list_methods": "plugins",
    "list_metrics": "plugins",
    "Run": "api",
    "evaluate": "scoring.evaluate",
    "fuse": "api",
    "load_case": "api",
    "load_run": "api",
    "read_rows": "store.read_rows",
    "run": "api",
    "show": "notebook",
}

__all__ = [
    "Case",
    "Dataset",
    "DatasetInfo",
    "Method",
    "MethodInfo",
    "MetricInfo",
    "Run",
    "SliceMethod",
    "Volume",
    "__version__",
    "create_dataset",
    "create_method",
    "create_metric",
    "evaluate",
    "fuse",
    "list_datasets",
    "list_methods",
    "list_metrics",
    "load_case",
    "load_run",
    "read_rows",
    "run",
    "show",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
