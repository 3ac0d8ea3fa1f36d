"""What tasks take: first by the costs of their methods, then by what this machine has shown.

Nothing here changes a value: it orders tasks, says how much time is left, and keeps a busy machine from
running into the time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..metric import MetricId, MetricInfo

if TYPE_CHECKING:
    from ..store.rows import Row
    from .spec import Task

# A case that does not say its size counts as a volume of 128 cubed.
VOXELS = 128**3
# A score of the default protocols, in seconds per million voxels on the reference processor: 0.7 s for the 23
# of a phantom.  And what any task takes besides, in seconds.
SCORE, TASK = 0.014, 0.1
# What a method of unknown cost is taken for until it has been fused once.
UNKNOWN = 0.1
# Expected seconds of fusing from which a task tells how fast this machine fuses; below, overhead counts.
TOLD = 0.1
# Costs (seconds per million voxels) from which a method is in the next tier, and in one of its own: there
# loading cases anew is nothing beside fusing them.  See `fusebench.engine.order`.
MIDDLE, DEAR = 0.3, 2.5
# Weight that everything shown before keeps when a task ends: what the machine is doing now counts.
MEMORY = 0.97
# A fuse may take so many times what is expected of it, whatever the default limit.
PATIENCE = 10.0


class Pace:
    """Expected seconds of tasks.

    Parameters
    ----------
    infos : mapping
        Of the metrics, by name: some need a second fusion.
    workers : int
    clock : callable
        Seconds; for tests.

    Attributes
    ----------
    workers : int
    """

    def __init__(
        self,
        infos: Mapping[str, MetricInfo] | None = None,
        workers: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._infos, self.workers, self._clock = infos or {}, workers, clock
        self._lock = threading.RLock()
        self._fuse, self._rest = _Ratio(), _Ratio()
        self._methods: dict[str, _Ratio] = {}
        self._costs: dict[str, float] = {}  # found here, of methods that state none
        self._waiting: dict[str, list[float]] = {}  # by method: expected seconds of fusing, and of the rest
        self._running: dict[int, tuple[Task, float]] = {}

    def plan(self, tasks: Iterable[Task]) -> None:
        """These are to be done."""
        with self._lock:
            for task in tasks:
                self._count(task, 1)

    def started(self, task: Task) -> None:
        """A worker has begun with it."""
        with self._lock:
            self._running[id(task)] = task, self._clock()

    def took(self, task: Task, seconds: float | None, rows: Sequence[Row] = ()) -> None:
        """A task has ended; one that failed teaches nothing.

        Parameters
        ----------
        seconds : float, optional
            From start to end; None: as its rows say.
        rows : sequence of Row
        """
        with self._lock:
            self._running.pop(id(task), None)
            self._count(task, -1)
            if any(row.status not in ("ok", "skip") for row in rows):
                return
            fusions = self.fusions(task)
            once = next((row.fuse_seconds for row in rows if row.fuse_seconds), None)
            if seconds is None:
                scored = {row.protocol: row.score_seconds or 0.0 for row in rows}
                seconds = (once or 0.0) * fusions + sum(scored.values())
            # A volume that was stored before brings the seconds of then.
            if once is not None and once * fusions < seconds:
                if _stated(task) is None and task.method.name not in self._costs:
                    self._costs[task.method.name] = once / self._fuse.value / (_voxels(task) / 1e6)
                if _stated(task) is not None and self._fuse_prior(task) > TOLD:
                    self._fuse.learn(once * fusions, self._fuse_prior(task))
                self._rest.learn(seconds - once * fusions, self._rest_prior(task))
            prior = self._fuse_prior(task) + self._rest_prior(task)
            self._methods.setdefault(task.method.name, _Ratio()).learn(seconds, prior)

    # -- answers ---------------------------------------------------------------------------------

    def tier(self, task: Task) -> float:
        """0 for a cheap method, 1, or the cost of a dear one; of unknown cost 0, until it has been fused."""
        with self._lock:
            cost = self._cost(task)
        return cost if cost >= DEAR else float(cost >= MIDDLE)

    def seconds(self, task: Task) -> float:
        """Expected of a task, on this machine."""
        with self._lock:
            return self._expected(task.method.name, self._fuse_prior(task), self._rest_prior(task))

    def left(self) -> float:
        """Seconds until all is done, if the workers share it well."""
        with self._lock:
            now = self._clock()
            total = sum(self._expected(name, *sums[:2]) for name, sums in self._waiting.items())
            longest = 0.0
            for task, since in self._running.values():
                expected, elapsed = self.seconds(task), now - since
                # One that takes longer than expected is halfway, for all that is known.
                remaining = max(expected - elapsed, 0.1 * elapsed)
                total += remaining - expected
                longest = max(longest, remaining)
            return max(total / self.workers, longest)

    def shares(self) -> dict[str, float]:
        """Expected seconds of work left of each method, the dearest first."""
        with self._lock:
            found = {name: self._expected(name, *sums[:2]) for name, sums in self._waiting.items()}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def limited(self, task: Task) -> Task:
        """`task` with the time limit that it has on this machine, where the user set none."""
        if not (task.timeout and task.patient):
            return task
        with self._lock:
            busy = max(1.0, self._fuse.value)
            once = self._cost(task) * _voxels(task) / 1e6 * self._fuse.value
        return replace(task, timeout=round(max(task.timeout * busy, PATIENCE * once), 1))

    def fusions(self, task: Task) -> float:
        """How often the task fuses, a fusion of a few slices as its share of one."""
        if task.image:
            return 0.0
        names = {MetricId.parse(score.metric).name for score in task.scores if not score.skip}
        infos = [self._infos[name] for name in names if name in self._infos]
        # Findings are in nearly every slice of a head, the lesion that a twin lacks in few.
        again = [0.9] * any(i.needs_findings for i in infos) + [0.1] * any(i.needs_twin for i in infos)
        return 1.0 + sum(1.0 if task.method.info.dims == 3 else share for share in again)

    # -- sums ------------------------------------------------------------------------------------

    def _count(self, task: Task, sign: int) -> None:
        name = task.method.name
        sums = self._waiting.setdefault(name, [0.0, 0.0, 0])
        if sign < 0 and sums[2] <= 1:
            del self._waiting[name]
            return
        for i, value in enumerate((self._fuse_prior(task), self._rest_prior(task), 1)):
            sums[i] += sign * value

    def _expected(self, name: str, fuse: float, rest: float) -> float:
        own = self._methods.get(name)
        return (fuse + rest) * own.value if own else fuse * self._fuse.value + rest * self._rest.value

    def _cost(self, task: Task) -> float:
        stated = _stated(task)
        return self._costs.get(task.method.name, UNKNOWN) if stated is None else stated

    def _fuse_prior(self, task: Task) -> float:
        stated = _stated(task)  # a cost that was found here is in the ratio of its method instead
        return self.fusions(task) * (UNKNOWN if stated is None else stated) * _voxels(task) / 1e6

    def _rest_prior(self, task: Task) -> float:
        return TASK + sum(not s.skip for s in task.scores) * SCORE * _voxels(task) / 1e6


class _Ratio:
    """Shown over expected, the latest with most weight; 1 before anything was shown."""

    def __init__(self) -> None:
        self._shown = self._expected = 0.0

    def learn(self, shown: float, expected: float) -> None:
        if expected > 0 and shown > 0:
            self._shown = MEMORY * self._shown + shown
            self._expected = MEMORY * self._expected + expected

    @property
    def value(self) -> float:
        return self._shown / self._expected if self._expected else 1.0


def _stated(task: Task) -> float | None:
    return task.method.info.cost


def _voxels(task: Task) -> float:
    return float(task.case.voxels or VOXELS)
