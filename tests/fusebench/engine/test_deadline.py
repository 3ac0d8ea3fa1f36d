"""What a dataset's plugin does while a run is planned may neither hang nor end in a traceback."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

import fusebench.engine.deadline
from fusebench.cli import main
from fusebench.engine import main_process
from fusebench.engine.deadline import asking_dataset
from fusebench.engine.plain_settings import PLAIN, read
from fusebench.errors import InputError
from fusebench.files import ROOT
from fusebench.loading import module_from_path

from ..conftest import Bench

PLUGIN = """
import os
import signal
from functools import partial
import numpy as np
from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo

def load():
    v = np.random.default_rng(0).random((2, 8, 8, 8), dtype=np.float32)
    return Pair(Volume(v[0]), Volume(v[1]), np.ones((8, 8, 8), bool))

class Waits(Dataset):
    info = DatasetInfo(name="waits", summary="never done")

    def __init__(self, *, where: str = ""):
        self.where = where

    def cases(self, split="test"):
        if self.where == "cases":
            signal.pause()
        if self.where == "leaves":
            raise SystemExit(0)
        if self.where == "ends":
            os._exit(0)
        if self.where == "divides":
            1 / 0
        if self.where == "forks":
            if pid := os.fork():
                os.waitpid(pid, 0)
        return [Case("c", "waits", "g", "f", load)] * (2 if self.where == "twice" else 1)

    def left_out(self):
        return [1 / 0] if self.where == "left_out" else []

    def doubts(self, cases):
        signal.pause()
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timers")
def test_a_limit_holds_while_nothing_is_read(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 60)  # of somebody else
    with pytest.raises(InputError, match=r"^dataset x: listing took over 0.1 s \(--timeout\)$"):  # noqa: SIM117
        with asking_dataset("x", "listing", 0.1):
            time.sleep(9)
    assert 50 < signal.setitimer(signal.ITIMER_REAL, 0)[0] < 60
    assert signal.getsignal(signal.SIGALRM) == before
    (tmp_path / "large").write_bytes(bytes(1 << 16))
    with asking_dataset("x", "listing", 0.1):
        end = time.monotonic() + 0.4
        while time.monotonic() < end:
            (tmp_path / "large").read_bytes()


