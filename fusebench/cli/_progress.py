"""How a run goes, on the terminal: a bar with the time left, or one plain line per finished case."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..engine.request import Observer
from ..text import plural

if TYPE_CHECKING:
    from ..engine.run import Planned
    from ..engine.spec import Task
    from ..store.rows import Row


class Shown(Observer):
    """Draws on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bar: Progress | None = None
        self._left: Counter[str] = Counter()
        self._done = self._tasks = self._cases = 0
        self._begin = 0.0

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, planned: Planned, todo: Sequence[Task], stored: int) -> None:
        methods, protocols = len(planned.found.methods), ", ".join(planned.options.protocols)
        self.console.print(
            f"{plural(methods, 'method')}, {plural(len(planned.cases), 'case')}, protocol {protocols}: "
            f"{plural(len(todo), 'fusion')} to do, {plural(stored, 'result')} stored; "
            f"{plural(planned.jobs, 'worker') if planned.jobs else 'no workers'} on {planned.found.device}",
            highlight=False,
        )
        self._left = Counter(t.case.id for t in todo)
        self._tasks, self._cases, self._begin = len(todo), len(self._left), time.monotonic()
        if todo and self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}", style="progress.description", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._bar.add_task("fusing and scoring", total=len(todo))
            self._bar.start()

    def finished(self, task: Task, rows: Sequence[Row]) -> None:
        self._done += 1
        self._left[task.case.id] -= 1
        for line in failures(task, rows):
            style = "red" if self._bar else None
            self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        if self._bar:
            [bar] = self._bar.task_ids
            self._bar.update(bar, advance=1, description=task.label[:40].ljust(40))
        elif not self._left[task.case.id]:
            del self._left[task.case.id]
            elapsed = time.monotonic() - self._begin
            remaining = elapsed / self._done * (self._tasks - self._done)
            self.console.print(
                f"{self._cases - len(self._left)}/{self._cases} cases done ({task.case.id}), "
                f"{elapsed:.0f} s, about {math.ceil(remaining)} s left",
                markup=False,
                highlight=False,
            )

    def end(self) -> None:
        if self._bar:
            self._bar.stop()


def failures(task: Task, rows: Iterable[Any]) -> list[str]:
    """A line for each reason why rows of a task have no value."""
    reasons = dict.fromkeys((r.status, r.reason) for r in rows if r.status not in ("ok", "skip"))
    return [f"{task.label}: {status}: {reason}" for status, reason in reasons]
