"""A board that fills while a run goes on: provisional places by the means of what is scored so far."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from ..text import printable

if TYPE_CHECKING:
    from ..engine.spec import Task
    from ..store.rows import Row

# Columns, as (protocol, metric id): the first that has values gives the place.
_SHOWN = {
    "reading": ("readers", "reading", 3),
    "PSNR": ("volume", "psnr", 2),
    "SSIM": ("volume", "ssim", 3),
}


class LiveBoard:
    """Means of a run's rows, by method.

    Parameters
    ----------
    tasks : iterable of Task
        All of the run: they give each method's number of cases, and whether it is a control.
    rows : iterable of Row
        Stored before.
    """

    def __init__(self, tasks: Iterable[Task], rows: Iterable[Row] = ()) -> None:
        self._cases: dict[str, int] = {}
        self._controls: set[str] = set()
        scored: dict[str, set[tuple[str, str]]] = {}
        for task in tasks:
            name = task.method.name
            self._cases[name] = self._cases.get(name, 0) + 1
            if task.method.info.control:
                self._controls.add(name)
            scored.setdefault(name, set()).update((s.protocol, s.metric) for s in task.scores)
        every = {pair for pairs in scored.values() for pair in pairs}
        self._columns = {t: (p, m, d) for t, (p, m, d) in _SHOWN.items() if (p, m) in every}
        if not self._columns and every:
            protocol, metric = min(every)
            self._columns = {metric: (protocol, metric, 3)}
        self._values: dict[tuple[str, str], dict[str, float]] = {}  # (method, column): by case
        self._done: dict[str, set[str]] = {}
        self._failed: dict[str, set[str]] = {}
        self.add(rows)

    def add(self, rows: Iterable[Row]) -> None:
        """Rows that have come."""
        titles = {(protocol, metric): title for title, (protocol, metric, _) in self._columns.items()}
        for row in rows:
            if row.method not in self._cases:
                continue
            failed = row.status not in ("ok", "skip")
            (self._failed if failed else self._done).setdefault(row.method, set()).add(row.case)
            title = titles.get((row.protocol, row.metric))
            if title and row.status == "ok" and row.value is not None and math.isfinite(row.value):
                self._values.setdefault((row.method, title), {})[row.case] = row.value

    def lines(self) -> list[tuple[str, ...]]:
        """Place, method, means, cases done: methods by the first column that they have, then controls."""
        names = [n for n in self._cases if n in self._done or n in self._failed]
        ordered = sorted(names, key=lambda n: (n in self._controls, *self._order(n)))
        place, found = 0, []
        for name in ordered:
            place += name not in self._controls
            means = [self._mean(name, title) for title in self._columns]
            digits = [d for _, _, d in self._columns.values()]
            cells = ["" if m is None else f"{m:.{d}f}" for m, d in zip(means, digits, strict=True)]
            failed = len(self._failed.get(name, ()))
            done = len(self._done.get(name, set()) - self._failed.get(name, set()))
            cases = f"{done}/{self._cases[name]}" + (f" ({failed} failed)" if failed else "")
            found.append(("–" if name in self._controls else str(place), printable(name), *cells, cases))
        return found

    def table(self, rows: int) -> Table:
        """The first `rows` lines as a table for a terminal."""
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
        table.add_column("", justify="right")
        table.add_column("so far", no_wrap=True)
        for title in (*self._columns, "cases"):
            table.add_column(title, justify="right", no_wrap=True)
        lines = self.lines()
        hidden = len(lines) - rows
        for line in lines[: rows - 1] if hidden > 0 else lines:
            table.add_row(*map(escape, line))
        if hidden > 0:
            table.add_row("", f"… and {hidden + 1} more", *[""] * (len(self._columns) + 1))
        return table

    def _mean(self, name: str, title: str) -> float | None:
        values: Sequence[float] = list(self._values.get((name, title), {}).values())
        return fmean(values) if values else None

    def _order(self, name: str) -> tuple[float, ...]:
        means = [self._mean(name, title) for title in self._columns]
        return tuple(math.inf if m is None else -m for m in means)
