"""A method runs in a child of its own: nothing that it does there reaches another method's numbers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch

import fusebench.engine.survey
import fusebench.engine.worker
from fusebench.engine.keeper import Unrestored
from fusebench.engine.plain_settings import Settings, read
from fusebench.engine.settings import SETTINGS
from fusebench.engine.world import World

from ..conftest import Bench

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = Path(__file__).with_name("hostile_plugins.py")
SOUND = "average,max,laplacian"
BOARD = (
    "average,max,pca,dwt,swt,laplacian,guided,conditional@1,conditional@2,blend@0.20,blend@0.75,interleave,"
    "noise,source-mri,source-pet,densefuse,matr,u2fusion"
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are watched by what Linux tells")


def read_settings() -> Settings:
    return read(SETTINGS)


def values(folder: Path) -> dict[tuple[str, ...], float]:
    rows = pd.read_parquet(folder / "rows.parquet").set_index(["method", "case", "metric"])
    return {key: value for key, value in rows["value"].items() if key[0] in SOUND.split(",")}


def test_a_method_that_patches_torch_changes_no_other_row(bench: Bench, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    common = ("--metrics", "psnr,ssim,viff", "--cases", "1", "--data-option", "size=16", "--jobs", "1")
    assert bench("--methods", "average,laplacian", *common, out=tmp_path / "alone") == 0
    plugin = ("--plugin", str(HOSTILE))
    assert bench("--methods", "patches-torch,forks,real-time,average,laplacian", *plugin, *common) == 1
    assert values(tmp_path / "run") == values(tmp_path / "alone")
    table = pd.read_parquet(tmp_path / "run" / "rows.parquet").set_index(["method", "metric"])
    assert len(table) == 5 * 3
    # It is scored by what it has not patched.
    assert table.value["patches-torch"].to_dict() == table.value["average"].to_dict()
    assert set(table.reason["real-time"]) == {"the worker died of signal 40"}
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [p for p in left if p.status() != psutil.STATUS_ZOMBIE]


def test_methods_that_share_a_process_leave_it_as_it_was(bench: Bench, tmp_path: Path) -> None:
    common = ("--metrics", "psnr,viff", "--cases", "1", "--data-option", "size=16", "--jobs", "0")
    assert bench("--methods", "average,laplacian", *common, out=tmp_path / "alone") == 0
    before = read_settings()
    hostile = "patches-torch,settings,patches-us"
    assert bench("--methods", f"{hostile},average,laplacian", "--plugin", str(HOSTILE), *common) == 0
    assert read_settings() == before
    assert values(tmp_path / "run") == values(tmp_path / "alone")
    table = pd.read_parquet(tmp_path / "run" / "rows.parquet").set_index(["method", "metric"])
    for method in hostile.split(","):
        assert table.value[method].to_dict() == table.value["average"].to_dict()


AT_IMPORT = """
import os, sys, torch
from fusebench.method import Method, MethodInfo

os.environ["LEFT_BEHIND"] = "1"
sys.excepthook = print
torch.set_default_dtype(torch.float64)

class AtImport(Method):
    info = MethodInfo(name="at-import", summary="changes settings when it is imported")

    def fuse(self, a, b):
        return (a + b) / 2
"""


def test_what_the_import_of_a_plugin_changes_is_put_back_in_the_users_process(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "at_import.py").write_text(AT_IMPORT)
    before = read_settings()
    common = ("--metrics", "psnr", "--cases", "1", "--data-option", "size=16", "--jobs", "0")
    assert bench("--methods", "at-import,average", "--plugin", str(tmp_path / "at_import.py"), *common) == 0
    assert read_settings() == before


CHANGES = """
from functools import partial
import numpy as np, torch
from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo
from fusebench.metric import MetricInfo, metric
from fusebench.metrics._gradients import magnitude

def harm():
    mean, log2 = torch.Tensor.mean, np.log2
    torch.Tensor.mean = lambda *a, **k: mean(*a, **k) * 1.01
    np.log2 = lambda *a, **k: log2(*a, **k) * 1.01
    torch.set_default_dtype(torch.float64)

@metric(MetricInfo(name="harms", title="x", family="fidelity", direction="higher", low=0, high=9))
def measured(triple, part, variant):
    harm()
    magnitude(triple.crop((1, 1, 1)), "a").zero_()  # which qabf asks for
    return triple.fused.flatten(1).mean(1)

def load(seed, harmful):
    v = np.random.default_rng(seed).random((2, 16, 16, 16), dtype=np.float32)
    v[0] *= 0.5 + 0.1 * np.log2(2.0)
    if harmful:
        harm()
    return Pair(Volume(v[0].clip(0, 1)), Volume(v[1]), np.ones(v[0].shape, bool))

def truth(harmful):
    if harmful:
        harm()
    whole = np.zeros((16, 16, 16), np.float32)
    whole[4:12] = 1
    return {"gm": whole, "wm": 1 - whole, "csf": whole * 0}

