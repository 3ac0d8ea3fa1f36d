"""The main job on tiny cubes: rows, exit codes, failures, resume, one-line errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import fusebench.engine.run
from fusebench.cli import main
from fusebench.cli._options import literal
from fusebench.cli._progress import Shown
from fusebench.engine.hardware import checked_device
from fusebench.engine.pace import Pace
from fusebench.engine.pool import LocalPool
from fusebench.engine.request import Request
from fusebench.engine.run import execute, plan_run
from fusebench.engine.spec import Choice, Score, Task, method_specs
from fusebench.errors import InputError
from fusebench.plugins import find_plugins
from fusebench.store.keys import path_of

from ..conftest import PLUGINS, Bench

Rows = Callable[[], pd.DataFrame]


def test_board_files_and_manifest(
    bench: Bench, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        bench("--methods", "healthy,other", "--metrics", "psnr,ssim.worst", "--protocol", "volume,slices")
        == 0
    )
    out = tmp_path / "run"
    table = rows()
    assert len(table) == 2 * 3 * 2 * 2
    assert set(table.status) == {"ok"}
    assert {"rows.csv", "leaderboard.csv", "leaderboard.md", "manifest.json"} <= {
        p.name for p in out.iterdir()
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["dataset"]["name"] == "tiny" and manifest["run"]["ended"]
    assert set(manifest["methods"]) == {"healthy", "other"}
    assert manifest["metrics"]["psnr"]["direction"] == "higher"
    assert list((out / "figures").glob("*.png"))
    printed = capsys.readouterr().out
    assert all(str(out / name) in printed for name in ("rows.csv", "rows.parquet", "manifest.json"))


def test_equal_seeds_give_equal_values_whatever_the_number_of_jobs(bench: Bench, tmp_path: Path) -> None:
    tables = []
    for name, jobs in (("one", "1"), ("two", "2")):
        assert bench("--methods", "healthy,noisy", "--jobs", jobs, "--seed", "5", out=tmp_path / name) == 0
        table = pd.read_parquet(tmp_path / name / "rows.parquet")
        tables.append(table.sort_values(["method", "case"])[["method", "case", "metric", "value"]])
    assert np.array_equal(tables[0].to_numpy(), tables[1].to_numpy())


def test_four_broken_methods_leave_the_healthy_one_complete(bench: Bench, rows: Rows) -> None:
    common = ("--jobs", "1", "--cases", "2")
    assert bench("--methods", "healthy,crash,hang,raises-once", "--timeout", "3", *common) == 1
    assert bench("--methods", "hog", "--memory", "900", *common) == 1
    status = rows().groupby("method")["status"].agg(list).to_dict()
    assert status == {
        "healthy": ["ok", "ok"],
        "crash": ["error", "error"],
        "hang": ["timeout", "timeout"],
        "hog": ["oom", "oom"],
        "raises-once": ["ok", "error"],
    }
    reasons = rows().groupby("method")["reason"].last()
    assert reasons["crash"] == "the worker exited with code 7"
    assert reasons["hang"] == "fusing took over 3 s (--timeout)"
    assert reasons["hog"] == "the worker exceeded 900 MB (--memory); stopped"
    assert reasons["raises-once"].startswith("ValueError: cannot do this one (engine_plugins.py:")


def test_segfault_is_named(bench: Bench, rows: Rows) -> None:
    assert bench("--methods", "segfault", "--cases", "1", "--jobs", "1") == 1
    assert rows().reason[0] == "the worker died of SIGSEGV"


def test_progress_in_this_process_equals_workers(bench: Bench, rows: Rows, tmp_path: Path) -> None:
    assert bench("--methods", "other", "--jobs", "1") == 0
    assert bench("--methods", "other", "--jobs", "0", out=tmp_path / "here") == 0
    assert (rows().load_seconds > 1e-5).all(), "loading is timed where it happens, before the task"
    here = pd.read_parquet(tmp_path / "here" / "rows.parquet")
    assert list(here.value) == list(rows().value)


def test_bar_on_a_terminal_shows_ids_as_they_are(tmp_path: Path) -> None:
    plugins, text = find_plugins((str(PLUGINS),)), StringIO()
    (case,) = plugins.datasets.load("tiny")(count=1).cases()
    case = replace(case, id="scan[b]")
    (spec,) = method_specs(plugins, [Choice("healthy", "healthy", {})])
    task = Task("r", spec, case, (Score("volume", "psnr", "k"),))
    found = SimpleNamespace(methods=[spec], device="cpu")
    options = SimpleNamespace(protocols=["volume"])
    planned = SimpleNamespace(found=found, cases=[case], options=options, jobs=0, tasks=[task], pace=Pace())
    planned.pace.plan([task])
    shown = Shown(Console(file=text, force_terminal=True, width=160))
    shown.begin(planned, [task], 0)
    shown.finished(task, [task.row(task.scores[0], value=1.0)])
    shown.end()
    assert "healthy on scan[b]" in text.getvalue()


def test_broken_import_is_a_row_and_the_rest_runs(bench: Bench, rows: Rows, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text(
        "from fusebench import MethodInfo\ninfo = MethodInfo(name='broken', summary='')\n1 / 0\n"
    )
    assert bench("--methods", "healthy,broken", "--plugin", str(plugin)) == 1
    table = rows()
    assert set(table[table.method == "healthy"].status) == {"ok"}
    assert table[table.method == "broken"].reason.str.contains("ZeroDivisionError").all()
    assert len(table[table.method == "broken"]) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def (", "bad.py: SyntaxError, line 1: invalid syntax"),
        ("\nx = MethodInfo(name='x'\n", "bad.py: SyntaxError, line 2: "),
        ("\0", "bad.py: "),
        ("x = 1\n", "bad.py: defines no method, metric or dataset"),
    ],
)
def test_a_named_plugin_file_that_offers_nothing_is_an_error(
    bench: Bench, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    plugin = tmp_path / "bad.py"
    plugin.write_text(text)
    assert bench("--methods", "healthy", "--plugin", str(plugin)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_plugin_folder_may_hold_helpers(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "helper.py").write_text("x = 1\n")
    (folder / "mine.py").write_text(
        "from fusebench.method import Method, MethodInfo\n\n"
        "class Mine(Method):\n    info = MethodInfo(name='mine', summary='first')\n\n"
        "    def fuse(self, a, b):\n        return a.clone()\n"
    )
    assert bench("--methods", "mine", "--plugin", str(folder), "--jobs", "1") == 0


def test_vanished_file_costs_its_case_only(bench: Bench, rows: Rows, tmp_path: Path) -> None:
    gone = tmp_path / "gone.nii.gz"
    assert bench("--methods", "healthy", "--data-option", f"vanish={gone}") == 1
    table = rows().set_index("case")
    assert list(table.status) == ["ok", "error", "ok"]
    assert str(gone) in table.reason["case0001"]


def fused(path: Path) -> list[str]:
    return path.read_text().split("\n")[:-1] if path.exists() else []


def test_resume_runs_only_what_is_missing(
    bench: Bench, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("ENGINE_TEST_LOG", str(log))
    assert bench("--methods", "healthy", "--cases", "2") == 0
    assert len(fused(log)) == 2
    assert bench("--methods", "healthy,other") == 0  # one new case, one new method
    assert len(fused(log)) == 2 + 1 + 3
    assert bench("--methods", "healthy,other") == 0  # nothing
    assert len(fused(log)) == 6
    assert bench("--methods", "healthy", "--set", "healthy.pause=0.001", "--cases", "1") == 0  # parameters
    assert len(fused(log)) == 7
    assert bench("--methods", "other", "--data-option", "salt=1", "--cases", "1") == 0  # data
    assert len(fused(log)) == 8
    assert bench("--methods", "other", "--seed", "3", "--cases", "1") == 0
    assert len(fused(log)) == 9
    assert bench("--methods", "other", "--seed", "3", "--cases", "1", "--force") == 0
    assert len(fused(log)) == 10


def test_board_of_a_reused_folder_is_of_the_present_data(bench: Bench, rows: Rows, tmp_path: Path) -> None:
    assert bench("--methods", "healthy,other") == 0
    assert bench("--methods", "healthy", "--data-option", "salt=1", "--cases", "1") == 0
    assert list(rows().case) == ["case0000"], "nothing of salt=0, of another method or another case"
    text = (tmp_path / "run" / "leaderboard.md").read_text()
    assert "made from other data of the same cases: other (3), healthy (2)" in text
    assert bench("--methods", "healthy", "--data-option", "salt=1") == 0
    assert len(rows()) == 3
    assert bench("--methods", "other", "--collect") == 0
    assert set(rows().method) == {"other"}, "what was computed is kept"


def test_new_metric_is_scored_on_stored_volumes(
    bench: Bench, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("ENGINE_TEST_LOG", str(log))
    assert bench("--methods", "healthy", "--save-fused", "--jobs", "2") == 0
    assert bench("--methods", "healthy", "--save-fused", "--metrics", "psnr,rmse") == 0
    assert len(fused(log)) == 3
    assert bench("--methods", "healthy", "--metrics", "psnr,rmse", out=tmp_path / "fresh") == 0
    fresh = pd.read_parquet(tmp_path / "fresh" / "rows.parquet")
    merged = fresh.merge(rows(), on=["case", "metric"])
    assert len(merged) == 6
    assert (merged.value_x == merged.value_y).all()
    assert rows().fuse_seconds.notna().all(), "what the stored volume took stays on the board"


METRIC = """
from fusebench.metric import MetricInfo, metric

