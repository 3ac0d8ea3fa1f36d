"""Scores that were never run are no failures: boards of folders that were filled bit by bit."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

from .conftest import make_run, with_readings

tables = importlib.import_module("fusebench.leaderboard.tables")
publish = importlib.import_module("fusebench.leaderboard.publish")

THREE = ["psnr", "ssim", "qabf"]


def places(board: Any) -> dict[str, int | None]:
    return {x.method: x.position for x in board.lines}


def line(board: Any, method: str) -> Any:
    return next(x for x in board.lines if x.method == method)


@pytest.mark.parametrize("others", [["max"], ["max", "dwt"]])
def test_a_metric_run_for_some_ranks_nobody(others: list[str]) -> None:
    rows, manifest = make_run({"average": 1.0, **dict.fromkeys(others, 0.0)}, metrics=THREE, noise=0.1)
    rows = rows[(rows["method"] != "average") | (rows["metric"] == "psnr")]
    board = tables.build(rows, manifest, "volume")
    assert board.ranking.metrics == ("psnr",)
    assert board.lines[0].method == "average" and board.lines[0].position == 1
    assert line(board, "average").cells["ssim"].n == 0 and line(board, "max").cells["ssim"].n == 8
    assert "Not ranked, since not run yet for average: ssim, qabf." in board.notes
    assert line(board, "average").ok == 8


@pytest.mark.parametrize("entries", [["theirs"], ["theirs", "more", "others"]])
def test_entries_of_images_do_not_add_metrics_to_a_ranking(entries: list[str]) -> None:
    four = ["psnr", "ssim", "mi", "qabf"]
    effects = {"average": 1.0, "max": 0.5, **{e: -1.0 - i for i, e in enumerate(entries)}}
    rows, manifest = make_run(effects, metrics=[*four, "nabf", "q_sf", "en"], noise=0.1)
    manifest["metrics"]["q_sf"]["ranked"] = True
    rows = rows[rows["method"].isin(entries) | rows["metric"].isin(four)]
    for entry in entries:
        manifest["methods"][entry]["origin"] = "files: theirs"
    board = tables.build(rows, manifest, "volume")
    assert board.ranking.metrics == tuple(four)
    assert places(board)["average"] == 1 and places(board)["max"] == 2
    assert all(places(board)[e] == 3 + i for i, e in enumerate(entries))


def test_a_stopped_run_gives_no_place_to_what_was_hardly_begun() -> None:
    effects = {f"m{i}": 2.0 - i / 4 for i in range(6)} | {"begun": 9.0, "waiting": 0.0}
    rows, manifest = make_run(effects, cases=8, noise=0.1)
    begun = (rows["method"] == "begun") & rows["case"].isin(["case-000", "case-001"])
    rows = rows[rows["method"].str.startswith("m") | begun]
    board = tables.build(rows, manifest, "volume")
    assert [x.method for x in board.lines] == [*(f"m{i}" for i in range(6)), "begun", "waiting"]
    assert line(board, "begun").place() == "–" and line(board, "begun").ok == 2
    assert line(board, "begun").reasons == ("no place, not run yet: 6 of 8 cases",)
    assert line(board, "waiting").reasons == ("not run yet",)
    # The scores of the others are as if nothing had been begun.
    alone = tables.build(rows[rows["method"] != "begun"], manifest, "volume")
    assert [x.average for x in board.lines[:6]] == [x.average for x in alone.lines[:6]]


def test_cases_that_some_lack_do_not_count_while_most_were_run() -> None:
    rows, manifest = make_run({"a": 0.0, "b": 0.5, "c": 1.0}, cases=8, metrics=["psnr"], noise=0.1)
    late = (rows["method"] == "a") & rows["case"].isin(["case-006", "case-007"])
    # On the cases that it lacks "c" would be worst by far.
    rows.loc[(rows["method"] == "c") & rows["case"].isin(["case-006", "case-007"]), "value"] = -50.0
    board = tables.build(rows[~late], manifest, "volume")
    assert [(x.method, x.average) for x in board.lines] == [("c", 1.0), ("b", 2.0), ("a", 3.0)]
    assert any("over 6 cases; 2 more were not run yet" in n for n in board.notes)


def test_a_failure_is_no_gap() -> None:
    rows, manifest = make_run({"a": 3.0, "b": 0.0}, cases=4, noise=0.0, fail={"a": [0, 1, 2]})
    board = tables.build(rows, manifest, "volume")
    assert places(board) == {"b": 1, "a": 2}
    dropped = tables.build(rows[rows["status"] == "ok"], manifest, "volume")
    assert places(dropped) == {"a": 1, "b": 2}  # on the one case that both were run on


@pytest.mark.parametrize("seed", range(20))
def test_failing_never_lifts_a_method_above_one_that_finished(seed: int) -> None:
    rng = np.random.default_rng(seed)
    effects = {m: float(rng.normal()) for m in "abcd"}
    rows, manifest = make_run(effects, cases=6, seed=seed, metrics=THREE)
    whole = tables.build(rows, manifest, "volume")
    spoilt = rows.copy()
    at = (spoilt["method"] == "a") & spoilt["case"].isin(
        rng.choice(spoilt["case"].unique(), 2, replace=False)
    )
    spoilt.loc[at, ["value", "status", "reason"]] = [None, "timeout", "900 s"]
    board = tables.build(spoilt, manifest, "volume")
    assert places(board)["a"] >= places(whole)["a"]


def test_nothing_in_common_is_no_ranking() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=4, metrics=["psnr", "ssim"])
    rows = rows[(rows["method"] == "a") == (rows["metric"] == "psnr")]
    board = tables.build(rows, manifest, "volume")
    assert places(board) == {"a": None, "b": None}
    assert "nothing was run for every method" in board.notes[0]


def test_a_control_that_was_not_run_on_all_cases_has_no_would_be_rank() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0, "copy": 5.0}, cases=4, controls=("copy",), noise=0.1)
    board = tables.build(rows[(rows["method"] != "copy") | (rows["case"] == "case-000")], manifest, "volume")
    assert line(board, "copy").standing.short == "–"
    assert line(tables.build(rows, manifest, "volume"), "copy").standing.short == "(1.00)"


# -- two rankings ------------------------------------------------------------------------------------

LIKE = {"blur": 2.0, "mid": 1.0, "sharp": 0.0, "copy": 4.0}
READ = {"blur": 0.0, "mid": 1.0, "sharp": 2.0, "copy": -2.0}


def test_readings_join_the_main_board_and_give_the_places() -> None:
    rows, manifest = with_readings(LIKE, READ, controls=("copy",), noise=0.1, metrics=["psnr", "ssim", "mi"])
    assert tables.boards_of(["volume", "readers", "paper"]) == ["volume", "paper"]
    assert tables.boards_of(["readers", "slices"]) == ["readers", "slices"]
    board = tables.build(rows, manifest, "volume")
    assert board.by == "reading" and "volume and readers" in board.title
    assert [x.method for x in board.methods] == ["sharp", "mid", "blur"]
    assert {x.method: x.ranks["similarity"].average for x in board.methods} == {
        "sharp": 3,
        "mid": 2,
        "blur": 1,
    }
    # The worst share counts for the readings that it is made of; they stand beside it.
    assert board.rankings["reading"].metrics == ("reading",)
    assert [c.id for c in board.shown][:5] == ["reading", "cho_auc.a", "cho_auc.b", "outline", "psnr"]
    for by, first in (("similarity", "blur"), ("reading", "sharp")):
        assert tables.build(rows, manifest, "volume", rank_by=by).lines[0].method == first
    both = tables.build(rows, manifest, "volume", rank_by="all")
    assert set(both.ranking.metrics) >= {"reading", "psnr"} and list(both.rankings) == ["all"]


def test_a_method_without_readings_has_a_similarity_rank_and_no_place() -> None:
    rows, manifest = with_readings(LIKE, READ, controls=("copy",), noise=0.1)
    rows = rows[(rows["method"] != "blur") | (rows["protocol"] == "volume")]
    board = tables.build(rows, manifest, "volume")
    assert places(board) == {"sharp": 1, "mid": 2, "blur": None, "copy": None}
    assert line(board, "blur").ranks["similarity"].average == 1
    assert "no place, not run yet: reading" in line(board, "blur").reasons[0]


def test_metrics_that_a_control_wins_leave_the_similarity_rank_and_stay_on_the_board() -> None:
    rows, manifest = make_run(
        {"a": 1.0, "b": 0.0, "copy": -3.0}, controls=("copy",), noise=0.1, metrics=THREE
    )
    rows.loc[(rows["method"] == "copy") & (rows["metric"] == "ssim"), "value"] = 2.0
    board = tables.build(rows, manifest, "volume")
    assert board.ranking.metrics == ("psnr", "qabf")
    assert "ssim" in {c.id for c in board.shown} and next(c for c in board.columns if c.id == "ssim").gameable
    assert any("ssim (copy). Not in the average ranks" in n for n in board.notes)
    # Who names metrics gets them.
    assert tables.build(rows, manifest, "volume", THREE).ranking.metrics == tuple(THREE)


def test_a_run_that_did_not_end_is_said() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=4, metrics=["psnr"])
    for ended in (None, True, False):
        manifest["run"] = {**manifest["run"], "ended": ended}
        board = tables.build(rows, manifest, "volume")
        assert any("has not ended" in note for note in board.notes) == (ended is False)


def test_rows_of_another_split_are_left_out_and_counted() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=4, metrics=["psnr"])
    other = rows.assign(split="val", case=rows["case"] + "-v", value=99.0)
    board = tables.build(pd.concat([rows.assign(split="test"), other]), manifest, "volume")
    assert len(board.scores.cases) == 4 and line(board, "a").cells["psnr"].mean < 90
    assert any("8 rows of another split (val) left out" in n for n in board.notes)
    manifest["options"] = {"seed": 0}
    mixed = tables.build(rows.assign(seed=(rows["method"] == "b").astype(int)), manifest, "volume")
    assert any("4 rows made under another seed than 0: b" in n for n in mixed.notes)


def test_a_specialist_that_copies_one_source_has_no_place_for_it() -> None:
    reading = {"fair": 0.0, "poor": -1.0, "copy": -3.0}
    rows, manifest = with_readings(reading, reading, controls=("copy",), noise=0.05)
    rows.loc[(rows["metric"] == "cho_auc.b") & (rows["method"] == "copy"), "value"] = 1.0
    lesions, facts = make_run({"fair": 0.0, "poor": 1.0, "copy": 5.0}, metrics=["lesion_auc"], noise=0.05)
    manifest["metrics"] |= facts["metrics"]
    board = tables.build(pd.concat([rows, lesions]), manifest, "volume")
    # The copy wins the lesions, so that they do not count; it is last by what does.
    assert board.ranking.metrics == ("reading",) and board.methods[0].method == "fair"
    assert line(board, "copy").standing.average == 3
    without = tables.build(rows.assign(protocol="volume").query("metric != 'reading'"), manifest, "volume")
    assert set(without.rankings["reading"].metrics) == {"cho_auc.a", "outline"}
