"""The main job: plan, run, store, and make the leaderboard of one run folder."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
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

from ..store.rows import RunStore
from .manifest import protocol_order, read_manifest
from .plan import Task
from .pool import Result

if TYPE_CHECKING:
    import pandas as pd

Execute = Callable[[Sequence[Task]], Iterator[Result]]


def run_tasks(
    tasks: Sequence[Task], store: RunStore, execute: Execute, console: Console, *, idle: bool = False
) -> None:
    """Run `tasks`, store rows as they come, show progress.

    Parameters
    ----------
    idle : bool
        Tasks run in other processes, so that this one can get ready what the end of the run needs: it
        imports the leaderboard, and draws the contact sheet when its volumes are there.
    """
    left = Counter(t.case.id for t in tasks if t.save)
    with ThreadPoolExecutor(1) as aside:
        if idle:
            for module in ("fusebench.leaderboard.tables", "pyarrow.parquet"):
                aside.submit(import_module, module)
        for task, rows in _shown(execute(tasks), tasks, console):
            store.append(rows)
            left[task.case.id] -= task.save
            if idle and task.save and not left[task.case.id]:
                aside.submit(contact_sheet, store.folder)


def _shown(results: Iterable[Result], tasks: Sequence[Task], console: Console) -> Iterator[Result]:
    """Pass results on, drawing a bar with ETA on a terminal, else one plain line per finished case."""
    if not console.is_terminal:
        yield from _logged(results, tasks, console)
        return
    columns = (
        TextColumn("{task.description}", style="progress.description", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("fusing and scoring", total=len(tasks))
        for task, rows in results:
            for line in _failures(task, rows):
                progress.console.print(line, style="red", markup=False)
            progress.update(bar, advance=1, description=task.label[:40].ljust(40))
            yield task, rows


def _logged(results: Iterable[Result], tasks: Sequence[Task], console: Console) -> Iterator[Result]:
    left = Counter(t.case.id for t in tasks)
    cases, begin = len(left), time.monotonic()
    for done, (task, rows) in enumerate(results, 1):
        for line in _failures(task, rows):
            console.print(line, markup=False, soft_wrap=True)
        left[task.case.id] -= 1
        if not left[task.case.id]:
            del left[task.case.id]
            elapsed = time.monotonic() - begin
            remaining = elapsed / done * (len(tasks) - done)
            console.print(
                f"{cases - len(left)}/{cases} cases done ({task.case.id}), "
                f"{elapsed:.0f} s, about {math.ceil(remaining)} s left",
                markup=False,
                highlight=False,
            )
        yield task, rows


def _failures(task: Task, rows: Iterable[Any]) -> list[str]:
    reasons = dict.fromkeys((r.status, r.reason) for r in rows if r.status not in ("ok", "skip"))
    return [f"{task.label}: {status}: {reason}" for status, reason in reasons]


def write_board(
    folder: Path,
    table: pd.DataFrame,
    console: Console,
    metrics: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Print the leaderboard of every protocol and write its files; returns the paths.

    Parameters
    ----------
    metrics : sequence of str, optional
        Ids to rank on; by default the ranking set among those stored.
    notes : sequence of str
        Lines below every board, behind its own.
    """
    manifest = read_manifest(folder)
    tables = import_module("fusebench.leaderboard.tables")
    paths: list[Path] = []
    protocols = protocol_order(table["protocol"], manifest)
    for protocol in protocols:
        present = set(table[table["protocol"] == protocol]["metric"])
        wanted = [m for m in metrics or () if m in present]
        board = tables.build(table, manifest, protocol, wanted or None)
        board = replace(board, notes=(*board.notes, *notes))
        board.to_terminal(console)
        stem = "leaderboard" if protocol == protocols[0] else f"leaderboard-{protocol}"
        for suffix, text in (
            ("csv", board.to_csv()),
            ("md", board.to_markdown()),
            ("tex", board.to_latex()),
        ):
            path = folder / f"{stem}.{suffix}"
            path.write_text(text, encoding="utf-8")
            paths.append(path)
    return paths


def contact_sheet(folder: Path) -> Path | None:
    """Draw sources and every kept fused volume of the first kept case; None where none is kept."""
    sheet: Path | None = import_module("fusebench.leaderboard.contact").of_run(folder)
    return sheet


def publish(
    folder: Path,
    table: pd.DataFrame,
    console: Console,
    metrics: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print the boards, draw the contact sheet, and name every file of the run; see `write_board`."""
    paths = write_board(folder, table, console, metrics, notes)
    sheet = contact_sheet(folder)
    tables = (folder / name for name in ("rows.csv", "rows.parquet", "manifest.json"))
    for path in [*paths, *([sheet] if sheet else []), *tables]:
        console.print(str(path), highlight=False, soft_wrap=True)


def any_failed(table: pd.DataFrame, tasks: Sequence[Task]) -> bool:
    """Whether a row of `tasks` has no value through a failure (a skip is none)."""
    wanted = {(t.method.name, t.case.id, s.protocol, s.metric) for t in tasks for s in t.scores}
    failed = table[~table["status"].isin(["ok", "skip"])]
    columns = (failed[c] for c in ("method", "case", "protocol", "metric"))
    return any(identity in wanted for identity in zip(*columns, strict=True))
