"""Boards in a run folder: those of the rows that stand, and no others."""

from __future__ import annotations

import importlib
from pathlib import Path

from fusebench.store.folder import RunFolder

from .conftest import make_run, write_run

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
