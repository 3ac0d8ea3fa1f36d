"""History over commits: the store, step detection, and the chart."""

from __future__ import annotations

import hashlib
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fusebench.cli import main
from fusebench.errors import InputError

from .conftest import make_run, write_run

history = importlib.import_module("fusebench.leaderboard.history")


def sha(i: int) -> str:
    return hashlib.sha1(str(i).encode()).hexdigest()


def fill(store: Path, tmp_path: Path, commits: int = 30, jitter: float = 0.05) -> None:
    """30 commits: `net` 30 % slower from commit 18, PSNR of `good` lower by 0.01 from commit 11."""
    rows, manifest = make_run({"good": 1.0, "net": 0.5, "poor": 0.0}, cases=6, metrics=["psnr", "nabf"])
    rng = np.random.default_rng(7)
    for i in range(commits):
        # A slow machine shifts all cases of a method together, and now and then one run is far off.
        shift = np.exp(rng.normal(0, jitter, 3)) * np.where(rng.random(3) < 0.05, 1.8, 1.0)
        factor = rows["method"].map(dict(zip(("good", "net", "poor"), shift, strict=True)))
        seconds = rows["fuse_seconds"] * factor * np.where((rows["method"] == "net") & (i >= 18), 1.3, 1.0)
        step = (rows["method"] == "good") & (rows["metric"] == "psnr") & (i >= 11)
        at = {**manifest, "git": {"commit": sha(i)}}
        day = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=i)
        at["run"] = {**manifest["run"], "created": day.isoformat()}
        run = write_run(
            tmp_path / "run", rows.assign(fuse_seconds=seconds, value=rows["value"] - 0.01 * step), at
        )
        history.add(run, store)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history")
    fill(folder / "store", folder)
    return folder / "store"


def test_exactly_the_planted_steps_are_marked(store: Path) -> None:
    found = [s for x in history.collect(history.read(store)) for s in history.steps(x)]
    assert [(s.series.kind, s.series.name, s.index, s.worse) for s in found] == [
        ("quality", "good", 11, True),
        ("seconds", "net", 18, True),
    ]
    assert found[1].after / found[1].before == pytest.approx(1.3, abs=0.08)
    assert found[0].before - found[0].after == pytest.approx(0.01, rel=1e-6)


def test_chart_draws_every_group_and_names_the_steps(store: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["history", "chart", "--store", str(store), "--out", str(tmp_path / "chart")]) == 0
    printed = capsys.readouterr().out
    assert f"{sha(18)[:12]}  phantom, seconds, net" in printed and "worse" in printed
    page = (tmp_path / "chart" / "index.html").read_text()
    assert sha(11)[:12] in page and sha(18)[:12] in page and page.count("<tr data-search") == 2
    for stem in ("phantom--volume--psnr", "phantom--volume--nabf", "phantom--seconds"):
        files = list((tmp_path / "chart" / "figures").glob(f"{stem}*"))
        assert {f.suffix for f in files} == {".png", ".svg"} and f'src="figures/{files[0].stem}.png"' in page


def test_noise_alone_is_never_a_step() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for i in range(120):
        draw = rng.normal(0, 0.05, 30) if i % 2 else rng.standard_t(3, 30) * 0.05
        commits = [sha(c) for c in range(30)]
        false += len(history.steps(history.Series("seconds", "g", "m", "lower", commits, np.exp(draw))))
    assert false <= 1


def test_a_constant_series_has_no_step_and_rounding_is_none() -> None:
    commits = [sha(c) for c in range(12)]
    for values in (
        np.full(12, 20.0),
        20 + 1e-9 * np.arange(12),
        np.r_[np.full(6, 20.0), np.full(6, 20 + 1e-7)],
    ):
        assert history.steps(history.Series("quality", "g", "m", "higher", commits, values)) == []


def test_a_panel_of_equal_scores_has_a_sensible_span() -> None:
    series = history.Series("quality", "g", "m", "higher", [sha(c) for c in range(8)], np.full(8, 20.0))
    (ax,) = history.over_commits("g", [series], []).axes
    low, high = ax.get_ylim()
    assert high - low == pytest.approx(20 * history.LEAST_SPAN)


def test_gaps_are_skipped() -> None:
    values = np.r_[np.full(8, 1.0), np.full(8, 2.0)]
    values[[0, 5, 8]] = np.nan
    series = history.Series("quality", "g", "m", "lower", [sha(i) for i in range(16)], values)
    (step,) = history.steps(series)
    assert step.index == 9 and step.worse


def test_a_commit_is_kept_once(tmp_path: Path) -> None:
    rows, manifest = make_run({"a": 0.0}, cases=2)
    manifest["git"] = {"commit": sha(1)}
    run = write_run(tmp_path / "run", rows, manifest)
    first = history.add(run, tmp_path / "store")
    second = history.add(run, tmp_path / "store", time="2026-12-24T00:00:00Z")
    assert not first.exists() and [second] == list((tmp_path / "store").iterdir())
    assert second.stat().st_size < 30_000


