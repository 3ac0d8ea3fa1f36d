"""Pages that the documentation makes from the code: built as a whole, and what they say."""

from __future__ import annotations

import importlib
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from matplotlib.mathtext import MathTextParser

import fusebench
from fusebench.plugins import find_plugins

ROOT = Path(__file__).resolve().parents[1]
METRICS = [n for n in find_plugins().metrics.names() if find_plugins().metrics.entry(n).bundled]


@pytest.fixture(scope="module")
def drawing() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        yield importlib.import_module("drawing")
        sys.modules.pop("drawing", None)


def test_every_metric_has_a_formula_that_can_be_drawn(drawing: Any) -> None:
    parser = MathTextParser("path")
    for name in METRICS:
        text = find_plugins().metrics.facts(name).info.formula
        assert text, f"{name}: give its formula"
        assert parser.parse(f"${text}$").width > 20
    svg = drawing.formula(text)
    ElementTree.fromstring(svg)
    assert "<style" not in svg and "#000" not in svg and "currentColor" in svg


def test_glyphs_of_two_formulas_do_not_share_names(drawing: Any) -> None:
    one, two = (set(re.findall(r'id="([^"]+)"', drawing.formula(text))) for text in ("a+b", "a-b"))
    assert one and two and not one & two


def test_what_moves_a_score_is_stored_as_it_is(drawing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    trends = importlib.import_module("metric_trends")
    stored = drawing.read_trends()
    assert set(stored) == set(METRICS), "run benchmarks/metric_trends.py"
    assert all(set(points) <= set(trends.DISTORTIONS) for points in stored.values())
    for metric in ("psnr", "nabf", "qabf"):
        now: dict[str, list[float]] = {}
        for name, _, value in trends.trends(metric):
            now.setdefault(name, []).append(value)
        for name, points in stored[metric].items():
            assert [v for _, v in points] == pytest.approx(now[name], rel=1e-3, abs=1e-6), "run it again"


@pytest.mark.parametrize(
    ("values", "direction", "word"),
    [
        ((1.0, 0.5), "higher", "worse"),
        ((1.0, 0.5), "lower", "better"),
        ((-0.4, 0.1), "zero", "better"),
        ((1.0, 2.0), "none", "up"),
        ((1.0, 1.001), "higher", "same"),
    ],
)
def test_a_verdict_knows_the_direction(
    drawing: Any, values: tuple[float, float], direction: str, word: str
) -> None:
    points = list(zip((0.0, 1.0), values, strict=True))
    assert drawing.verdict(points, direction, 1.0) == word
    assert word in drawing.trends({"blur": points, "noise": [(0.0, 0.0), (1.0, 1.0)]}, direction)


@pytest.mark.slow
def test_the_documentation_builds_and_shows_what_the_classes_say(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    build = importlib.import_module("mkdocs.commands.build")
    config = importlib.import_module("mkdocs.config")
    before = list(sys.path)
    try:
        loaded = config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
        loaded.plugins.on_startup(command="build", dirty=False)
        build.build(loaded)
    finally:
        sys.path[:] = before
    methods = (tmp_path / "cards" / "methods.html").read_text(encoding="utf-8")
    for name in ("dwt", "dcfb@paper", "source-mri"):
        assert f">{name}</a></strong>" in methods
    assert '<a href="weights/dcfb.html">933,554</a>' in methods and "2023" in methods
    metrics = (tmp_path / "cards" / "metrics.html").read_text(encoding="utf-8")
    assert metrics.count('aria-label="noise: ') == len(METRICS) and "Edge preservation" in metrics
    notebook = (tmp_path / "notebook.html").read_text(encoding="utf-8")
    assert notebook.count("<img") == 4 and "<caption>" in notebook
    assert len(list(tmp_path.glob("notebook-*.png"))) == 4
    pages = [p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.html")]
    assert not any(re.search(r'(?:src|href)="https?://[^"]+\.(?:js|css|png|svg)"', page) for page in pages)


def test_the_table_of_methods_takes_ranks_from_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    table, hooks = (importlib.import_module(name) for name in ("methods_table", "hooks"))
    small = {"data_options": {"size": 24}, "jobs": 0, "device": "cpu", "metrics": "psnr,ssim"}
    fusebench.run("dwt,max,source-mri", cases=1, out=tmp_path / "run", **small)
    monkeypatch.setattr(table, "OUT", tmp_path / "methods.csv")
    table.main(str(tmp_path / "run"))
    monkeypatch.setattr(hooks, "REACHED", tmp_path / "methods.csv")
    known = [(name, find_plugins().methods.load(name)) for name in ("dwt", "guided", "source-mri")]
    _, _, dwt, guided, control, _, note = hooks.methods_table(known)
    assert re.search(r"\| 1995 \| 3D \|  \| MIT \| [\d.]+ \|  \| \d\.\d\d \|$", dwt)
    assert guided.endswith("|  |  |"), "what was not run has no rank"
    assert "(control)" in control and control.endswith(") |") and "1 case" in note
