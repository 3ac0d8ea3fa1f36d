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


REACHES = """
import gc, os, signal, threading, time
import torch
from fusebench.plugins import find_plugins
from fusebench.metric import MetricInfo, metric
import fusebench.metrics.information, fusebench.levels

class Odd(torch.Tensor):
    def tolist(self):
        raise ValueError("not to be read")

class Long(Exception):
    pass
Long.__name__ = "\\x1b[31m" + "E" * 100_000

def mean(t):
    return t.fused.flatten(1).mean(1)

def constants(t):
    for module in (fusebench.metrics.information, fusebench.levels):
        for name, value in list(vars(module).items()):
            if type(value) in (int, float) and not name.startswith("__"):
                setattr(module, name, value * 2)
    return mean(t)

def truth(t):
    for array in t.truth.values():
        array[...] = 0
    return mean(t)

def long(t):
    raise Long("x" * 100_000)

def odd(t):
    return mean(t).as_subclass(Odd)

def group(t):
    os.killpg(0, signal.SIGTERM)
    return mean(t)

def caches(t):
    for held in gc.get_objects():
        if type(held) is torch.Tensor and not held.requires_grad and held.is_floating_point():
            held.mul_(1.5)
    return t.psnr if hasattr(t, "psnr") else mean(t)

def registry(t):
    find_plugins().metrics._entries.clear()
    return mean(t)

class Last:
    def __del__(self):
        time.sleep(1000)

def garbage(t):
    t.left = Last()
    t.left.itself = t.left
    return mean(t)

def goes_on(t):
    def patch():
        while True:
            torch.Tensor.mean = torch.Tensor.sum
    threading.Thread(target=patch, daemon=True).start()
    return mean(t)
"""
REACHING = """
@metric(MetricInfo(name="a_{0}", title="x", family="a", direction="higher", low=0, high=9, needs_truth=True))
def measured_{0}(triple, part, variant):
    return {0}(triple)
"""
OURS = "psnr,mi,wm_edge,lesion_contrast"


@pytest.mark.parametrize("jobs", ["0", "1"])
def test_a_metric_reaches_no_row_but_its_own(bench: Bench, tmp_path: Path, jobs: str) -> None:
    # Against what follows there is no help within one process.
    children = ("group", "caches", "registry", "garbage", "goes_on")
    each = [REACHING.format(way) for way in ("constants", "truth", "long", "odd", *children)]
    (tmp_path / "reaches.py").write_text(REACHES + "".join(each))
    common = ("--dataset", "phantom", "--data-option", "size=16", "--cases", "1", "--jobs", jobs)
    options = ("--methods", "average,max,laplacian", *common)
    assert bench(*options, "--metrics", OURS, out=tmp_path / "alone") == 0
    names = ",".join(["a_constants,a_truth,a_long,a_odd", *(f"a_{c}" for c in children if jobs == "1")])
    plugin = ("--plugin", str(tmp_path / "reaches.py"))
    assert bench(*options, *plugin, "--metrics", f"{names},{OURS}") == 1
    both = [pd.read_parquet(tmp_path / run / "rows.parquet") for run in ("alone", "run")]
    alone, beside = (t.set_index(["method", "metric"])[["value", "status"]] for t in both)
    pd.testing.assert_frame_equal(beside.loc[alone.index], alone)
    reasons = both[1].set_index("metric")["reason"].groupby(level=0).first()
    assert "not to be read" in reasons["a_odd"]
    assert len(reasons["a_long"]) < 500 and "\x1b" not in reasons["a_long"]


BUFFER = """
import numpy as np
from functools import partial
from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo

HELD = np.zeros((2, 8, 8, 8), np.float32)

def load(number):
    HELD[0] = np.random.rand(8, 8, 8)
    HELD[1] = number / 4
    return Pair(Volume(HELD[0]), Volume(HELD[1]), np.ones((8, 8, 8), bool))

class Buffer(Dataset):
    info = DatasetInfo(name="buffer", summary="x")

    def cases(self, split="test"):
        return [Case(f"c{i}", "buffer", f"g{i}", f"f{i}", partial(load, i)) for i in range(3)]
"""


def test_a_loader_with_one_buffer_and_no_seed_gives_the_same_voxels_everywhere(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "buffer.py").write_text(BUFFER)
    options = ("--plugin", str(tmp_path / "buffer.py"), "--dataset", "buffer", "--methods", "average,dwt,max")
    tables = []
    for jobs in ("0", "1"):
        assert bench(*options, "--jobs", jobs, out=tmp_path / jobs) == 0
        tables.append(pd.read_parquet(tmp_path / jobs / "rows.parquet"))
    one, other = (t.set_index(["method", "case"]).value.sort_index() for t in tables)
    pd.testing.assert_series_equal(one, other)
    assert one["average"].nunique() == 3


COUNTS = """
from fusebench.method import Method, MethodInfo

class Counts(Method):
    info = MethodInfo(name="counts", summary="x")
    fused = 0

    def fuse(self, a, b):
        self.fused += 1
        return ((a + b) / 2) ** self.fused
"""


def test_a_method_that_counts_what_it_fuses_has_the_same_values_everywhere(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "counts.py").write_text(COUNTS)
    found = []
    for name, options in {"here": ("--jobs", "0"), "apart": ("--jobs", "1", "--repeats", "3")}.items():
        plugin = ("--plugin", str(tmp_path / "counts.py"))
        assert bench("--methods", "counts", *plugin, *options, out=tmp_path / name) == 0
        found.append(pd.read_parquet(tmp_path / name / "rows.parquet").set_index("case").value)
    pd.testing.assert_series_equal(*found)
