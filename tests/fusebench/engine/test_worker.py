"""Worker processes: what they are asked, what they leave behind, and in which order they get tasks."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from fusebench.engine.memory import PeakMemory
from fusebench.engine.order import CaseQueue
from fusebench.engine.pace import Pace
from fusebench.engine.plan import Options, make_plan
from fusebench.engine.pool import LocalPool
from fusebench.engine.spec import Choice, Task, method_specs
from fusebench.engine.survey import Question, survey
from fusebench.errors import UnknownNameError
from fusebench.plugins import find_plugins
from fusebench.scoring.select import metric_infos
from fusebench.store.folder import RunFolder

from ..conftest import PLUGINS, Bench

ROOT = Path(__file__).resolve().parents[3]


def test_the_runner_imports_no_torch(tmp_path: Path) -> None:
    options = ["--methods", "average", "--metrics", "psnr", "--cases", "1", "--data-option", "size=16"]
    command = ["run", *options, "--jobs", "1", "--device", "cpu", "--out", str(tmp_path / "run")]
    script = (
        f"import sys; from fusebench.cli import main; code = main({command!r})\n"
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "leaderboard.csv").exists()


def test_help_imports_no_torch() -> None:
    script = (
        "import sys; from fusebench.cli import build_parser; build_parser(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_every_answer_belongs_to_its_question() -> None:
    with LocalPool(2) as pool:
        answers = [pool.ask(partial(operator.add, 1, i)) for i in range(3)]
        assert answers[-1]() == 3  # earlier questions' answers are passed over
        assert pool.ask(partial(operator.add, 1, 9))() == 10
        question = partial(survey, Question((), (), ("pnsr",), ("volume",), False, "cpu"))
        with pytest.raises(UnknownNameError, match="'pnsr'; did you mean psnr"):
            pool.ask(question)()


def test_without_workers_this_process_answers() -> None:
    with LocalPool(0) as pool:
        assert pool.ask(os.getpid)() == os.getpid()


# The process ends before the info is made; its name is read from the source.
ENDS = "import ctypes\nfrom fusebench import {0}\nctypes.CDLL(None)._exit(7)\ninfo = {0}(name='ends')\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_method_that_ends_its_process_is_a_row(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame], jobs: str
) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(ENDS.format("MethodInfo"))
    assert bench("--methods", "ends,healthy", "--plugin", str(plugin), "--jobs", jobs) == 1
    found = rows().set_index("method")
    assert set(found.loc[["healthy"], "status"]) == {"ok"}
    [reason] = set(found.loc[["ends"], "reason"])
    cause = "it ends the process that imports it (the worker exited with code 7)"
    assert reason == f"ends ({plugin}:4) cannot be loaded: {cause}"
    # One that is not chosen is not imported.
    assert bench("--methods", "healthy,other", "--plugin", str(plugin), "--jobs", jobs) == 0


@pytest.mark.parametrize("asked", ["psnr,ends", "e*"])
def test_a_metric_that_ends_its_process_is_named_in_one_line(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: str
) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(ENDS.format("MetricInfo"))
    assert bench("--plugin", str(plugin), "--methods", "healthy", "--metrics", asked, "--jobs", "1") == 2
    cause = "it ends the process that imports it (the worker exited with code 7)"
    assert f"ends ({plugin}:4) cannot be loaded: {cause}; leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["list methods", "check method crashes"])
def test_a_plugin_that_crashes_the_command_line_is_named(tmp_path: Path, command: str) -> None:
    plugin = tmp_path / "crashes.py"
    plugin.write_text(
        "import ctypes\nfrom fusebench import MethodInfo\nctypes.string_at(0)\n"
        "info = MethodInfo(name='crashes')\n"
    )
    script = [sys.executable, "run_bench.py", *command.split(), "--plugin", str(plugin)]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert f'File "{plugin}", line 3' in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_hanging_worker_dies_with_a_killed_runner(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run_bench.py"), "--plugin", str(PLUGINS), "--dataset", "tiny"]
    command += ["--methods", "hang", "--metrics", "psnr", "--jobs", "1", "--timeout", "0"]
    runner = subprocess.Popen([*command, "--out", str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    assert "fusions to do" in runner.stdout.readline()
    (worker,) = [p for p in psutil.Process(runner.pid).children() if "start_worker" in " ".join(p.cmdline())]
    time.sleep(1)  # into the hanging fuse
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    worker.wait(10)
    assert not worker.is_running()


def plan(tmp_path: Path, cases: int) -> list[Task]:
    plugins = find_plugins((str(PLUGINS),))
    specs = method_specs(
        plugins,
        [Choice("healthy", "healthy", {}), Choice("other", "other", {}), Choice("noisy", "noisy", {})],
    )
    data = plugins.datasets.load("tiny")(count=cases)
    infos = metric_infos(plugins.metrics, ["psnr"])
    return make_plan(
        plugins, data.cases(), specs, infos, Options(run="r", metrics=("psnr",)), RunFolder(tmp_path)
    )


def test_slow_methods_go_first_once_they_are_known(tmp_path: Path) -> None:
    tasks = plan(tmp_path, 2)
    pace = Pace()
    pace.plan(tasks)
    waiting = CaseQueue(tasks, 1, pace)
    seconds = {"healthy": 1.0, "other": 3.0, "noisy": 2.0}
    order, case = [], None
    while (taken := waiting.take(case)) is not None:
        task, case = taken[0], taken[0].case
        pace.took(task, seconds[task.method.name])
        order.append((task.case.id, task.method.name))
    assert [m for c, m in order if c == "case0000"] == ["healthy", "other", "noisy"]  # as planned
    assert [m for c, m in order if c == "case0001"] == ["other", "noisy", "healthy"]


def test_two_workers_are_never_told_to_load_the_same_case(tmp_path: Path) -> None:
    waiting = CaseQueue(plan(tmp_path, 4))
    current, told = [None, None], [[], []]
    for _ in range(6):
        for i in range(2):
            task, upcoming = waiting.take(current[i])
            if told[i] and task.case.id != current[i].id:
                assert task.case.id == told[i][-1], "a worker goes on with the case it has loaded"
            current[i] = task.case
            if upcoming is not None:
                told[i].append(upcoming.id)
    assert set(told[0]) == {"case0001"} and set(told[1]) == {"case0003"}
    assert waiting.take(current[0]) is None


def test_idle_worker_takes_over_what_another_one_was_told_to_load(tmp_path: Path) -> None:
    waiting = CaseQueue(plan(tmp_path, 2))
    task, upcoming = waiting.take(None)
    while upcoming is None:
        task, upcoming = waiting.take(task.case)
    assert waiting.take(None)[0].case.id == upcoming.id == "case0001"


def test_a_method_does_not_answer_for_the_memory_of_earlier_ones() -> None:
    with PeakMemory("cpu") as before:
        pass
    cycle = [np.ones(40_000_000)]
    cycle.append(cycle)
    del cycle
    with PeakMemory("cpu") as after:
        pass
    assert before.memory_mb > 20
    assert after.memory_mb < before.memory_mb + 100


def test_memory_is_that_of_the_block() -> None:
    with PeakMemory("cpu") as nothing:
        pass
    with PeakMemory("cpu") as much:
        np.ones(40_000_000)
    assert 250 < much.memory_mb - nothing.memory_mb < 400
