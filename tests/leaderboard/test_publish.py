"""Boards in a run folder: those of the rows that stand, and no others."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fusebench.store.folder import RunFolder

from .conftest import make_run, write_run
from .test_site import store_volumes

publish = importlib.import_module("fusebench.leaderboard.publish")


def test_boards_of_protocols_without_rows_are_removed(tmp_path: Path) -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=3, protocols=("volume", "slices"))
    folder = RunFolder(write_run(tmp_path, rows, manifest))
    publish.write(folder, publish.boards(folder, rows))
    assert {p.name for p in tmp_path.glob("leaderboard-*")} == {
        f"leaderboard-slices.{x}" for x in ("csv", "md", "tex")
    }
    (tmp_path / "leaderboard-mine.csv").write_text("mine")
    (tmp_path / "leaderboard-slices.txt").write_text("mine")
    publish.write(folder, publish.boards(folder, rows[rows["protocol"] == "volume"]))
    assert {p.name for p in tmp_path.glob("leaderboard-*")} == {
        "leaderboard-mine.csv",
        "leaderboard-slices.txt",
    }
    assert (tmp_path / "leaderboard.csv").is_file()


def test_a_damaged_volume_costs_the_contact_sheet_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0}, cases=3)
    folder = RunFolder(write_run(tmp_path, rows, manifest))
    store_volumes(tmp_path, "case-000", ["a", "b"])
    damaged = folder.fused("phantom", "case-000", "a")
    damaged.write_bytes(damaged.read_bytes()[:-9])
    paths = publish.write(folder, publish.boards(folder, rows))
    assert tmp_path / "leaderboard.csv" in paths and folder.rows.exists()
    assert f"note: no contact sheet: {damaged}: not a readable NIfTI file" in capsys.readouterr().err