class Data(Dataset):
    info = DatasetInfo(name="harms", summary="x")

    def __init__(self, *, harmful: bool = False):
        self.harmful = harmful

    def cases(self, split="test"):
        loads = [partial(load, i, self.harmful) for i in range(2)]
        known = partial(truth, self.harmful)
        return [Case(f"c{i}", "harms", f"g{i}", f"f{i}", loads[i], truth_loader=known) for i in range(2)]
"""


@pytest.mark.parametrize("jobs", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_a_metric_or_loader_changes_nothing_that_is_scored_behind_it(
    bench: Bench, tmp_path: Path, jobs: str
) -> None:
    (tmp_path / "harms.py").write_text(CHANGES)
    common = ("--dataset", "harms", "--plugin", str(tmp_path / "harms.py"), "--methods", "average,max")
    common += ("--jobs", jobs, "--metrics")
    assert bench(*common, "psnr,mi,qabf,wm_edge", out=tmp_path / "alone") == 0
    before = read_settings()
    assert bench(*common, "harms,psnr,mi,qabf,wm_edge", "--data-option", "harmful=true") == 0
    assert read_settings() == before
    found = values(tmp_path / "run")
    assert {k: v for k, v in found.items() if k[2] != "harms"} == values(tmp_path / "alone")


def test_a_method_finds_what_its_setup_has_set() -> None:
    world = World()
    with world.kept() as settings:
        torch.set_default_dtype(torch.float64)
    assert torch.get_default_dtype() == torch.float32
    with world.kept(settings):
        assert torch.get_default_dtype() == torch.float64
    assert torch.get_default_dtype() == torch.float32


def test_what_cannot_be_put_back_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS, "umask", (SETTINGS["umask"][0], lambda _: None))
    mask = SETTINGS["umask"][0]()
    with pytest.raises(Unrestored, match="it has changed for good: umask"), World().kept():
        os.umask(0o123)
    os.umask(mask)


@pytest.mark.slow
def test_of_nineteen_methods_one_that_patches_torch_changes_no_other(bench: Bench, tmp_path: Path) -> None:
    common = ("--dataset", "phantom", "--data-option", "size=24", "--cases", "1", "--jobs", "1")
    common += ("--metrics", "psnr,ssim,mi,viff,qabf,q_cb", "--protocol", "volume,slices")
    assert len(BOARD.split(",")) == 18
    assert bench("--methods", BOARD, *common, out=tmp_path / "alone") == 0
    everybody = f"patches-torch,{BOARD}"
    assert bench("--methods", everybody, "--plugin", str(HOSTILE), *common) == 0
    one, two = (
        pd.read_parquet(tmp_path / name / "rows.parquet").set_index(["method", "protocol", "metric"])["value"]
        for name in ("alone", "run")
    )
    assert len(two) == 19 * 12
    assert two.drop("patches-torch").to_dict() == one.to_dict()


@pytest.mark.slow
def test_no_method_changes_what_another_is_given_or_scored_by(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame], capfd: pytest.CaptureFixture[str]
) -> None:
    common = ("--metrics", "psnr,ssim,mi,viff", "--cases", "2", "--data-option", "size=16", "--jobs", "1")
    assert bench("--methods", SOUND, *common, out=tmp_path / "alone") == 0
    harmless = "patches-torch,settings,patches-us,lingers,forks,garbage,writes-to-memory,stops-the-engine"
    fatal = "junk,closes,real-time,escapes,kills-its-parent"
    methods = f"{harmless},{fatal},{SOUND}"
    assert bench("--methods", methods, "--plugin", str(HOSTILE), "--timeout", "20", *common) == 1
    assert values(tmp_path / "run") == values(tmp_path / "alone")
    found = rows().groupby("method")["status"].agg(set).to_dict()
    assert {m: found[m] for m in harmless.split(",")} == {m: {"ok"} for m in harmless.split(",")}
    assert {m: found[m] for m in fatal.split(",")} == {m: {"error"} for m in fatal.split(",")}
    assert len(rows()) == len(methods.split(",")) * 2 * 4
    # Those that patch are scored by what they have not patched.
    table = rows().set_index(["method", "case", "metric"])["value"]
    for method in ("patches-torch", "patches-us", "settings"):
        assert table[method].to_dict() == table["average"].to_dict()
    reasons = rows().groupby("method")["reason"].last()
    assert reasons["real-time"] == "the worker died of signal 40"
    assert reasons["junk"] == "fusing wrote to the engine's own connection; stopped"
    assert reasons["closes"] == "the worker closed its pipe and hung"
    said = "".join(capfd.readouterr())
    assert (
        "\\x1b[2Jprinted" in said and "\x1b]0" not in said and "\x1b[2J" not in said and "\u202e" not in said
    )
    assert not [p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]


HANGS = "import signal\nfrom fusebench import MethodInfo\nsignal.pause()\ninfo = MethodInfo(name='hangs')\n"
METRIC = """
import os, signal, stat, subprocess
from fusebench.metric import MetricInfo, metric

