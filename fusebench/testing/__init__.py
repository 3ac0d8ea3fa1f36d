"""Conformance kit for plugin authors: does a method, metric or dataset keep its contract?

In a test file, one pytest item per check::

    from fusebench.testing import parametrize_with_checks
    from my_plugin import MyMethod

    @parametrize_with_checks([MyMethod])
    def test_conformance(plugin, check):
        check(plugin)

Anywhere else: ``check_method(MyMethod)``, or ``run_bench.py check method NAME`` for a readable report.
A check that a plugin cannot pass for a good reason is named, with the reason, in ``expected_failed_checks``:
an argument, or an attribute of the plugin.
"""

from ._kit import Check, CheckFailed, Outcome, check_plugin, parametrize_with_checks
from .datasets import DATASET_CHECKS, DatasetSubject, check_dataset
from .degradations import degradation_trends
from .method_subject import MethodSubject
from .methods import METHOD_CHECKS, check_method
from .metric_subject import MetricSubject
from .metrics import METRIC_CHECKS, check_metric

__all__ = [
    "DATASET_CHECKS",
    "METHOD_CHECKS",
    "METRIC_CHECKS",
    "Check",
    "CheckFailed",
    "DatasetSubject",
    "MethodSubject",
    "MetricSubject",
    "Outcome",
    "check_dataset",
    "check_method",
    "check_metric",
    "check_plugin",
    "degradation_trends",
    "parametrize_with_checks",
]
