"""Progress of a training run: a bar with ETA on a terminal, plain lines elsewhere, TensorBoard beside."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Monitor:
    """Shows the steps of one run and logs its numbers; silent where `active` is False (other devices).

    Parameters
    ----------
    start, total : int
        Steps done before, and planned.
    every : int
        Steps between plain lines.
    events : Path, optional
        Folder for TensorBoard, if installed.
    """

    def __init__(self, start: int, total: int, *, every: int, events: Path | None, active: bool) -> None:
        self.start, self.total, self.every, self.active = start, total, every, active
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not active)
        self.bar: Progress | None = None
        self.began = time.monotonic()
        if active and self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self.bar = Progress(
                TextColumn("train"), *columns, TextColumn("{task.fields[note]}"), console=self.console
            )
            self.task = self.bar.add_task("train", total=total, completed=start, note="")
        self.writer = _event_writer(events, start) if active and events is not None else None

    def __enter__(self) -> Monitor:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.writer is not None:
            self.writer.close()

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, markup=False)

    def step(self, row: Mapping[str, float]) -> None:
        """Show and log one step."""
        if not self.active:
            return
        done = int(row["step"])
        text = " ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "step")
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=f"loss {row['loss']:.4g}")
        elif done % self.every == 0 or done == self.start + 1 or done == self.total:
            left = (time.monotonic() - self.began) / (done - self.start) * (self.total - done)
            self.say(f"step {done}/{self.total} {text} eta {_clock(left)}")
        if self.writer is not None:
            for key, value in row.items():
                if key != "step":
                    self.writer.add_scalar(key, value, done)


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"


def _event_writer(folder: Path, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=start + 1)
