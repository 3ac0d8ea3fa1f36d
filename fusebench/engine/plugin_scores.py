"""Scores by metrics of plugins, made where they reach no other: in children, or one by one here."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Undefined
from ..metric import MetricId
from ..plugins import find_plugins
from ..scoring.protocol import PROTOCOLS, ScoredImages, Truth
from ..store.rows import Row
from ..text import describe
from .fusing import Image, status_of
from .plan import metric_source
from .spec import Score, Task
from .world import World

if TYPE_CHECKING:
    from .apart import Apart

_OTHER_METRIC = "the metric's code is not that of the plan: edited meanwhile, or another copy; run again"


@dataclass(frozen=True)
class PluginScores:
    """A fused image that metrics of plugins are to score.

    Attributes
    ----------
    task : Task
    fused : ndarray, shape (D, H, W)
    truths : mapping
        Ground truth by protocol.
    timing : mapping
        Columns of the rows.
    note : callable
        As of `TaskRunner`.
    """

    task: Task
    fused: Image
    truths: Mapping[str, Truth]
    timing: Mapping[str, Any]
    note: Callable[[str], None]

    def apart(self, apart: Apart, scores: Sequence[Score], memory_mb: float | None) -> list[Row]:
        """Rows of scores made in children, one for each, on the CPU."""
        from .apart import SharedScene

        rows = []
        with SharedScene(apart, self.task.case, self.fused) as scene:
            for s in scores:
                self.note(f"{s.protocol} {s.metric}")
                begin = time.perf_counter()
                truth = self.truths[s.protocol] if "truth" in s.needs else None
                value, source = apart.score(self.task, s.protocol, s.metric, scene, truth, memory_mb)
                rows.append(self._row(s, value, source, begin))
        self.note("")
        return rows

    def here(self, world: World, scores: Sequence[Score], sources: dict[str, str]) -> list[Row]:
        """Rows of scores made in this process; nothing that is scored behind one finds what it changes.

        `sources` holds hashes of metrics' code, as it was when this process imported them.
        """
        task, plugins = self.task, find_plugins(self.task.plugins)
        scene, rows = ScoredImages.of(task.case, self.fused, task.device), []
        for s in scores:
            begin, name = time.perf_counter(), MetricId.parse(s.metric).name
            with world.kept():
                plugins.metrics.load(name)
                if name not in sources:
                    sources[name] = metric_source(plugins, name)
                truth = _copy_of(self.truths[s.protocol])
                value = PROTOCOLS[s.protocol].score(scene, [s.metric], truth, plugins)[s.metric]
                # Inside, since the message of an error is its plugin's code, too.
                rows.append(self._row(s, value, sources[name], begin))
        return rows

    def _row(self, score: Score, value: Any, source: str, begin: float) -> Row:
        return row_of(self.task, score, value, source, self.timing, time.perf_counter() - begin)


def row_of(
    task: Task,
    score: Score,
    value: Any,
    source: str,
    timing: Mapping[str, Any],
    seconds: float | None = None,
) -> Row:
    """The row of a value, or of the exception that stands for it; `source` is the code that made it."""
    outcome: dict[str, Any] = {"value": value}
    if isinstance(value, Exception):
        status = "skip" if isinstance(value, Undefined) else status_of(value)
        outcome = {"status": status, "reason": describe(value)}
    elif score.source not in ("", source):
        outcome = {"status": "error", "reason": _OTHER_METRIC}
    elif np.isnan(value):
        outcome = {"status": "skip", "reason": "not defined for this case"}
    return task.row(score, **outcome, **timing, score_seconds=seconds)


def _copy_of(truth: Truth) -> Truth:
    """Truth for a plugin's metric, which may write to it; the same where it is of a kind without copies."""
    try:
        return copy.deepcopy(truth)
    except Exception:  # an object of a plugin's own
        return truth
