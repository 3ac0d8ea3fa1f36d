"""Dask: real worker processes on loopback, one killed mid-run, the same table as a serial run."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from fusebench.engine.dask import _rows
from fusebench.engine.plan import Options, make_plan
from fusebench.engine.spec import Choice, method_specs
from fusebench.plugins import find_plugins
from fusebench.scoring.select import metric_infos
from fusebench.store.folder import RunFolder

from ..conftest import PLUGINS, Bench

ROOT = Path(__file__).resolve().parents[3]
pytest.importorskip("distributed", reason="the dask extra is not installed")


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dask", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], pattern: str) -> str:
    """First match of `pattern` in the process's log; the rest of the log is drained."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if found := re.search(pattern, line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise AssertionError("".join(seen))


@pytest.fixture
def scheduling() -> Iterator[subprocess.Popen[str]]:
    process = start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def scheduler(scheduling: subprocess.Popen[str]) -> str:
    return wait_for(scheduling, r"(tcp://127\.0\.0\.1:\d+)")


@pytest.fixture
def workers(scheduler: str) -> Iterator[list[subprocess.Popen[str]]]:
    options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--host", "127.0.0.1")
    processes = [start("worker", scheduler, *options) for _ in range(2)]
    for process in processes:
        wait_for(process, r"Registered to:\s+(tcp://\S+)")
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_killed_worker_costs_nothing(
    bench: Bench, scheduler: str, workers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    common = ("--methods", "healthy,other", "--data-option", "count=8")
    assert bench(*common, out=tmp_path / "serial") == 0

    def kill_one() -> None:
        stored = tmp_path / "dask" / "rows.jsonl"
        while not (stored.exists() and stored.stat().st_size):
            time.sleep(0.05)
        workers[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    slow = ("--set", "healthy.pause=0.3")
    assert bench(*common, *slow, "--scheduler", scheduler, out=tmp_path / "dask") == 0
    killer.join(1)
    assert workers[0].wait(5) == -signal.SIGKILL
    tables = [
        pd.read_parquet(tmp_path / name / "rows.parquet").sort_values(["method", "case"])[
            ["method", "case", "value"]
        ]
        for name in ("serial", "dask")
    ]
    assert len(tables[1]) == 16
    assert (tables[0].to_numpy() == tables[1].to_numpy()).all()


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_line(
    scheduling: subprocess.Popen[str],
    scheduler: str,
    workers: list[subprocess.Popen[str]],
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(ROOT / "run_bench.py"), "--plugin", str(PLUGINS), "--dataset", "tiny"]
    command += ["--methods", "healthy", "--set", "healthy.pause=0.3", "--data-option", "count=20"]
    command += ["--metrics", "psnr", "--scheduler", scheduler, "--out", str(tmp_path / "run")]
    # In a process of its own, in which Dask is imported by the run and not by the test.
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    stored = tmp_path / "run" / "rows.jsonl"
    while run.poll() is None and not (stored.exists() and stored.stat().st_size):
        time.sleep(0.05)
    scheduling.kill()
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 2
    assert said.splitlines()[-1].startswith("run_bench.py: error: the Dask scheduler went away")
    assert "Traceback" not in said


def test_threads_of_one_worker_do_not_share_a_child(bench: Bench, tmp_path: Path) -> None:
    from distributed import LocalCluster

    options = ("--methods", "healthy,other", "--data-option", "count=6", "--set", "healthy.pause=0.05")
    with LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        assert bench(*options, "--scheduler", cluster.scheduler_address) == 0
    stored = pd.read_parquet(tmp_path / "run" / "rows.parquet")
    assert len(stored) == 12
    assert set(stored["status"]) == {"ok"}


def test_a_task_that_dask_gives_up_keeps_its_skips(tmp_path: Path) -> None:
    plugins = find_plugins((str(PLUGINS),))
    ids = ("psnr", "lesion_contrast")
    (task,) = make_plan(
        plugins,
        plugins.datasets.load("tiny")(count=1).cases(),
        method_specs(plugins, [Choice("healthy", "healthy", {})]),
        metric_infos(plugins.metrics, ids),
        Options(run="r", metrics=ids),
        RunFolder(tmp_path),
    )
    future = SimpleNamespace(status="error", exception=lambda: KeyError())
    psnr, lesion = _rows(future, task)
    assert psnr.status == "error"
    assert psnr.reason.startswith("Dask gave the task up: KeyError")
    assert lesion.status == "skip"


def test_absent_scheduler_is_one_line(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusebench.engine.dask.CONNECT_SECONDS", 1)
    assert bench("--methods", "healthy", "--scheduler", "tcp://127.0.0.1:1") == 2
    assert "no scheduler with workers answers" in capsys.readouterr().err.splitlines()[-1]
