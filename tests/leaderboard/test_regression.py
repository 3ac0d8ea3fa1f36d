"""The regression guard: finds what was planted, and nothing else."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusebench.cli import main
from fusebench.errors import InputError

from .conftest import make_run, write_run

regression = importlib.import_module("fusebench.leaderboard.regression")
runs = importlib.import_module("fusebench.leaderboard.runs")

EFFECTS = {"a": 1.0, "b": 0.0, "c": -1.0}


def as_runs(rows: pd.DataFrame, manifest: dict[str, Any]) -> Any:
    return runs.Runs((), rows, manifest)


def planted(rows: pd.DataFrame, method: str, metric: str, by: float, case: str | None = None) -> pd.DataFrame:
    where = (rows["method"] == method) & (rows["metric"] == metric)
    if case is not None:
        where &= rows["case"] == case
    return rows.assign(value=rows["value"].where(~where, rows["value"] + by))


@pytest.fixture
def base() -> tuple[pd.DataFrame, dict[str, Any]]:
    return make_run(EFFECTS, cases=8)


@pytest.mark.parametrize("case", [None, "case-003"])
def test_a_planted_loss_of_a_ten_thousandth_is_found(base: Any, case: str | None) -> None:
    rows, manifest = base
    result = regression.compare(as_runs(*base), as_runs(planted(rows, "b", "psnr", -1e-4, case), manifest))
    assert [(c.method, c.metric, c.kind) for c in result.of("loss")] == [("b", "psnr", "quality")]
    (loss,) = result.of("loss")
    assert loss.change == pytest.approx(-1e-4 / (1 if case is None else 8), rel=1e-6)
    assert "worst case" in loss.detail and "got worse" in result.to_markdown()


def test_direction_decides_what_a_loss_is(base: Any) -> None:
    rows, manifest = base
    up = planted(planted(rows, "b", "psnr", 1e-3), "b", "nabf", 1e-3)
    result = regression.compare(as_runs(*base), as_runs(up, manifest))
    assert [c.metric for c in result.of("loss")] == ["nabf"]
    assert [c.metric for c in result.of("gain")] == ["psnr"]


def test_descriptive_metrics_are_not_compared(base: Any) -> None:
    rows, manifest = base
    assert not regression.compare(as_runs(*base), as_runs(planted(rows, "a", "en", -1.0), manifest)).lost


def test_identical_runs_pass(base: Any) -> None:
    result = regression.compare(as_runs(*base), as_runs(*base))
    assert not result.lost and {c.verdict for c in result.changes} == {"same"}


def test_rounding_is_no_loss_however_large_the_value(base: Any) -> None:
    rows, manifest = base
    big = rows.assign(value=rows["value"] * 1e4)
    off = big.assign(value=big["value"] * (1 - 3e-7))
    assert not regression.compare(as_runs(big, manifest), as_runs(off, manifest)).lost


def test_each_metric_has_its_tolerance(base: Any) -> None:
    rows, manifest = base
    wide = {**manifest["metrics"]["psnr"], "tolerances": {"tool": 0.01}}
    manifest = {**manifest, "metrics": {**manifest["metrics"], "psnr": wide}}
    renamed = rows.assign(metric=rows["metric"].replace("psnr", "psnr@tool"))
    for by, lost in ((-0.005, False), (-0.9, True)):
        for before, metric, expected in ((rows, "psnr", True), (renamed, "psnr@tool", lost)):
            off = planted(before, "b", metric, by)
            result = regression.compare(as_runs(before, manifest), as_runs(off, manifest))
            assert result.lost == expected, (by, metric)
    # One for all overrides it.
    off = planted(renamed, "b", "psnr@tool", -0.005)
    assert regression.compare(as_runs(renamed, manifest), as_runs(off, manifest), tolerance=1e-6).lost


def test_a_method_may_have_a_tolerance_too(base: Any) -> None:
    rows, manifest = base
    stated = {**manifest["methods"], "b": {**manifest["methods"]["b"], "tolerance": 0.01}}
    wide = {**manifest, "methods": stated}
    for method, by, lost in (("b", -0.005, False), ("b", -0.9, True), ("a", -0.005, True)):
        off = planted(rows, method, "psnr", by)
        assert regression.compare(as_runs(rows, wide), as_runs(off, wide)).lost == lost, (method, by)


def test_a_case_that_now_fails_is_a_loss(base: Any) -> None:
    rows, manifest = make_run(EFFECTS, cases=8, fail={"c": [2]})
    result = regression.compare(as_runs(*base), as_runs(rows, manifest))
    (loss,) = [c for c in result.of("loss") if c.kind == "failure"]
    assert (loss.method, loss.cases) == ("c", 1) and "planted failure" in loss.detail


def test_what_is_not_in_both_is_said(base: Any) -> None:
    rows, manifest = base
    fewer = rows[(rows["method"] != "a") & (rows["case"] != "case-000")]
    notes = " ".join(regression.compare(as_runs(*base), as_runs(fewer, manifest)).notes)
    assert "only in the base, not compared: a" in notes and "1 case only in the base" in notes


def test_a_score_that_is_now_skipped_is_a_loss(base: Any) -> None:
    rows, manifest = base
    gone = (rows["method"] == "c") & (rows["metric"] == "psnr")
    skipped = rows.assign(
        value=rows["value"].mask(gone), status=rows["status"].mask(gone, "skip"), reason="not defined"
    )
    (loss,) = regression.compare(as_runs(*base), as_runs(skipped, manifest)).of("loss")
    assert (loss.kind, loss.method, loss.cases) == ("failure", "c", 8)
    assert loss.detail == "skip in psnr: not defined"


def test_a_value_that_became_nan_is_a_loss(base: Any) -> None:
    rows, manifest = base
    gone = rows["method"].eq("c") & rows["metric"].eq("psnr") & rows["case"].isin(["case-001", "case-002"])
    undefined = as_runs(rows.assign(value=rows["value"].mask(gone)), manifest)
    (loss,) = regression.compare(as_runs(*base), undefined).of("loss")
    assert (loss.kind, loss.method, loss.cases, loss.detail) == ("failure", "c", 2, "not defined in psnr")
    # What was not defined before is no loss, and hides none of the other cases.
    assert not regression.compare(undefined, undefined).lost
    worse = as_runs(planted(undefined.rows, "c", "psnr", -1e-3), manifest)
    assert [c.cases for c in regression.compare(undefined, worse).of("loss")] == [6]


def test_scores_that_are_gone_are_counted(base: Any) -> None:
    rows, manifest = base
    few = rows[(rows["method"] != "a") | (rows["case"] == "case-000")]
    result = regression.compare(as_runs(*base), as_runs(few, manifest))
    assert not result.lost and result.absent == 7 * 6
    assert "nothing got worse, 42 scores of the base not in the new run" in result.to_markdown()
    assert any("not compared: a 42." in n for n in result.notes)
    without = regression.compare(as_runs(*base), as_runs(rows[rows["metric"] != "ssim"], manifest))
    assert without.absent == 24 and "Metrics only in the base, not compared: ssim." in without.notes


def test_fewer_methods_on_fewer_cases_compare_with_a_larger_history(base: Any) -> None:
    rows, manifest = base
    mine = rows[(rows["method"] == "b") & rows["case"].isin(["case-000", "case-001"])]
    assert not regression.compare(as_runs(*base), as_runs(mine, manifest)).lost
    assert regression.compare(as_runs(*base), as_runs(planted(mine, "b", "psnr", -1e-4), manifest)).lost


def test_runs_that_share_nothing_are_refused(base: Any) -> None:
    rows, manifest = base
    other = rows.assign(method=rows["method"] + "-other")
    with pytest.raises(InputError, match="new: no score in common with base"):
        regression.compare(
            runs.Runs((Path("base"),), rows, manifest), runs.Runs((Path("new"),), other, manifest)
        )


def gpu(rows: pd.DataFrame, jitter: float, seed: int, loss: float = 0.0) -> pd.DataFrame:
    noise = np.random.default_rng(seed).normal(scale=jitter, size=len(rows))
    where = (rows["method"] == "b") & (rows["metric"] == "psnr")
    return rows.assign(device="cuda", value=rows["value"] + noise - loss * where)


def test_off_the_cpu_a_paired_test_decides() -> None:
    rows, manifest = make_run(EFFECTS, cases=30)
    first = as_runs(gpu(rows, 1e-3, 0), manifest)
    assert not regression.compare(first, as_runs(gpu(rows, 1e-3, 1), manifest)).lost
    worse = regression.compare(first, as_runs(gpu(rows, 1e-3, 2, loss=0.2), manifest))
    assert [(c.method, c.metric) for c in worse.of("loss")] == [("b", "psnr")]
    assert worse.of("loss")[0].p < 0.05
    # Significant but far below the minimum effect: no loss.
    assert not regression.compare(first, as_runs(gpu(rows, 1e-3, 3, loss=0.01), manifest)).lost


def test_an_infinite_score_among_the_base_does_not_blind_the_test() -> None:
    rows, manifest = make_run(EFFECTS, cases=12)
    copy = (rows["method"] == "b") & (rows["metric"] == "psnr") & (rows["case"] == "case-000")
    first = rows.assign(device="cuda", value=rows["value"].mask(copy, np.inf))
    worse = planted(first, "b", "psnr", -18.0)
    result = regression.compare(as_runs(first, manifest), as_runs(worse, manifest))
    assert [(c.method, c.metric) for c in result.of("loss")] == [("b", "psnr")]
    assert np.isfinite(result.of("loss")[0].limit)


def slower(
    rows: pd.DataFrame, factor: float, method: str = "b", column: str = "fuse_seconds"
) -> pd.DataFrame:
    return rows.assign(**{column: rows[column].where(rows["method"] != method, rows[column] * factor)})


@pytest.mark.parametrize(("column", "kind"), [("fuse_seconds", "seconds"), ("memory_mb", "memory")])
def test_costs_warn_beyond_the_learned_band_and_gate_on_request(column: str, kind: str) -> None:
    repeats = [as_runs(*make_run(EFFECTS, cases=8, seed=0)) for _ in range(6)]
    rng = np.random.default_rng(0)
    for r in repeats:
        r.rows["fuse_seconds"] *= rng.normal(1, 0.02, len(r.rows))
    rows, manifest = make_run(EFFECTS, cases=8, seed=0)
    new = as_runs(slower(rows, 1.3, column=column), manifest)
    result = regression.compare(repeats[0], new, baselines=repeats[1:])
    assert not result.lost
    assert [(c.method, c.kind) for c in result.of("warning")] == [("b", kind)]
    assert result.of("warning")[0].change == pytest.approx(1.3, rel=0.05)
    assert regression.compare(repeats[0], new, baselines=repeats[1:], gate_costs=True).lost


def test_without_baselines_the_assumed_band_is_named(base: Any) -> None:
    notes = regression.compare(as_runs(*base), as_runs(*base)).notes
    assert any("assumed" in n and "--baseline" in n for n in notes)


def benchmark_once(volumes: list[Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A real little benchmark: three fusion rules, timed, scored with a PSNR."""
    rules = {
        "a": lambda x, y: (x + y) / 2,
        "b": np.maximum,
        "c": lambda x, y: np.fft.ifftn((np.fft.fftn(x) + np.fft.fftn(y)) / 2).real,
    }
    rows, manifest = make_run(EFFECTS, cases=len(volumes), metrics=["psnr"])
    values, seconds = [], []
    for rule in rules.values():
        for x, y in volumes:
            start = time.perf_counter()
            fused = rule(x, y)
            seconds.append(time.perf_counter() - start)
            values.append(-10 * np.log10((np.square(fused - x).mean() + np.square(fused - y).mean()) / 2))
    return rows.assign(value=values, fuse_seconds=seconds), manifest


