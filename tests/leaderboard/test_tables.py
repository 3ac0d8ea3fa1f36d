"""The table model and its renderings."""

from __future__ import annotations

import importlib
import io
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from .conftest import EFFECTS, make_run

tables = importlib.import_module("fusebench.leaderboard.tables")
published = importlib.import_module("fusebench.leaderboard.paper_values")

LATEX = shutil.which("pdflatex") or shutil.which("tectonic")
NASTY = r"a|b_c & 50% $x$ #1 {y} <b>~^\[z]"


@pytest.fixture
def board(small_run: Any) -> Any:
    return tables.build(*small_run, "volume")


def line(board: Any, method: str) -> Any:
    return next(x for x in board.lines if x.method == method)


def test_order_is_ranked_then_silent_then_controls() -> None:
    run = make_run({**EFFECTS, "dead": 5.0}, controls=("source-mri", "noise"), fail={"dead": list(range(8))})
    board = tables.build(*run, "volume")
    assert [x.method for x in board.lines] == ["good", "fair2d", "net", "poor", "dead", "source-mri", "noise"]
    assert [x.place() for x in board.lines] == ["1", "2", "3", "4", "–", "c", "c"]


def test_failures_are_counted_and_explained(board: Any) -> None:
    net = line(board, "net")
    assert (net.ok, net.asked) == (6, 8)
    assert net.reasons == ("error in 2 cases: RuntimeError: planted failure",)
    assert "net: error in 2 cases: RuntimeError: planted failure" in board.to_markdown()


def test_a_reason_names_the_metrics_that_have_no_value(small_run: Any) -> None:
    rows, manifest = small_run
    first = (rows["case"] == "case-000") & rows["metric"].isin(["mi", "qabf"])
    rows.loc[first, ["value", "status", "reason"]] = [None, "skip", "not defined for this case"]
    fails = (rows["method"] == "good") & (rows["metric"] == "en")
    rows.loc[fails, ["value", "status", "reason"]] = [None, "error", "ValueError: x"]
    board = tables.build(rows, manifest, "volume")
    skip = "skip in 1 case (mi, qabf): not defined for this case"
    assert line(board, "good").reasons == ("error in 8 cases (en): ValueError: x", skip)
    assert line(board, "net").reasons == ("error in 2 cases: RuntimeError: planted failure", skip)
    assert f"- {skip} (all methods)" in board.to_markdown().replace("\\_", "_")


def test_a_reason_counts_the_cases_of_each_metric(small_run: Any) -> None:
    rows, manifest = small_run
    for metric, cases in (("mi", ["case-000"]), ("qabf", ["case-000", "case-001"]), ("en", ["case-000"])):
        some = rows["case"].isin(cases) & (rows["metric"] == metric)
        rows.loc[some, ["value", "status", "reason"]] = [None, "skip", "not defined for this case"]
    board = tables.build(rows, manifest, "volume")
    skips = {
        "skip in 2 cases (qabf): not defined for this case",
        "skip in 1 case (en, mi): not defined for this case",
    }
    assert {text.replace("(mi, en)", "(en, mi)") for text in line(board, "good").reasons} == skips


def test_a_broken_or_silent_method_is_a_row(small_run: Any) -> None:
    rows, manifest = small_run
    manifest["methods"]["broken"] = {
        **manifest["methods"]["good"],
        "broken": "ImportError: no module named x",
    }
    manifest["methods"]["absent"] = manifest["methods"]["good"]
    board = tables.build(rows, manifest, "volume")
    assert line(board, "broken").reasons == ("ImportError: no module named x",)
    assert line(board, "absent").reasons == ("not run yet",)
    assert line(board, "absent").position is None