def test_pytest_benchmark_files_are_read(tmp_path: Path) -> None:
    content = {
        "datetime": "2026-02-03T04:05:06+00:00",
        "commit_info": {"id": sha(5)},
        "benchmarks": [{"fullname": "benchmarks/test_x.py::test_y", "stats": {"min": 0.25, "iqr": 0.01}}],
    }
    (tmp_path / "b.json").write_text(json.dumps(content))
    assert main(["history", "add", str(tmp_path / "b.json"), "--store", str(tmp_path / "store")]) == 0
    (series,) = history.collect(history.read(tmp_path / "store"))
    assert (series.kind, series.name, series.values.tolist()) == (
        "seconds",
        "benchmarks/test_x.py::test_y",
        [0.25],
    )
    # And beside a run of the same commit.
    rows, manifest = make_run({"a": 0.0}, cases=2, metrics=["psnr"])
    run = write_run(tmp_path / "run", rows, {**manifest, "git": {"commit": sha(5)}})
    history.add(run, tmp_path / "store", benchmarks=[tmp_path / "b.json"])
    names = {(s.kind, s.name) for s in history.collect(history.read(tmp_path / "store"))}
    assert names == {("quality", "a"), ("seconds", "a"), ("seconds", "benchmarks/test_x.py::test_y")}


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InputError, match="not a pytest-benchmark file"):
        history.add(tmp_path / "b.json", tmp_path / "store")
    rows, manifest = make_run({"a": 0.0}, cases=2)
    run = write_run(tmp_path / "run", rows, {**manifest, "git": {"commit": ""}})
    with pytest.raises(InputError, match="--commit"):
        history.add(run, tmp_path / "store")
    with pytest.raises(InputError, match="--time"):
        history.add(run, tmp_path / "store", commit=sha(1), time="yesterday-ish")
    undated = {"benchmarks": [{"fullname": "x", "stats": {"min": 0.25, "iqr": 0.01}}]}
    (tmp_path / "b.json").write_text(json.dumps(undated))
    with pytest.raises(InputError, match=r"b\.json: .. is no time; give --time"):
        history.add(tmp_path / "b.json", tmp_path / "store", commit=sha(1))
    with pytest.raises(InputError, match="no history there"):
        history.read(tmp_path / "store")


# -- files of others ---------------------------------------------------------------------------------

GOOD = {"fullname": "test_x.py::test_speed", "stats": {"min": 1.0, "iqr": 0.1}}
COMMIT = {"commit_info": {"id": "0123abcd"}, "datetime": "2026-01-01"}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[]",
        json.dumps({**COMMIT, "benchmarks": [{**GOOD, "fullname": "../../x"}]}),
        json.dumps({**COMMIT, "benchmarks": [{**GOOD, "fullname": ["a"]}]}),
        json.dumps({**COMMIT, "benchmarks": [{**GOOD, "stats": {"min": 10**400, "iqr": 0}}]}),
        json.dumps({**COMMIT, "benchmarks": [{**GOOD, "stats": {"min": float("nan"), "iqr": 0}}]}),
        json.dumps({**COMMIT, "benchmarks": [{**GOOD, "stats": None}]}),
        json.dumps({"benchmarks": [GOOD], "commit_info": "x", "datetime": "2026-01-01"}),
    ],
)
def test_a_benchmark_file_that_could_not_be_charted_is_not_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"b\.json: .*; make it again with pytest --benchmark-json$"):
        history.add(path, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_benchmark_file_without_a_commit_says_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"benchmarks": [GOOD], "commit_info": None, "datetime": "2026-01-01"}))
    with pytest.raises(InputError, match="give --commit SHA"):
        history.add(path, tmp_path / "store")
    assert history.add(path, tmp_path / "store", commit="0123abcd").exists()
    assert len(history.read(tmp_path / "store")) == 1


@pytest.mark.parametrize("time", ["0001-01-01T00:00+23:00", "9999-12-31T23:59-23:00", "0001-01-01", "soon"])
def test_a_time_of_no_commit_is_a_line(tmp_path: Path, time: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({**COMMIT, "benchmarks": [GOOD]}))
    with pytest.raises(InputError, match="is no time; give --time as"):
        history.add(path, tmp_path / "store", time=time)


@pytest.mark.parametrize("said", [b"nope", b"[" * 100_000, b"null", b'{"methods": []}', b'{"git": "x"}'])
def test_a_file_of_the_store_with_odd_facts_is_a_line(tmp_path: Path, said: bytes) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({**COMMIT, "benchmarks": [GOOD]}))
    kept = history.add(path, tmp_path / "store")
    table = pq.read_table(kept)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"fusebench": said}), kept)
    with pytest.raises(InputError, match=r"\.parquet.*; delete it and add the run again with `history add`$"):
        history.read(tmp_path / "store")
