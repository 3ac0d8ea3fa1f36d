"""How a run is shown while it goes on, and how it ends when it is interrupted."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from fusebench.cli._live import LiveBoard
from fusebench.cli._progress import duration
from fusebench.engine.spec import Score, Task
from fusebench.files import ROOT
from fusebench.store.rows import Row

from ..engine.test_pace import tasks_of


def row(task: Task, metric: str, value: float | None, status: str = "ok") -> Row:
    protocol = "readers" if metric == "reading" else "volume"
    return task.row(Score(protocol, metric, "k"), status=status, value=value)


@pytest.fixture
def board() -> tuple[LiveBoard, dict[str, list[Task]]]:
    scores = (Score("readers", "reading", "k"), Score("volume", "psnr", "k"), Score("volume", "ssim", "k"))
    by_method: dict[str, list[Task]] = {"good": [], "poor": [], "copy": [], "[b]odd": []}
    for task in tasks_of(dict.fromkeys(by_method, 0.1), cases=3):
        control = task.method.name == "copy"
        task = _with(task, scores, control)
        by_method[task.method.name].append(task)
    tasks = [task for some in by_method.values() for task in some]
    return LiveBoard(tasks), by_method


def _with(task: Task, scores: tuple[Score, ...], control: bool) -> Task:
    from dataclasses import replace

    method = replace(task.method, info=replace(task.method.info, control=control))
    return replace(task, scores=scores, method=method)


def test_a_board_fills_as_rows_come(board) -> None:
    live, tasks = board
    assert live.lines() == []
    for task, reading in zip(tasks["poor"][:2], (0.2, 0.4), strict=True):
        live.add([row(task, "reading", reading), row(task, "psnr", 20.0)])
    assert live.lines() == [("1", "poor", "0.300", "20.00", "", "2/3")]
    live.add([row(tasks["good"][0], "reading", 0.9)])
    live.add([row(tasks["copy"][0], "reading", 1.0)])
    assert [line[:2] for line in live.lines()] == [("1", "good"), ("2", "poor"), ("–", "copy")]
    live.add([row(tasks["[b]odd"][0], "reading", None, "timeout")])
    assert live.lines()[2] == ("3", "[b]odd", "", "", "", "0/3 (1 failed)")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_it_fits_the_terminal(board, width: int) -> None:
    live, tasks = board
    for some in tasks.values():
        live.add([row(some[0], "reading", 0.5)])
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(live.table(3))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "… and 2 more" in out.getvalue() and sum("0.500" in line for line in lines) == 2


def test_durations_are_as_exact_as_forecasts() -> None:
    assert [duration(s) for s in (4.4, 89, 100, 3000, 9000)] == [
        "4 s",
        "89 s",
        "2 min",
        "50 min",
        "2 h 30 min",
    ]


@pytest.mark.parametrize("to_all", [False, True])
def test_an_interrupted_run_ends_with_the_board_of_what_is_there(tmp_path: Path, to_all: bool) -> None:
    options = ["--methods", "average,max,dwt", "--cases", "40", "--data-option", "subjects=40"]
    options += ["--data-option", "size=16", "--metrics", "psnr", "--protocol", "volume", "--jobs", "1"]
    command = [
        sys.executable,
        str(ROOT / "run_bench.py"),
        *options,
        "--out",
        str(tmp_path / "run"),
        "--force",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    own = {"env": {**os.environ, "PYTHONPATH": str(ROOT)}, "start_new_session": True}
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and so it would be here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(command, cwd=tmp_path, **own, **pipes)
    signal.signal(signal.SIGINT, before)
    log = tmp_path / "run" / "rows.jsonl"
    begin = time.monotonic()
    while not (log.exists() and log.read_text().count("\n") > 5):
        assert run.poll() is None and time.monotonic() - begin < 120
        time.sleep(0.02)
    if to_all:  # as `timeout` and batch systems do
        os.killpg(run.pid, signal.SIGTERM)
    else:
        run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == (143 if to_all else 130), err
    assert "SIGTERM" not in log.read_text()
    assert "leaderboard.csv" in out and "average" in out
    assert "left; to go on: python" in err and "--force" not in err
    assert (tmp_path / "run" / "leaderboard.md").is_file()