def test_marks_are_best_and_second_of_methods_only(board: Any) -> None:
    for column in board.columns:
        marks = {x.method: x.cells[column.id].mark for x in board.lines}
        if column.direction == "none":
            assert set(marks.values()) == {""}
            continue
        means = {x.method: x.cells[column.id].mean for x in board.methods if x.method != "net"}
        order = sorted(means, key=means.__getitem__, reverse=column.direction == "higher")
        assert marks[order[0]] == "best" and marks[order[1]] == "second"
        # "net" misses cases and the controls are no methods: neither is marked, however good.
        assert marks["net"] == marks["source-mri"] == ""


def test_the_error_within_a_case_is_said_of_methods_alone() -> None:
    effects = {"a": 0.0, "b": 1.0, "source-mri": 2.0}
    rows, manifest = make_run(effects, cases=1, metrics=["psnr", "ssim"], controls=("source-mri",))
    manifest["metrics"]["reading_se"] = {**manifest["metrics"].pop("ssim"), "name": "reading_se"}
    rows["metric"] = rows["metric"].astype(str).replace("ssim", "reading_se")
    for method, error in (("a", 0.03), ("b", 0.041), ("source-mri", 0.5)):
        rows.loc[(rows["method"] == method) & (rows["metric"] == "reading_se"), "value"] = error
    notes = tables.build(rows, manifest, "volume").notes
    assert any("over its findings: 0.03 to 0.04" in n for n in notes)


def test_a_mean_over_fewer_cases_is_never_marked_best() -> None:
    run = make_run({"whole": 0.0, "other": -1.0, "half": 5.0}, cases=4, fail={"half": [0, 1]})
    cells = line(tables.build(*run, "volume"), "half").cells
    assert all(c.mark == "" for c in cells.values())


def test_controls_flag_metrics(board: Any) -> None:
    assert {c.id for c in board.columns if c.gameable == "source-mri"} == {
        "psnr",
        "ssim",
        "mi",
        "qabf",
        "nabf",
    }
    assert any("gameable here" in n and "psnr (source-mri)" in n for n in board.notes)


def test_ranking_set(small_run: Any) -> None:
    rows, manifest = small_run
    worst = rows[rows["metric"] == "psnr"].assign(metric="psnr.worst")
    part = rows[rows["metric"] == "psnr"].assign(metric="psnr.a")
    board = tables.build(pd.concat([rows, worst, part]), manifest, "volume")
    assert [c.id for c in board.columns if c.ranked] == ["psnr", "ssim", "mi", "qabf", "nabf", "psnr.worst"]
    assert {"en", "psnr.a"} <= {c.id for c in board.columns} - {c.id for c in board.shown}
    chosen = tables.build(rows, manifest, "volume", ["nabf", "en"])
    assert chosen.ranking.metrics == ("nabf",) and [c.id for c in chosen.columns] == ["nabf", "en"]


def test_a_protocol_of_variants_ranks_on_them(small_run: Any) -> None:
    rows, manifest = small_run
    rows = rows[rows["metric"].isin(["psnr", "en"])]
    rows = rows.assign(protocol="paper", metric=rows["metric"] + "@torchmetrics")
    assert tables.build(rows, manifest, "paper").ranking.metrics == ("psnr@torchmetrics",)


def test_a_variant_has_its_own_unit(small_run: Any) -> None:
    from fusebench.metrics import mi

    rows, manifest = small_run
    manifest["metrics"]["mi"] = dict(mi.info.__dict__)
    theirs = [f"mi@{v}" for v in mi.info.variants]
    rows = pd.concat([rows, *(rows[rows["metric"] == "mi"].assign(metric=m) for m in theirs)])
    units = {c.id: c.unit for c in tables.build(rows, manifest, "volume").columns if c.id.startswith("mi")}
    assert units == {"mi": "bit", "mi@cddfuse": "nat", "mi@dc2fusion": "nat", "mi@tang": "bit"}


def test_csv_round_trips(board: Any) -> None:
    frame = board.frame()
    back = pd.read_csv(io.StringIO(board.to_csv()), dtype=frame.dtypes.to_dict())
    text = frame.select_dtypes("str").columns
    back[text] = back[text].fillna("")
    pd.testing.assert_frame_equal(back, frame, check_exact=False, rtol=1e-15, atol=0)