def test_fifty_repeats_of_one_benchmark_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    volumes = [(rng.random((24, 24, 24)), rng.random((24, 24, 24))) for _ in range(4)]
    benchmark_once(volumes)
    baselines = [as_runs(*benchmark_once(volumes)) for _ in range(4)]
    alarms = 0
    for _ in range(50):
        result = regression.compare(baselines[0], as_runs(*benchmark_once(volumes)), baselines=baselines[1:])
        alarms += result.lost
    assert alarms == 0


def test_command_line_exit_codes_and_files(
    base: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, manifest = base
    one = write_run(tmp_path / "one", rows, manifest)
    two = write_run(tmp_path / "two", planted(rows, "b", "psnr", -1e-4), manifest)
    assert main(["compare", str(one), str(one)]) == 0
    files = ["--markdown", str(tmp_path / "out" / "s.md"), "--json", str(tmp_path / "out" / "s.json")]
    assert main(["compare", str(one), str(two), *files]) == 1
    assert "### FuseBench: got worse" in (tmp_path / "out" / "s.md").read_text()
    content = json.loads((tmp_path / "out" / "s.json").read_text())
    assert content["lost"] and any(c["verdict"] == "loss" and c["method"] == "b" for c in content["changes"])
    (tmp_path / "full.json").mkdir()
    assert main(["compare", str(one), str(two), "--json", str(tmp_path / "full.json")]) == 2
    assert "full.json: cannot be written (Is a directory)" in capsys.readouterr().err
    assert main(["compare", str(one), str(tmp_path / "none")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "none" in message and "run folder" in message


def test_a_person_sees_a_table_and_a_pipe_gets_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, manifest = make_run({"my_method": 1.0, "y": 0.0}, cases=3)
    one = write_run(tmp_path / "one", rows, manifest)
    two = write_run(tmp_path / "two", planted(rows, "my_method", "psnr", -1.0), manifest)
    for person in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda person=person: person, raising=False)
        assert main(["compare", str(one), str(two)]) == 1
        assert ("my_method" in (out := capsys.readouterr().out)) == person, out


def test_a_history_store_serves_as_base(base: Any, tmp_path: Path) -> None:
    rows, manifest = base
    for i in range(3):
        at = {**manifest, "git": {"commit": f"{i}" * 40}}
        at["run"] = {**manifest["run"], "created": f"2026-01-0{i + 1}T00:00:00Z"}
        run = write_run(tmp_path / f"run{i}", planted(rows, "b", "psnr", 0.1 * i), at)
        assert main(["history", "add", str(run), "--store", str(tmp_path / "store")]) == 0
    # Worse than the newest commit, better than the oldest.
    new = write_run(tmp_path / "new", planted(rows, "b", "psnr", 0.15), manifest)
    assert main(["compare", str(tmp_path / "store"), str(new)]) == 1
    assert main(["compare", str(tmp_path / "run0"), str(new)]) == 0


def test_markdown_escapes_names() -> None:
    rows, manifest = make_run({"<b>|x": 1.0, "y": 0.0}, cases=3)
    worse = planted(rows, "<b>|x", "psnr", -1.0)
    text = regression.compare(as_runs(rows, manifest), as_runs(worse, manifest)).to_markdown()
    assert "<b>" not in text and r"&lt;b&gt;\|x" in text


def test_an_infinite_score_in_both_runs_is_no_change(base: Any) -> None:
    rows, manifest = base
    copy = rows.assign(value=rows["value"].where(rows["method"] != "a", np.inf))
    assert not regression.compare(as_runs(copy, manifest), as_runs(copy, manifest)).lost
    assert regression.compare(as_runs(copy, manifest), as_runs(*base)).lost
