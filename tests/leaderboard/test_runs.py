"""Several runs taken together: rows of one case count only where they are of the same data."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fusebench.errors import InputError

from .conftest import make_run, write_run

runs = importlib.import_module("fusebench.leaderboard.runs")
report = importlib.import_module("fusebench.leaderboard.report")
regression = importlib.import_module("fusebench.leaderboard.regression")


def of_data(folder: Path, method: str, prints: str | list[str], cases: int = 4) -> Path:
    """A run of one method whose cases have these fingerprints."""
    rows, manifest = make_run({method: 1.0}, cases=cases)
    manifest["run"]["id"] = folder.name
    named = dict(
        zip(rows["case"].unique(), [prints] * cases if isinstance(prints, str) else prints, strict=True)
    )
    return write_run(folder, rows.assign(fingerprint=rows["case"].map(named), run=folder.name), manifest)


def test_rows_of_other_data_than_the_newest_run_has_are_left_out_and_counted(tmp_path: Path) -> None:
    first = of_data(tmp_path / "first", "a", ["old", "new", "", "new"])
    second = of_data(tmp_path / "second", "b", "new")
    found = runs.load([first, second])
    kept = found.rows.groupby("method")["case"].nunique()
    assert kept.to_dict() == {"a": 3, "b": 4}
    assert [len(found.cases[folder]) for folder in (first, second)] == [3, 4]
    [(note,)] = found.left_out.values()
    assert note.startswith("6 rows of other data (a) left out; the newest run has other data for 1 case")
    report.write([first, second], tmp_path / "site", figures=False)
    assert (
        "6 rows of other data (a) left out"
        in (tmp_path / "site" / "tables" / "phantom-volume.md").read_text()
    )
    assert not runs.load([first]).left_out and not runs.load([second]).left_out


def test_in_one_folder_the_data_of_its_last_run_count(tmp_path: Path) -> None:
    old, _ = make_run({"b": 1.0}, cases=2)
    new, manifest = make_run({"a": 1.0}, cases=2)
    manifest["run"]["id"] = "r2"
    both = [new.assign(fingerprint="new", run="r2"), old.assign(fingerprint="old")]
    folder = write_run(tmp_path / "run", pd.concat(both, ignore_index=True), manifest)
    assert set(runs.load([folder]).rows["method"]) == {"a"}


def test_cases_of_other_data_are_not_compared(tmp_path: Path) -> None:
    base = runs.load([of_data(tmp_path / "base", "a", "old")])
    some = runs.load([of_data(tmp_path / "some", "a", ["old", "new", "old", ""])])
    result = regression.compare(base, some, baselines=[base])
    assert "1 case of other data in the new run than in the base, not compared." in result.notes
    assert {c.cases for c in result.changes if c.kind == "quality"} == {3} and not result.absent
    fewer = runs.load([of_data(tmp_path / "fewer", "a", "old", cases=3)])
    fewer.manifest["dataset"]["fingerprint"] = "of three"
    assert not any("data differ" in n for n in regression.compare(base, fewer).notes)
    assert any("data differ" in n for n in regression.compare(some, fewer).notes)  # a row says nothing
    new = runs.load([of_data(tmp_path / "new", "a", "new")])
    with pytest.raises(InputError, match=r"of other data than .*base in every case that both have \(4\)"):
        regression.compare(base, new)


def test_runs_that_loaded_their_cases_with_other_code_say_so(tmp_path: Path) -> None:
    said = []
    for name, method, code in (("one", "a", "x"), ("two", "b", "x"), ("three", "c", "y"), ("four", "d", "")):
        rows, manifest = make_run({method: 1.0}, cases=2)
        manifest["dataset"]["loading"] = code
        said.append(write_run(tmp_path / name, rows, manifest))
    one, two, three, four = said
    for folders, doubted in (([one, two, four], False), ([one, two, three], True)):
        report.write(folders, tmp_path / "site", figures=False)
        board = (tmp_path / "site" / "tables" / "phantom-volume.md").read_text()
        assert ("different code of the dataset" in board) == doubted


def of_version(
    folder: Path, methods: dict[str, str], cases: int, metric: str = "", threads: int = 1, seed: int = 0
) -> Path:
    """A run of methods with these keys, and of psnr and ssim, of which psnr has this source."""
    rows, manifest = make_run(dict.fromkeys(methods, 1.0), cases=cases, metrics=["psnr", "ssim"])
    for name, key in methods.items():
        manifest["methods"][name] |= {"key": key, "plugin": name}
    manifest["metric_files"] = {"psnr": {"file": "", "source": metric}}
    manifest["options"] = {"threads": threads, "seed": seed}
    return write_run(folder, rows.assign(seed=seed), manifest)


def test_rows_of_an_older_version_than_a_later_folder_has_are_left_out_and_counted(tmp_path: Path) -> None:
    first = of_version(tmp_path / "first", {"a": "old", "b": "same", "c": ""}, 3)
    second = of_version(tmp_path / "second", {"a": "new", "b": "same", "c": "new"}, 1)
    found = runs.load([first, second])
    assert found.rows.groupby("method")["case"].nunique().to_dict() == {"a": 1, "b": 3, "c": 3}
    assert found.gone[first] == {f"phantom/case-00{i}/a" for i in range(3)} and not found.gone[second]
    assert found.left_out["phantom", "volume"][0].startswith("6 rows left out, made with")
    report.write([first, second], tmp_path / "site", figures=False)
    board = (tmp_path / "site" / "tables" / "phantom-volume.md").read_text()
    assert "than a later folder has: a (3); run these methods again" in board
    assert runs.load([second, first]).rows.groupby("method")["case"].nunique()["a"] == 3


@pytest.mark.parametrize("other", [{"threads": 2}, {"seed": 1}, {"metric": "new"}])
def test_threads_seed_and_the_source_of_a_metric_are_of_the_version(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    first = of_version(tmp_path / "first", {"a": "x"}, 3, metric="old")
    second = of_version(tmp_path / "second", {"a": "x"}, 1, **{"metric": "old", **other})
    rows = runs.load([first, second]).rows
    cases = rows.groupby("metric")["case"].nunique().to_dict()
    assert cases == {"psnr": 1, "ssim": 3 if "metric" in other else 1}