def test_markdown_is_one_table_of_equal_rows_whatever_the_names() -> None:
    run = make_run({NASTY: 1.0, "b": 0.0, "c": -1.0}, cases=3)
    text = tables.build(*run, "volume").to_markdown()
    rows = [r for r in text.splitlines() if r.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", r)) for r in rows}) == 1 and len(rows) == 5
    assert "<b>" not in text and "**" in rows[2] and "<u>" in rows[3]


def test_markdown_renders_to_a_table() -> None:
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    text = tables.build(*make_run({NASTY: 1.0, "b": 0.0}, cases=3), "volume").to_markdown()
    html = markdown.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert html.count("<tr>") == 3
    assert "a|b_c &amp; 50% $x$ #1 {y} &lt;b&gt;~^" in html and "<strong>" in html and "<u>" in html


def test_html_has_the_marks_and_names_as_text(board: Any) -> None:
    html = tables.build(*make_run({NASTY: 1.0, "b": 0.0, "<i>c</i>": -1.0}, cases=3), "volume")._repr_html_()
    assert "<b>~" not in html and "&lt;b&gt;~" in html and "&lt;i&gt;" in html
    assert html.count("<tr>") == 4 and "<td><b>" in html and "<td><u>" in html
    psnr = next(c for c in board.shown if c.id == "psnr")
    assert f'title="{psnr.name}"' in html and psnr.name == "Pooled PSNR"
    assert 'style="opacity' in board._repr_html_(), "controls stand back"


def test_metrics_are_named_beside_their_ids(board: Any) -> None:
    (legend,) = board.legend()
    assert "psnr: Pooled PSNR" in legend and "qabf: Edge preservation" in legend
    assert legend.count("psnr:") == 1, "a part has its metric's name"
    assert "psnr: Pooled PSNR" in board.to_markdown()
    out = io.StringIO()
    board.to_terminal(Console(file=out, width=400))
    assert "psnr: Pooled PSNR" in out.getvalue()
    psnr = next(c for c in board.columns if c.id == "psnr")
    worst = replace(psnr, id="psnr.worst")
    assert worst.name == "Pooled PSNR, the worse source"


def test_a_backslash_or_tilde_in_a_name_is_text() -> None:
    markup = importlib.import_module("fusebench.leaderboard.escape")
    assert markup.markdown_text(r"a\|b") == r"a\\\|b" and markup.markdown_text("~x~") == r"\~x\~"
    markdown = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed")
    name = r"a\|b ~~c~~ \[d]"
    text = tables.build(*make_run({name: 1.0, "b": 0.0}, cases=3), "volume").to_markdown()
    html = markdown.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    assert f'<td style="text-align:left">{name}</td>' in html


def test_terminal_never_cuts_a_number(small_run: Any) -> None:
    board = tables.build(*small_run, "volume")
    for width in (80, 120, 250):
        out = io.StringIO()
        board.to_terminal(Console(file=out, width=width), wide=True)
        text = out.getvalue()
        assert "…" not in text and max(map(len, text.splitlines())) <= width
        for x in board.lines:
            for c in board.shown:
                assert x.text(c) in text
            assert all(e in text for e in x.extras().values())
    assert "8/8" in text and "6/8" in text


def test_terminal_prints_markup_in_names_as_text() -> None:
    out = io.StringIO()
    tables.build(*make_run({"[red]x[/red]": 1.0, "b": 0.0}, cases=3), "volume").to_terminal(
        Console(file=out, width=200)
    )
    assert "[red]x[/red]" in out.getvalue()


def test_latex_escapes_and_marks() -> None:
    text = tables.build(*make_run({NASTY: 1.0, "b": 0.0}, cases=3), "volume").to_latex()
    assert r"a$|$b\_c \& 50\% \$x\$ \#1 \{y\}" in text
    assert r"\textbf{" in text and r"\underline{" in text and r"\uparrow" in text and r"\downarrow" in text
    body = text[text.index(r"\toprule") :]
    counts = {r.count(" & ") for r in body.splitlines() if r.endswith(r"\\") and "multicolumn" not in r}
    assert len(counts) == 1


@pytest.mark.skipif(LATEX is None, reason="neither pdflatex nor tectonic is installed")
def test_latex_compiles(tmp_path: Path) -> None:
    effects = {**EFFECTS, NASTY: 0.2, "dead": 0.0, "ünï": 0.1}
    run = make_run(effects, controls=("source-mri", "noise"), fail={"dead": list(range(8)), "net": [1]})
    body = tables.build(*run, "volume").to_latex()
    document = (
        "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\\usepackage[T1]{fontenc}\n"
        f"\\usepackage{{booktabs,graphicx}}\n\\begin{{document}}\n{body}\\end{{document}}\n"
    )
    (tmp_path / "board.tex").write_text(document, encoding="utf-8")
    options = ["-interaction=nonstopmode", "-halt-on-error"] if LATEX.endswith("pdflatex") else []
    command = [LATEX, *options, "board.tex"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-1500:] + result.stderr[-1500:]
    assert (tmp_path / "board.pdf").stat().st_size > 1000


def test_seconds_are_the_median_and_memory_the_peak(small_run: Any) -> None:
    rows, _ = small_run
    good = rows[rows["method"] == "good"]
    x = line(tables.build(*small_run, "volume"), "good")
    assert x.seconds == pytest.approx(good.groupby("case")["fuse_seconds"].max().median())
    assert x.memory_mb == good["memory_mb"].max()


def test_training_on_the_scored_split_is_marked(small_run: Any) -> None:
    rows, manifest = small_run
    assert not line(tables.build(rows, manifest, "volume"), "net").overlap
    manifest["methods"]["net"]["trained_on"] = "phantom/train, phantom/test"
    assert line(tables.build(rows, manifest, "volume"), "net").overlap


def test_published_row_stands_beside_ours_and_says_other_data(small_run: Any) -> None:
    rows, manifest = small_run
    board = tables.build(rows.assign(protocol="paper"), manifest, "paper")
    table = published.paper_table(board)
    assert list(table.columns) == ["method", "data", "control", "psnr", "ssim"]
    assert table.iloc[0][["psnr", "ssim"]].tolist() == [20.714, 0.718]
    assert len(table) == 1 + len(board.lines)
    assert "other data" in published.paper_markdown(table)


def test_empty_protocol_is_a_board_of_reasons(small_run: Any) -> None:
    board = tables.build(*small_run, "nothing")
    assert all(x.reasons == ("not run yet",) for x in board.lines)
    board.to_terminal(Console(file=io.StringIO()))
    assert board.to_markdown() and board.to_latex() and board.to_csv()


def test_an_infinite_score_is_a_value_not_a_gap() -> None:
    rows, manifest = make_run(
        {"a": 1.0, "b": 0.0, "copy": -1.0}, cases=4, controls=("copy",), metrics=["psnr"]
    )
    rows.loc[rows["method"] == "copy", "value"] = np.inf
    board = tables.build(rows, manifest, "volume")
    copy = line(board, "copy")
    assert (copy.ok, copy.asked, copy.average) == (4, 4, 1.0)
    assert copy.text(board.columns[0]) == "∞" and board.columns[0].gameable == "copy"
    assert np.isfinite(line(board, "a").cells["psnr"].low) and np.isnan(copy.cells["psnr"].low)
    assert r"$\infty$" in board.to_latex()


def test_an_entry_of_images_is_not_punished_for_a_metric_that_needs_the_method() -> None:
    rows, manifest = make_run({"a": 1.0, "net": 1.0, "poor": -1.0}, cases=4, metrics=["psnr", "ssim", "mi"])
    a, net = rows["method"] == "a", rows["method"] == "net"
    rows.loc[net, "value"] = rows.loc[a, "value"].to_numpy()
    rows.loc[net & (rows["metric"] == "mi"), ["value", "status", "reason"]] = [
        None,
        "skip",
        "needs the method",
    ]
    manifest["metrics"]["mi"]["needs_twin"] = True
    assert tables.build(rows, manifest, "volume").ranking.metrics == ("psnr", "ssim", "mi")
    manifest["methods"]["net"]["origin"] = "files: theirs"
    for chosen in (None, ["psnr", "ssim", "mi"]):
        board = tables.build(rows, manifest, "volume", chosen)
        assert [(line(board, m).average, line(board, m).ok) for m in ("a", "net")] == [(1.5, 4), (1.5, 4)]
        assert board.ranking.metrics == ("psnr", "ssim") and "mi" in {c.id for c in board.columns}
        assert any("takes the method itself" in n and "mi" in n for n in board.notes)
    # An entry without rows in this protocol takes nothing from its ranking.
    board = tables.build(rows[~net], manifest, "volume")
    assert board.ranking.metrics == ("psnr", "ssim", "mi")
    assert not any("takes the method itself" in n for n in board.notes)


@pytest.mark.parametrize("undefined", [[0], [0, 1, 2, 3]])
def test_a_metric_not_defined_for_a_case_counts_against_nobody_whoever_failed(undefined: list[int]) -> None:
    rows, manifest = make_run(
        {"a": 1.0, "b": 0.0, "broken": 0.0}, cases=4, metrics=["psnr", "mi"], fail={"broken": [0, 1, 2, 3]}
    )
    there = rows["case"].isin([f"case-{i:03d}" for i in undefined]) & (rows["status"] == "ok")
    rows.loc[there & (rows["metric"] == "mi"), ["value", "status", "reason"]] = [None, "skip", "not defined"]
    board = tables.build(rows, manifest, "volume")
    assert {x.method: (x.ok, x.asked) for x in board.lines} == {"a": (4, 4), "b": (4, 4), "broken": (0, 4)}
    assert {c.id: line(board, "a").cells[c.id].asked for c in board.columns} == (
        {"psnr": 4, "mi": 3} if len(undefined) == 1 else {"psnr": 4}
    )


def test_errors_of_both_signs_do_not_cancel() -> None:
    run = make_run({"a": 0.0, "b": 0.0, "copy": 0.0}, cases=2, controls=("copy",), metrics=["q_sf"])
    run[0]["value"] = [-0.5, 0.5, 0.1, 0.1, -1.0, 1.0]
    board = tables.build(*run, "volume", ["q_sf"])
    assert [(x.method, x.cells["q_sf"].mark) for x in board.methods] == [("b", "best"), ("a", "second")]
    assert board.columns[0].gameable == ""
    run[0]["value"] = [-0.5, 0.5, 0.4, 0.4, 0.1, -0.1]
    assert tables.build(*run, "volume", ["q_sf"]).columns[0].gameable == "copy"


def test_a_board_of_descriptive_metrics_counts_their_cases() -> None:
    board = tables.build(*make_run({"a": 0.0, "b": 1.0}, cases=3, metrics=["en"]), "volume")
    assert [(x.ok, x.asked) for x in board.lines] == [(3, 3), (3, 3)]
    few = tables.build(*make_run({"a": 0.0, "b": 1.0}, cases=3, metrics=["en"], fail={"a": [1]}), "volume")
    assert (line(few, "a").ok, line(few, "b").ok) == (2, 3)
    assert not any("penalised" in n for n in (*board.notes, *few.notes))


def test_an_empty_board_is_a_table_without_rows(small_run: Any) -> None:
    rows, manifest = small_run
    board = tables.build(rows, {**manifest, "methods": {}}, "nothing")
    assert board.lines == () and board.to_csv().startswith("method,control,position,")
    board.to_terminal(Console(file=io.StringIO()))
    assert board.to_markdown() and board.to_latex()