def is_socket(fd):
    return os.path.exists(f"/proc/self/fd/{{fd}}") and stat.S_ISSOCK(os.fstat(fd).st_mode)

@metric(MetricInfo(name="{name}", title="{name}", family="fidelity", direction="higher", low=0, high=9))
def measured(triple, part, variant):
    {body}
    return triple.fused.flatten(1).mean(1)
"""
METRICS = {
    "waits": "signal.pause()",
    "ends": "os._exit(0)",
    "leaves": "raise SystemExit",
    "interrupts": "raise KeyboardInterrupt",
    "forks": "os.fork()",
    "closes": "os.closerange(3, 64)",
    "counts": "return 3",
    "writes": "[os.write(f, b'0' * 40) for f in range(3, 256) if is_socket(f)]",
    "starts": "subprocess.Popen(['sleep', '4321'], start_new_session=True)",
}


@pytest.mark.slow
def test_every_stage_has_a_deadline(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusebench.engine.survey, "LEAST_SECONDS", 6.0)
    monkeypatch.setattr(fusebench.engine.worker, "LEAST_SECONDS", 3.0)
    (tmp_path / "hangs.py").write_text(HANGS)
    (tmp_path / "waits.py").write_text(METRIC.format(name="waits", body=METRICS["waits"]))
    plugins = ("--plugin", str(tmp_path / "hangs.py"), "--plugin", str(tmp_path / "waits.py"))
    options = ("--cases", "1", "--jobs", "1", "--timeout", "1")
    assert bench("--methods", "hangs,healthy", *plugins, *options) == 1
    found = rows().set_index("method")
    assert found.status["healthy"] == "ok"
    assert "importing the plugin took over 6 s (--timeout)" in found.reason["hangs"]
    assert bench("--methods", "other", "--metrics", "waits", *plugins, *options) == 1
    [reason] = rows().query("metric == 'waits'")["reason"]
    assert reason == "scoring took over 10 s (--timeout)"


@pytest.mark.slow
def test_a_metric_that_ends_its_worker_costs_its_own_rows_only(
    bench: Bench, tmp_path: Path, rows: Callable[[], pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusebench.engine.worker, "LEAST_SECONDS", 3.0)
    plugins = []
    for name, body in METRICS.items():
        (tmp_path / f"{name}.py").write_text(METRIC.format(name=name, body=body))
        plugins += ["--plugin", str(tmp_path / f"{name}.py")]
    options = ("--cases", "1", "--jobs", "1", "--timeout", "1", "--metrics", f"rmse,{','.join(METRICS)},psnr")
    assert bench("--methods", "other", *plugins, *options) == 1
    found = rows().set_index("metric")
    assert found.status[["rmse", "psnr", "forks", "starts"]].to_list() == ["ok"] * 4
    assert found.reason["writes"] == "scoring wrote to the engine's own connection; stopped"
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "4321"]]
    assert found.reason["waits"] == "scoring took over 10 s (--timeout)"
    assert found.reason["ends"] == "the worker exited with code 0"
    assert found.status["closes"] == "error"
    assert found.reason["leaves"] == "leaves raised SystemExit"
    assert found.reason["interrupts"] == "interrupts raised KeyboardInterrupt"
    assert found.reason["counts"] == "counts returned int, not a tensor"


@pytest.mark.slow
def test_a_worker_that_a_stranger_ends_runs_its_task_again(
    bench: Bench, rows: Callable[[], pd.DataFrame]
) -> None:
    options = ("--jobs", "2", "--plugin", str(HOSTILE), "--data-option", "count=4")
    assert bench("--methods", "kills-strangers,healthy,other", "--set", "healthy.pause=0.5", *options) in (
        0,
        1,
    )
    found = rows().groupby("method")["status"].agg(list)
    assert found["healthy"] == found["other"] == ["ok"] * 4


@pytest.mark.slow
def test_setup_has_a_deadline(bench: Bench, rows: Callable[[], pd.DataFrame]) -> None:
    options = ("--cases", "1", "--jobs", "1", "--timeout", "1", "--plugin", str(HOSTILE))
    assert bench("--methods", "sets-up-for-ever", *options) == 1
    assert list(rows().status) == ["timeout"]
    assert rows().reason[0] == "setting up the method took over 10 s (--timeout)"


def test_workers_do_not_import_what_lies_in_the_working_folder(tmp_path: Path) -> None:
    for name in ("random.py", "signal.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')\n")
    command = [sys.executable, "-P", "-c", "import sys; from fusebench.cli import main; sys.exit(main())"]
    command += ["--methods", "average", "--metrics", "psnr", "--cases", "1", "--data-option", "size=16"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--jobs", "1", "--out", "run"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "the wrong one" not in done.stderr
