"""How a run goes, on the terminal: a bar with the time left and a filling board, else plain lines."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..engine.request import Observer
from ..method_info import is_standard
from ..text import plural
from ._live import LiveBoard

if TYPE_CHECKING:
    from ..engine.run import Planned
    from ..engine.spec import Task
    from ..store.rows import Row

# Without a terminal a line is printed when a method is done with all cases, and after so many seconds.
QUIET = 60.0
# From so many seconds on it is said how long a run will take, and what takes most.
LONG = 120.0
_AROUND = 8  # lines of a terminal that are not the board's


class Shown(Observer):
    """Draws on a console."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._live: Live | None = None
        self._bar: Progress
        self._left: Counter[str] = Counter()
        self._done = self._tasks = 0
        self._begin = self._said = 0.0
        self._board: LiveBoard
        self._planned: Planned

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
        if todo and (forecast := how_long(planned)):
            self.console.print(forecast, markup=False, highlight=False, soft_wrap=True)
        self._left = Counter(t.method.name for t in todo)
        self._tasks, self._planned = len(todo), planned
        self._begin = self._said = time.monotonic()
        if todo and self.console.is_terminal:
            self._board = LiveBoard(planned.tasks, planned.stored_rows() if stored else ())
            self._bar = Progress(
                TextColumn("{task.description}", style="progress.description", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[left]}", markup=False),
            )
            self._bar.add_task("fusing and scoring", total=len(todo), left="")
            self._live = Live(
                get_renderable=self._drawn, console=self.console, refresh_per_second=2, transient=True
            )
            self._live.start()

    def finished(self, task: Task, rows: Sequence[Row]) -> None:
        self._done += 1
        self._left[task.method.name] -= 1
        for line in failures(task, rows):
            style = "red" if self._live else None
            self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        if self._live:
            self._board.add(rows)
            [bar] = self._bar.task_ids
            self._bar.update(bar, advance=1, description=task.label[:30].ljust(30))
            return
        now = time.monotonic()
        if not self._left[task.method.name] or now - self._said > QUIET:
            self._said = now
            ended = f"{task.method.name} is done, " if not self._left[task.method.name] else ""
            left = duration(self._planned.pace.left() if self._done < self._tasks else 0)
            elapsed = duration(now - self._begin)
            self.console.print(
                f"{ended}{self._done}/{self._tasks} fusions, {elapsed}, about {left} left",
                markup=False,
                highlight=False,
            )

    def end(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _drawn(self) -> RenderableType:
        if self._done < self._tasks:
            [bar] = self._bar.task_ids
            self._bar.update(bar, left=f"about {duration(self._planned.pace.left())} left")
        if not self._done:
            return self._bar
        return Group(self._bar, self._board.table(max(3, self.console.height - _AROUND)))


def how_long(planned: Planned) -> str:
    """What a run will take before anything was measured, where that is long; "" where it is not."""
    seconds, work = planned.pace.left(), planned.pace.shares()
    if seconds < LONG:
        return ""
    line = f"about {duration(seconds)} on a processor like the one that costs were measured on"
    total, (dearest, most) = sum(work.values()), next(iter(work.items()))
    if len(work) > 1 and most > total / 4:
        line += f"; {dearest} takes {most / total:.0%} of it (--exclude {dearest})"
    if not all(is_standard(task.method.info) for task in planned.tasks):
        line += "; --methods standard leaves out the dearest"
    return f"{line}; --methods fast takes two minutes"


def duration(seconds: float) -> str:
    """``48 s``, ``3 min``, ``2 h 5 min``: seconds as they are said of a forecast."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def failures(task: Task, rows: Iterable[Any]) -> list[str]:
    """A line for each reason why rows of a task have no value."""
    reasons = dict.fromkeys((r.status, r.reason) for r in rows if r.status not in ("ok", "skip"))
    return [f"{task.label}: {status}: {reason}" for status, reason in reasons]
