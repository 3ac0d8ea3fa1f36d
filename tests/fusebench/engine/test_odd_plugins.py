"""A plugin that says or holds something odd is a row, or a line, with the reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ..conftest import Bench

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are watched by what Linux tells")

ODD = {
    "describes-nothing": ("def describe(self): return None", "cannot be loaded"),
    "holds-no-number": (
        "def describe(self): return dataclasses.replace(self.info, params=float('nan'))",
        "cannot be loaded: TypeError: info.params is nan",
    ),
    "fails-in-files": ("def files(self): return 5", "cannot be loaded: TypeError"),
    "interrupts": ("def setup(self, device): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "hangs-when-read": (
        "def describe(self): return dataclasses.replace(self.info, notes=Slow('x'))",
        "",
    ),
}
ODD_METHODS = """
import dataclasses, time
from fusebench.method import Method, MethodInfo

class Slow(str):
    def __reduce__(self):
        return time.sleep, (1000,)
"""
ODD_METHOD = """
class C{number}(Method):
    info = MethodInfo(name="{name}", summary="x")
    {body}
    def fuse(self, a, b):
        return (a + b) / 2
"""


def test_a_method_with_odd_facts_is_a_row_with_its_reason(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame], capfd: pytest.CaptureFixture[str]
) -> None:
    classes = [
        ODD_METHOD.format(number=i, name=name, body=body) for i, (name, (body, _)) in enumerate(ODD.items())
    ]
    (tmp_path / "odd.py").write_text(ODD_METHODS + "".join(classes))
    options = ("--plugin", str(tmp_path / "odd.py"), "--cases", "1", "--jobs", "1")
    assert bench("--methods", ",".join([*ODD, "other"]), *options) == 1
    found = rows().set_index("method")
    for name, (_, reason) in ODD.items():
        assert found.status[name] == ("error" if reason else "ok")
        assert reason in found.reason[name]
    assert found.status["other"] == "ok"
    assert "Traceback" not in "".join(capfd.readouterr())


ODD_DATA = """
import threading, time
import numpy as np
from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo

class Interrupts:
    def __call__(self):
        raise KeyboardInterrupt

class Odd(Dataset):
    info = DatasetInfo(name="odd", summary="x")

    def __init__(self, *, kind: str = "lambda"):
        self.kind = kind

    def cases(self, split="test"):
        if self.kind == "thread":
            threading.Thread(target=time.sleep, args=(1000,)).start()
        fill = float("nan") if self.kind == "nan" else 0.5
        def load():
            images = (Volume(np.full((8, 8, 8), fill, np.float32)) for _ in "ab")
            return Pair(*images, np.ones((8, 8, 8), bool))
        return [Case("c", "odd", "g", "f", Interrupts() if self.kind == "interrupts" else load)]

    def left_out(self):
        return ["\x1b[31mred"]
"""


@pytest.mark.parametrize(
    ("kind", "jobs", "reason"),
    [
        ("lambda", "1", "the case cannot be sent to a worker: "),
        ("nan", "0", "case c: the structural image holds NaN or infinity in 512 of 512 voxels"),
        ("thread", "0", ""),
        ("interrupts", "1", "KeyboardInterrupt"),
    ],
)
def test_what_a_dataset_gets_wrong_is_said(tmp_path: Path, kind: str, jobs: str, reason: str) -> None:
    (tmp_path / "odd.py").write_text(ODD_DATA)
    command = [sys.executable, str(ROOT / "run_bench.py"), "--methods", "average", "--metrics", "psnr"]
    command += ["--plugin", str(tmp_path / "odd.py"), "--dataset", "odd", "--data-option", f"kind={kind}"]
    command += ["--jobs", jobs, "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr
    table = pd.read_parquet(tmp_path / "run" / "rows.parquet")
    assert reason in table.reason[0]
    assert done.returncode == (1 if reason else 0)