def test_standard_streams_that_a_dataset_closes_are_open_behind_it(tmp_path: Path) -> None:
    """The next file that is opened would get the number, and what is printed would land in it."""
    script = """
import os
from fusebench.engine.deadline import asking_dataset
with asking_dataset("x", "listing"):
    for number in range(3):
        os.close(number)
with asking_dataset("x", "listing"):
    os.dup2(os.open("taken", os.O_RDWR | os.O_CREAT), 1)
rows = open("rows", "w")
os.write(1, b"printed")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "printed", "")
    assert (tmp_path / "rows").read_text() == (tmp_path / "taken").read_text() == ""


def test_a_dataset_that_hangs_or_fails_is_a_line(
    bench: Bench,
    tmp_path: Path,
    rows: Callable[[], pd.DataFrame],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fusebench.engine.deadline, "LEAST_SECONDS", 0.2)
    (tmp_path / "waits.py").write_text(PLUGIN)
    common = ("--methods", "average", "--plugin", str(tmp_path / "waits.py"), "--timeout", "0.1")
    common += ("--dataset", "waits", "--data-option")
    assert bench(*common, "where=cases") == 2
    assert "dataset waits: listing its cases took over 0.2 s" in capsys.readouterr().err
    assert bench(*common, "where=left_out") == 2
    assert (
        "listing its cases failed: ZeroDivisionError: division by zero (waits.py:" in capsys.readouterr().err
    )
    assert bench(*common, "where=leaves") == 2
    assert "listing its cases failed: SystemExit: 0" in capsys.readouterr().err
    assert bench(*common, "where=ends") == 2
    assert "listing its cases failed: SystemExit: os._exit(0)" in capsys.readouterr().err
    assert bench(*common, "where=twice") == 2
    assert "dataset waits: 2 cases are called 'c'; give each its own id" in capsys.readouterr().err
    assert bench(*common, "where=doubts") == 0
    assert rows()["status"].to_list() == ["ok"]
    assert "dataset waits: looking at its cases took over 0.2 s" in capsys.readouterr().out


def test_no_command_ends_with_a_dataset_or_shows_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "waits.py").write_text(PLUGIN)
    common = ["--dataset", "waits", "--plugin", str(tmp_path / "waits.py"), "--data-option"]
    out = ["--out", str(tmp_path / "out")]
    for command in (["prepare"], ["train", "dcfb", "--split", "test"]):
        for where, why in (("ends", "SystemExit: os._exit(0)"), ("divides", "ZeroDivisionError")):
            assert main([*command, *out, *common, f"where={where}"]) == 2, (command, where)
            said = capsys.readouterr().err
            assert said.startswith("run_bench.py: error: dataset waits: ") and said.count("\n") == 1
            assert f"its cases failed: {why}" in said and "(waits.py:" in said


def test_what_forks_while_listing_goes_on_once(
    bench: Bench, rows: Callable[[], pd.DataFrame], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "waits.py").write_text(PLUGIN.replace("signal.pause()", "return []"))
    common = ("--methods", "average", "--plugin", str(tmp_path / "waits.py"))
    assert bench(*common, "--dataset", "waits", "--data-option", "where=forks") == 0
    assert rows()["status"].to_list() == ["ok"]


def test_a_plugin_that_ends_the_process_at_import_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(PLUGIN.replace('"waits"', '"ends"') + "os._exit(0)\n")
    real = os._exit
    assert main(["list", "datasets", "ends", "--plugin", str(plugin)]) == 0
    assert "SystemExit: os._exit(0)" in " ".join(capsys.readouterr().out.split())
    assert os._exit is real


def harm(folder: Path) -> None:
    """Change what planning, storing and ranking rest on."""
    os.chdir(tempfile.gettempdir())
    os.umask(0o777)
    os.environ.clear()
    random.seed(0)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    sys.modules["html"] = None  # type: ignore[assignment]
    sys.modules["never_imported"] = None  # type: ignore[assignment]
    json.dumps = lambda *a, **k: "{}"
    hashlib.sha256 = hashlib.md5  # type: ignore[assignment]
    os.replace = lambda *a, **k: None
    Path.write_text = Path.write_bytes  # type: ignore[assignment,method-assign]
    Path.extra = print  # type: ignore[attr-defined]
    sys.meta_path.clear()
    sys.path = [str(folder)]
    sys.setrecursionlimit(len(traceback.extract_stack()) + 30)


@pytest.mark.parametrize("error", [None, ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_what_a_dataset_changes_is_put_back(
    tmp_path: Path, error: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    patched = json.loads
    monkeypatch.setattr(json, "loads", lambda *a, **k: patched(*a, **k))  # the caller's own stays
    code = [json.dumps, json.loads, hashlib.sha256, os.replace, Path.write_text, os._exit]
    before, finders, places = read(PLAIN), list(sys.meta_path), list(sys.path)
    (tmp_path / "helper_of_a_plugin.py").touch()
    with contextlib.suppress(InputError, KeyboardInterrupt), asking_dataset("x", "listing", 5):
        sys.path.append(str(tmp_path))
        import_module("helper_of_a_plugin")
        harm(tmp_path)
        if error:
            raise error
    after = read(PLAIN)
    assert sys.path == [str(tmp_path), *places] and sys.meta_path == finders
    assert {**after, "sys.path": 0} == {**before, "sys.path": 0}
    assert code == [json.dumps, json.loads, hashlib.sha256, os.replace, Path.write_text, os._exit]
    assert not hasattr(Path, "extra")
    assert sys.modules["html"] is html and "never_imported" not in sys.modules
    assert sys.modules.pop("helper_of_a_plugin")  # what a plugin imports stays


def test_what_a_dataset_changes_for_good_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, (get, _) = PLAIN["umask"][0](), PLAIN["umask"]
    monkeypatch.setitem(main_process._SETTINGS, "umask", (get, lambda _: None))
    with pytest.raises(InputError, match=r"^dataset x: listing failed: it has changed for good: umask$"):  # noqa: SIM117
        with asking_dataset("x", "listing"):
            os.umask(0o123)
    os.umask(mask)


def test_a_module_of_a_plugin_file_may_be_replaced(tmp_path: Path) -> None:
    """Its file has been written to since, and was imported anew."""
    plugin = tmp_path / "some.py"
    plugin.write_text("A = 1")
    old = module_from_path(plugin)
    plugin.write_text("A = 22")
    with asking_dataset("x", "opening it"):
        new = module_from_path(plugin)
    assert sys.modules[old.__name__] is new is not old


HARMFUL = """
json.dumps, os.replace, hashlib.sha256 = lambda *a, **k: "{}", lambda a, b: None, hashlib.md5
os.umask(0o777), os.chdir("/"), os.environ.clear(), sys.setrecursionlimit(len(inspect.stack()) + 20)
"""


def test_a_run_is_planned_and_stored_as_if_its_dataset_had_changed_nothing(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame]
) -> None:
    body = HARMFUL.strip().replace("\n", "\n        ")
    harmful = PLUGIN.replace('if self.where == "cases":', f"{body}\n        if False:")
    imports = "import hashlib, inspect, json, sys\n"
    (tmp_path / "waits.py").write_text(f"{imports}{harmful}{HARMFUL}".replace("def doubts", "def no"))
    options = ("--methods", "average", "--plugin", str(tmp_path / "waits.py"), "--dataset", "waits")
    assert bench(*options) == 0
    assert rows()["status"].to_list() == ["ok"]
    stored = tmp_path / "run" / "rows.jsonl"
    assert json.loads(stored.read_text().splitlines()[0]) and os.access(stored, os.R_OK)


HOLDS = """
import os, sys, time
from fusebench.engine.deadline import asking_dataset

with asking_dataset("x", "listing its cases", 0.2):
    sys.stderr = sys.stdout = os.write = None
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def test_a_dataset_that_holds_every_error_back_ends() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    why = "dataset x: listing its cases took over 0.2 s (--timeout), and does not end"
    assert (done.returncode, done.stderr) == (2, f"run_bench.py: error: {why}\n")
