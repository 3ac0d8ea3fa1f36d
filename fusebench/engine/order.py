"""The order of tasks: cheap methods first over all cases, then dear ones, so that a board is there early."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .pace import DEAR, Pace

if TYPE_CHECKING:
    from ..case import Case
    from .spec import Task

Key = tuple[str, str]

# The next case is loaded while this many tasks of the current one are left.
ANNOUNCED = 3


def in_tiers(tasks: Sequence[Task], pace: Pace) -> list[Task]:
    """Tasks in a fixed order, for one worker or a scheduler of its own: tier by tier, case by case."""
    return sorted(tasks, key=pace.tier)


class CaseQueue:
    """Tasks by tier of their method, and in a tier by case: a worker stays with its case.

    A dear method is a tier of its own: it is done, or not begun, while the next one runs.  Within a case the
    longest task goes first.  The dearest method begins while just as much other work is left as workers would
    wait for each other at its end, so that all end together.  A worker also leaves its case, when little is
    left, for a task of another one that takes longer than a worker's share of it all.

    Parameters
    ----------
    tasks : iterable of Task
    workers : int
    pace : Pace, optional
        Knows what they take.
    """

    def __init__(self, tasks: Iterable[Task], workers: int = 1, pace: Pace | None = None) -> None:
        self._workers, self._pace = workers, pace or Pace(workers=workers)
        self._cases: dict[Key, list[Task]] = {}
        self._methods: dict[str, list[Task]] = {}
        for task in tasks:
            self._cases.setdefault((task.case.dataset, task.case.id), []).append(task)
            self._methods.setdefault(task.method.name, []).append(task)
        self._tiers: dict[str, float] = {}
        self._tier = 0.0  # at hand
        self._taken: set[Key] = set()  # cases of this tier that a worker has or is to have
        self._next: dict[Key, Key] = {}  # announced to the worker of a case, which loads it meanwhile
        self._lock = threading.Lock()

    def take(self, current: Case | None) -> tuple[Task, Case | None] | None:
        """Next task for a worker whose last case was `current`, and the case it will need after it."""
        with self._lock:
            if not self._cases:
                return None
            mine = (current.dataset, current.id) if current else None
            self._find_tier()
            urgent = self._urgent(mine)
            if urgent is not None:
                return self._hand_out(urgent), None
            key = self._case(mine)
            self._taken.add(key)
            task = self._hand_out(max(self._of(key), key=self._pace.seconds))
            if len(self._of(key)) < ANNOUNCED and key not in self._next and (ahead := self._fresh()):
                self._taken.add(ahead)
                self._next[key] = ahead
            upcoming = self._of(self._next[key]) if key in self._next else []
            return task, upcoming[0].case if upcoming else None

    def _find_tier(self) -> None:
        """The lowest tier with tasks; where it is another than before, no case of it is anybody's."""
        self._tiers = {name: self._pace.tier(tasks[0]) for name, tasks in self._methods.items()}
        tier = min(self._tiers.values())
        if tier != self._tier:
            self._tier, self._taken, self._next = tier, set(), {}

    def _case(self, mine: Key | None) -> Key:
        """The worker's own case, else the one announced to it, a fresh one, or that with most left to do."""
        if mine is not None and not self._of(mine):
            mine = self._next.pop(mine, None)
        if mine is not None and self._of(mine):
            return mine
        return self._fresh() or max(self._cases, key=lambda key: len(self._of(key)))

    def _of(self, key: Key) -> list[Task]:
        """Tasks of a case that are of the tier at hand."""
        return [task for task in self._cases.get(key, ()) if self._tiers[task.method.name] <= self._tier]

    def _fresh(self) -> Key | None:
        return next((key for key in self._cases if key not in self._taken and self._of(key)), None)

    def _hand_out(self, task: Task) -> Task:
        key, name = (task.case.dataset, task.case.id), task.method.name
        for table, entry in ((self._cases, key), (self._methods, name)):
            left = [other for other in table[entry] if other is not task]  # type: ignore[index]
            if left:
                table[entry] = left  # type: ignore[index]
            else:
                del table[entry]  # type: ignore[arg-type]
        return task

    def _urgent(self, mine: Key | None) -> Task | None:
        """A task of the dearest method, where workers would not end together if it waited."""
        each = {name: self._pace.seconds(tasks[0]) for name, tasks in self._methods.items()}
        work = {name: each[name] * len(self._methods[name]) for name in each}
        # Of methods that take the same, the first.
        longest = max(each, key=lambda name: each[name])
        if each[longest] * self._workers <= sum(work.values()) and not self._must_begin(longest, each, work):
            return None
        tasks = self._methods[longest]
        return next((t for t in tasks if (t.case.dataset, t.case.id) == mine), tasks[0])

    def _must_begin(self, longest: str, each: dict[str, float], work: dict[str, float]) -> bool:
        """True where no more other work is left than workers would wait at the end of the dearest method."""
        if self._tiers[longest] < DEAR:
            return False
        idle = -len(self._methods[longest]) % self._workers  # workers, while the last of it runs
        return sum(work.values()) - work[longest] <= idle * each[longest]
