"""What a dataset's plugin does while a run is planned may neither hang nor end in a traceback."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import fusebench.engine.deadline
from fusebench.cli import main
from fusebench.engine.deadline import asking_dataset
from fusebench.errors import InputError

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
