"""The board in the terminal, and the options of the command line that shape it."""

from __future__ import annotations

import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fusebench.cli import main

from .conftest import make_run, with_readings, write_run

tables = importlib.import_module("fusebench.leaderboard.tables")

NAMES = ["dcfb@published", "densefuse2d", *(f"method-{i}" for i in range(14))]
EFFECTS = {m: i / 4 for i, m in enumerate(NAMES)} | {"source-mri": 0.1, "blend@0.35": 0.2}
USUAL = ["psnr", "ssim", "mi", "qabf", "nabf"]


@pytest.fixture(scope="module")
def board() -> Any:
    run = with_readings(EFFECTS, EFFECTS, controls=("source-mri", "blend@0.35"), metrics=USUAL)
    return tables.build(*run, "volume")


def printed(board: Any, width: int, **options: Any) -> list[str]:
    out = io.StringIO()
    board.to_terminal(Console(file=out, width=width), **options)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [100, 120, 250])
def test_one_table_of_at_most_100_columns_comes_last(board: Any, width: int) -> None:
    lines = printed(board, width)
    (head,) = (i for i, line in enumerate(lines) if line.lstrip().startswith("# method"))
    table = lines[head - 1 :]
    assert max(map(len, table)) <= 100
    assert len(table) == 2 + len(board.lines) + 1  # a blank line before the controls
    assert table[2].lstrip().startswith("1 ") and "blend@0.35" in " ".join(table[-2:])
    for word in (
        "read.",
        "simil.",
        "worst",
        "cho_auc",
        ".a",
        ".b",
        "outline",
        "psnr",
        "ssim",
        "mi",
        "qabf",
    ):
        assert word in table[0] + table[1]
    best = board.lines[0]
    for text in (best.ranks["reading"].short, best.ranks["similarity"].short, best.cells["mi"].mean_text(3)):
        assert text in table[2].split()
    # A number is whole: every line has as many fields as the first.
    assert len({len(line.split()) for line in table[2 : 2 + len(board.methods)]} - {14, 15}) == 0


def test_where_names_are_long_headings_are_broken_before_a_reading_is_left_out(board: Any) -> None:
    spare = 100 - max(map(len, printed(board, 100)[-len(board.lines) - 3 :]))
    widest = max(board.lines, key=lambda line: len(line.label))
    named = replace(widest, method=widest.method + "x" * (spare + 3))
    lines = printed(replace(board, lines=tuple(named if x is widest else x for x in board.lines)), 100)
    (head,) = (i for i, line in enumerate(lines) if line.lstrip().startswith("# method"))
    assert "worst" in lines[head - 1] and lines[head - 2].split() == ["cho", "cho"]
    assert max(map(len, lines[head - 2 :])) <= 100


def test_a_narrow_terminal_continues_below(board: Any) -> None:
    lines = printed(board, 80)
    assert max(map(len, lines)) <= 80
    assert sum(line.lstrip().startswith("# method") for line in lines) == 2
    assert sum("dcfb@published" in line for line in lines[-40:]) == 2


def test_wide_has_all_columns_with_intervals(board: Any) -> None:
    lines = printed(board, 250, wide=True)
    text = "\n".join(lines)
    for column in board.shown:
        assert board.lines[0].text(column) in text
    assert board.lines[0].standing.text in text and "[" in board.lines[0].standing.text


def test_lines_of_a_note_after_its_first_begin_further_in() -> None:
    rows, manifest = make_run(EFFECTS, cases=6, metrics=["psnr", "mi"])
    board = tables.build(rows, manifest, "volume")
    out = io.StringIO()
    board.to_terminal(Console(file=out, width=60))
    lines = [x for x in out.getvalue().splitlines() if x.startswith("  ") and x[2:].strip()]
    said = [*board.footnotes(), *board.legend(board.shown)]
    begun = [x for x in lines if any(note.startswith(x.strip()) for note in said)]
    assert len(begun) >= len(board.footnotes()) and not any(x.startswith("   ") for x in begun)
    further = [x for x in lines if x.startswith("    ") and any(x.strip() in note for note in said)]
    assert further and all(x == x.rstrip() for x in further)


def test_equal_reasons_are_one_line() -> None:
    rows, manifest = make_run(EFFECTS, cases=6, metrics=["psnr", "mi"])
    four = (rows["metric"] == "mi") & rows["case"].isin([f"case-{i:03d}" for i in range(4)])
    rows.loc[four, ["value", "status", "reason"]] = [None, "skip", "not defined"]
    some = (rows["metric"] == "psnr") & rows["method"].isin(NAMES[:2]) & (rows["case"] == "case-005")
    rows.loc[some, ["value", "status", "reason"]] = [None, "timeout", "900 s"]
    text = " ".join(printed(tables.build(rows, manifest, "volume"), 100))
    assert text.count("not defined") == 1 and "skip in 4 cases (mi): not defined (all methods)" in text
    assert text.count("timeout") == 1 and f"{NAMES[1]}, {NAMES[0]}: timeout in 1 case (psnr): 900 s" in text


def test_rank_by_and_wide_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--methods", "average,max,source-mri", "--cases", "1", "--data-option", "size=24"]
    out = ["--metrics", "psnr,ssim,outline", "--jobs", "0", "--out", str(tmp_path / "run")]
    assert main(["run", *common, *out]) == 0
    text = capsys.readouterr().out
    assert text.index("leaderboard.csv") < text.index("# method")
    for by in ("similarity", "all"):
        assert main(["run", *common, *out, "--rank-by", by, "--wide"]) == 0
        text = capsys.readouterr().out
        assert f"Places by the {by} rank" in text and "±" not in text.splitlines()[0]


def test_rank_by_and_test_of_a_report(tmp_path: Path) -> None:
    likes = {f"m{i}": float(i) for i in range(8)}
    reads = {m: -v for m, v in likes.items()}
    run = write_run(tmp_path / "run", *with_readings(likes, reads, metrics=["psnr"], noise=0.3))
    first = {}
    for by in ("reading", "similarity"):
        out = tmp_path / by
        assert main(["report", str(run), "--no-figures", "--rank-by", by, "--out", str(out)]) == 0
        first[by] = (out / "tables" / "phantom-volume.csv").read_text("utf-8").splitlines()[1].split(",")[0]
    assert first == {"reading": "m0", "similarity": "m7"}
    out = tmp_path / "holm"
    assert main(["report", str(run), "--no-figures", "--test", "wilcoxon", "--out", str(out)]) == 0
    index = (out / "index.html").read_text("utf-8")
    assert "(Wilcoxon by subject, Holm)" in index and "leaves no pair of 8 methods significant" in index
    assert "can be told apart here" in (tmp_path / "reading" / "index.html").read_text("utf-8")