@metric(MetricInfo(name="own", title="own", family="fidelity", direction="higher", low=0, high=9))
def own(triple, part, variant):
    return triple.fused.new_full((len(triple),), {value})
"""


def test_changed_metric_is_scored_again_without_fusing(
    bench: Bench, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, plugin = tmp_path / "log", tmp_path / "own.py"
    monkeypatch.setenv("ENGINE_TEST_LOG", str(log))
    values = []
    for value in (1.0, 2.0):  # in a process of its own: this one holds the metric's first version
        plugin.write_text(METRIC.format(value=value))
        options = ("--methods", "healthy", "--metrics", "own,psnr", "--plugin", str(plugin), "--cases", "2")
        assert bench(*options, "--save-fused", "--jobs", "1") == 0
        values.append(rows().groupby("metric")["value"].max().to_dict())
    assert [v["own"] for v in values] == [1.0, 2.0]
    assert values[0]["psnr"] == values[1]["psnr"]
    assert len(fused(log)) == 2


@pytest.mark.parametrize("name", ["psnr", "fmi_edge", "own"])
def test_key_of_a_metric_holds_its_source(name: str, tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(METRIC.format(value=1))
    metric = find_plugins((str(plugin),)).metrics.load(name)
    path = path_of(metric)
    assert path == find_plugins((str(plugin),)).metrics.entry(name).path
    assert path is not None and f'name="{name}"' in path.read_text()


def test_what_was_planned_and_has_no_row_is_a_failure(bench: Bench, tmp_path: Path) -> None:
    request = Request(methods=["healthy"], dataset="tiny", plugins=[str(PLUGINS)], metrics=["psnr", "rmse"])
    request = replace(request, cases=2, jobs=0, out=tmp_path / "run")
    with LocalPool(0) as pool:
        outcome = execute(plan_run(request, pool), pool)
    assert outcome.failures().empty
    lost = replace(outcome, table=outcome.table.iloc[1:])
    assert list(lost.failures().metric) == list(outcome.table.metric[:1])
    assert set(lost.failures().status) == {"error"}
    collected = replace(lost.planned, request=replace(request, reuse="collect"))
    assert replace(lost, planned=collected).failures().empty


def test_what_the_caller_does_aside_has_ended_when_the_dataset_is_asked(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(methods=["healthy"], dataset="tiny", plugins=[str(PLUGINS)], metrics=["psnr"])
    request = replace(request, cases=1, jobs=0, out=tmp_path / "run")
    order: list[str] = []
    for name in ("Outdated", "_doubts"):
        original = getattr(fusebench.engine.run, name)

        def noted(*of: object, name: str = name, original: Callable[..., object] = original) -> object:
            order.append(name)
            return original(*of)

        monkeypatch.setattr(fusebench.engine.run, name, noted)
    with LocalPool(0) as pool:
        execute(plan_run(request, pool), pool, None, lambda: order.append("joined"))
    assert order == ["joined", "Outdated", "_doubts"]


def test_failures_are_tried_again(bench: Bench, tmp_path: Path, rows: Rows) -> None:
    gone = tmp_path / "late"
    option = ("--data-option", f"vanish={gone}")
    assert bench("--methods", "healthy", *option) == 1
    gone.write_text("")
    assert bench("--methods", "healthy", *option) == 0
    assert set(rows().status) == {"ok"}


def test_dry_run_fuses_nothing(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--methods", "healthy,other", "--dry-run") == 0
    assert "6 of 6 fusions would run; results: 6 new" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert bench("--methods", "healthy") == 0
    capsys.readouterr()
    assert bench("--methods", "healthy,other", "--dry-run", "--seed", "0") == 0
    assert "3 of 6 fusions would run; results: 3 stored, 3 new" in capsys.readouterr().out


def test_volumes_can_be_kept_of_a_finished_run(
    bench: Bench, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--methods", "healthy", "--metrics", "psnr,lesion_auc")
    assert bench(*options) == 0
    before = rows()
    capsys.readouterr()
    assert bench(*options, "--save-fused", "--dry-run") == 0
    assert "2 of 3 fusions would run; results: 4 stored, 2 without the volume" in capsys.readouterr().out
    assert bench(*options, "--save-fused") == 0
    assert len(list((tmp_path / "run" / "fused" / "tiny").glob("*/healthy.nii.gz"))) == 3
    pd.testing.assert_series_equal(rows().value, before.value)
    capsys.readouterr()
    assert bench(*options, "--save-fused") == 0
    assert "0 fusions to do, 6 results stored" in capsys.readouterr().out


def test_collect_runs_nothing(bench: Bench, rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("--methods", "healthy", "--cases", "1") == 0
    capsys.readouterr()
    assert bench("--methods", "healthy,other", "--collect") == 0
    assert len(rows()) == 1
    assert "0 fusions to do, 1 result stored" in capsys.readouterr().out
    assert bench("--methods", "healthy", "--data-option", "salt=1", "--collect") == 2
    assert "no stored rows of these data. Left out" in capsys.readouterr().err


def test_collect_without_rows_is_an_error_and_makes_nothing(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("--methods", "healthy", "--collect", out=tmp_path / "wrong") == 2
    assert f"{tmp_path / 'wrong'}: no stored rows" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_protocols_come_as_asked_and_without_columns_of_skips(bench: Bench, tmp_path: Path) -> None:
    phantom = ["--dataset", "phantom", "--data-option", "size=32", "--cases", "2"]
    command = ["--methods", "average,max", "--protocol", "volume,slices", "--metrics", "psnr,lesion_auc"]
    assert bench(*phantom, *command) == 0
    # Rows that are skips come first: neither the order of the boards nor a rank follows from them.
    texts = [(tmp_path / "run" / f"leaderboard{part}.md").read_text() for part in ("", "-slices")]
    assert "Reading rank: over lesion\\_auc; Similarity rank: over psnr." in texts[0]
    assert "Similarity rank: over psnr." in texts[1] and "Reading rank" not in texts[1]
    assert "skip in 2 cases (lesion\\_auc): scored in protocol volume only (all methods)" in texts[1]


def test_saved_volume_has_the_affine_and_the_values(bench: Bench, tmp_path: Path) -> None:
    assert bench("--methods", "other", "--save-fused", "--cases", "2") == 0
    paths = sorted((tmp_path / "run" / "fused" / "tiny").glob("*/other.nii.gz"))
    assert len(paths) == 2
    image = nib.load(paths[0])
    assert np.array_equal(image.affine, np.eye(4))
    a, b = np.random.default_rng(0).random((2, 8, 8, 8), dtype=np.float32)
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), np.maximum(a, b))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "helthy"), "no method is called 'helthy'; did you mean healthy?"),
        (("--dataset", "tinny"), "no dataset is called 'tinny'; did you mean tiny?"),
        (("--metrics", "pnsr"), "no metric is called 'pnsr'; did you mean psnr?"),
        (("--metrics", "psnr@nobody"), "psnr has no variant 'nobody'"),
        (("--protocol", "best"), "no protocol is called 'best'"),
        (("--split", "holdout"), "dataset tiny has no split 'holdout'; it has test"),
        (("--set", "healthy.speed=3"), "healthy has no parameter 'speed'; it has pause"),
        (("--set", "other.x=1"), "--set other.x: other is not among the methods to run"),
        (("--set", "othr.x=1"), "no method is called 'othr'"),
        (("--set", "healthy"), "--set healthy: the form is NAME.PARAM=VALUE"),
        (("--data-option", "colour=red"), "tiny has no parameter 'colour'; it has count, size, salt, vanish"),
        (("--data-dir", "/no/such/folder"), "--data-dir /no/such/folder: no such folder"),
        (("--weights", "healthy=/no/file"), "healthy has no parameter 'weights'; it has pause"),
        (("--weights", "/no/file"), "--weights /no/file: the form is METHOD=FILE"),
        (("--weights", "other=/no/file"), "--weights other=/no/file: other is not among the methods to run"),
        (("--plugin", "/no/plugin.py"), "plugin /no/plugin.py: no such file or folder"),
        (("--device", "tpu9"), "--device tpu9: give auto, cpu, cuda or cuda:N"),
        (("--device", "meta"), "--device meta: give auto, cpu, cuda or cuda:N"),
        (("--device", "xpu:3"), "--device xpu:3: give auto, cpu, cuda or cuda:N"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(
    bench: Bench, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert bench("--methods", "healthy", *arguments) == 2
    err = capsys.readouterr().err.strip()
    assert message in err
    assert "\n" not in err


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [checked_device(d) for d in ("auto", "cuda", "cuda:1")] == ["cuda", "cuda", "cuda:1"]
    with pytest.raises(InputError, match=r"--device cuda:7: .* the last is cuda:1"):
        checked_device("cuda:7")


@pytest.mark.parametrize(
    ("arguments", "command", "message"),
    [
        (["--jobs", "-1"], "run", "argument --jobs: '-1' is too small; it must be 0 or more"),
        (["--cases", "0"], "run", "argument --cases: '0' is too small; it must be 1 or more"),
        (["score", "--fused-range", "a", "b"], "score", "argument --fused-range: "),
        (
            ["train", "dcfb", "--steps", "0"],
            "train",
            "argument --steps: '0' is too small; it must be 1 or more",
        ),
        (["history", "add"], "history add", "the following arguments are required: "),
    ],
)
def test_what_argparse_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], command: str, message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run_bench.py {command}: error: {message}")
    assert line.endswith(f"; see run_bench.py {command} --help")


def test_unwritable_out(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert bench("--methods", "healthy", out=blocked / "run") == 2
    assert "give a folder that can be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [("false", False), ("True", True), ("TRUE", True), ("3", 3), ("[1, 2]", [1, 2]), ("db4", "db4")],
)
def test_values_on_the_command_line_are_literals_or_text(text: str, value: object) -> None:
    assert literal(text) == value and type(literal(text)) is type(value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cases", "-1"), "'-1' is too small; it must be 1 or more"),
        (("--cases", "0"), "'0' is too small; it must be 1 or more"),
        (("--cases", "some"), "'some' is not a whole number"),
        (("--timeout", "-3"), "'-3' is too small; it must be 0 or more"),
        (("--timeout", "nan"), "'nan' is too small"),
        (("--memory", "0"), "'0' is too small; it must be 1 or more"),
        (("score", "--results-dir", ".", "--cases", "-1"), "it must be 1 or more"),
        (("prepare", "--dataset", "phantom", "--cases", "-1"), "it must be 1 or more"),
        (("prepare", "--dataset", "phantom", "--jobs", "-1"), "it must be 1 or more"),
        (("robustness", "--cases", "-1"), "it must be 1 or more"),
        (("report", "run", "--viewer-cases", "-1"), "it must be 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert end.value.code == 2
    assert message in capsys.readouterr().err
