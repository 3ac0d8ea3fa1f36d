"""Pages made from the code at build time, so that they cannot drift: cards, and the command line."""

from __future__ import annotations

import argparse
import csv
import math
import os
import re
import sys
from contextlib import chdir
from pathlib import Path
from pprint import pformat
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
os.environ.setdefault("COLUMNS", "100")

import drawing  # noqa: E402
from markdown.extensions.toc import slugify  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

from fusebench.method_info import REFERENCE  # noqa: E402

REACHED = ROOT / "docs" / "methods.csv"  # by benchmarks/methods_table.py
WEIGHTS = ROOT / "methods" / "weights"
CARDS = sorted(WEIGHTS.glob("*.md"))
_ARROWS = {"higher": "higher is better", "lower": "lower is better", "zero": "closest to 0 is best"}
_DIMENSIONS = {2: "2D; slice by slice in volumes", 3: "3D only"}
# The table of methods has more columns than the theme's have room for.
_NARROW = (
    "<style>.md-typeset table:not([class]) :is(th, td) { min-width: 0; padding: .6em .7em } "
    ".md-typeset table:not([class]) td:first-child { min-width: 13em }</style>"
)
_METRICS_LEGEND = """
A is the structural source, B the functional one, F the fused image, X is A and B in turn. A bar is the
mean over the foreground; μ, σ are local mean and deviation, S local SSIM, G gradient strength, r Pearson's
correlation, H and I entropy and mutual information of 256 grey levels.

The charts show what raises and what lowers a score: a fair fusion (the mean of both sources; four parts of A
to one of B where there is ground truth) is distorted more and more to the right, and its score is drawn
upwards, dashed where it began. The last two fade into a copy of one source. A distortion that a metric calls
better is one that it can be won by.

![A fair fusion and its distortions](../distortions.png)

*Fair fusion; noise; blur; contrast loss; shift; more contrast; only A; only B: each at full strength. Made by
`python benchmarks/metric_trends.py`.*
""".strip().splitlines()
_INTRO = "Made from each {0}'s own `info`; `run_bench.py list {0}s` shows the same."


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "cards/methods.md": methods_page(),
        "cards/metrics.md": metrics_page(),
        "cards/datasets.md": datasets_page(),
        "cli.md": cli_page(),
    }
    text, pictures = notebook_page()
    pages["notebook.md"] = text
    pages |= {f"cards/weights/{p.stem}.md": p.read_text(encoding="utf-8") for p in CARDS}
    pictures |= {f"cards/weights/{p.name}": p.read_bytes() for p in WEIGHTS.glob("*_curve.png")}
    for name, content in {**pages, **pictures}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in what the leaderboard page measures."""
    mark = "<!-- rewards -->"
    return markdown.replace(mark, rewards_table()) if mark in markdown else markdown


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _facts(facts: dict[str, object]) -> list[str]:
    rows = (f"| {k} | {_cell(v)} |" for k, v in facts.items() if v not in ("", None))
    return ["", "| | |", "|---|---|", *rows]


def _load(kind: str) -> list[tuple[str, Any]]:
    from fusebench.plugins import find_plugins

    registry = getattr(find_plugins(), kind)
    return [(name, registry.load(name)) for name in registry.names()]


def _doc(obj: Any) -> str:
    """The parameters of a class, as code."""
    import inspect

    text = inspect.cleandoc(obj.__doc__ or "")
    return f"\n```text\n{text}\n```\n" if "\n" in text else ""


def methods_page() -> str:
    """A table of all methods, then one card each."""
    loaded = _load("methods")
    lines = ["# Methods", "", _INTRO.format("method"), "", _NARROW, "", *methods_table(loaded)]
    for name, cls in loaded:
        i = _facts_of(name)
        kind = "control" if i.control else "fuses volumes" if i.dims == 3 else "fuses slices"
        facts = {
            "kind": kind,
            "paper": i.paper,
            "licence": i.licence,
            "learned parameters": f"{i.params:,}" if i.params else "none",
            "trained on": i.trained_on,
            "weights": f"`{i.weights.file}`, sha256 `{i.weights.sha256[:16]}…`" if i.weights else "",
            "card of the weights": _card_link(i),
            "colour": i.colour,
            "cost": _cost(cls),
            "recipes": ", ".join(f"`{r}`" for r in cls.recipes),
            "notes": i.notes,
            "expected to fail": "; ".join(
                f"{k}: {v}" for k, v in getattr(cls, "expected_failed_checks", {}).items()
            ),
        }
        lines += ["", f"## {name}", "", i.summary, *_facts(facts), _doc(cls)]
    return "\n".join(lines)


def _facts_of(method: str) -> Any:
    from fusebench.plugins import find_plugins

    return find_plugins().methods.facts(method).info


def methods_table(loaded: list[tuple[str, Any]]) -> list[str]:
    """What they are from the classes, what they reach from `REACHED`; controls last."""
    note, *table = REACHED.read_text(encoding="utf-8").splitlines() if REACHED.is_file() else [""]
    reached = {row["method"]: row for row in csv.DictReader(table)}
    ranks = ["reading", "similarity"] if reached else []
    head = ["method", "year", "dims", "parameters", "licence", "s/Mvoxel", *ranks]
    rows = [head, ["---", "--:", "--:", "--:", "---", "--:", *("--:" for _ in ranks)]]
    for name, _ in sorted(loaded, key=lambda item: item[1].info.control):
        i, got = _facts_of(name), reached.get(name, {})
        control = " (control)" if i.control else ""
        params = f"{i.params:,}" if i.params else ""
        card = _card_link(i, params)
        rows.append(
            [
                f"**[{name}](#{slugify(name, '-')})**{control}<br>{i.summary}",
                _year(i.paper),
                f"{i.dims}D",
                card or params,
                i.licence,
                "" if i.cost is None else f"{i.cost:.2g}",
                *(got.get(name, "") for name in ranks),
            ]
        )
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    said = f"s/Mvoxel: seconds to fuse a million voxels, {REFERENCE}. Parameters lead to their card."
    if reached:
        said += f" Reading and similarity: average ranks, 1 is best, of {note.lstrip('# ')}; by"
        said += " `python benchmarks/methods_table.py RUN`."
    return [*lines, "", said]


def _year(paper: str) -> str:
    """The year that a citation names, or that of its number at arXiv."""
    plain = re.search(r"\b(?:19|20)\d\d\b(?!\.\d)", paper)
    numbered = re.search(r"arXiv[ :]*(\d\d)\d\d\.\d", paper)
    return plain[0] if plain else f"20{numbered[1]}" if numbered else ""


def _card_link(info: Any, text: str = "") -> str:
    """A link to the card of the weights that a method ships; "" where it ships none."""
    name = Path(info.weights.file).stem if info.weights else ""
    return f"[{text or name}](weights/{name}.md)" if name in {card.stem for card in CARDS} else ""


def _cost(cls: Any) -> str:
    """Seconds for a phantom of 128 cubed, of the method and of variants that take another time."""
    variants = {f"@{v}": f["cost"] for v, f in cls.variant_facts.items() if "cost" in f}
    costs = {"": cls.info.cost, **variants}
    stated = [f"{name} {2.1 * c:.2g} s".strip() for name, c in costs.items() if c is not None]
    return f"{', '.join(stated)} for a volume of 128 cubed on {REFERENCE}" if stated else ""


def metrics_page() -> str:
    """One card per metric: its formula, and what raises and lowers it."""
    moved = drawing.read_trends()
    lines = ["# Metrics", "", _INTRO.format("metric"), "", *_METRICS_LEGEND]
    for name, metric in _load("metrics"):
        i = metric.info
        high = "∞" if math.isinf(i.high) else f"{i.high:g}"
        low = "−∞" if math.isinf(i.low) else f"{i.low:g}"
        facts = {
            "better": _ARROWS.get(i.direction, "neither: descriptive, never ranked"),
            "range": f"{low} to {high} {i.unit}",
            "family": i.family,
            "dimensions": "2D and 3D" if {2, 3} <= {*i.dims} else _DIMENSIONS[max(i.dims)],
            "in the ranking set": "yes" if i.ranked else "no",
            "needs ground truth": "yes" if i.needs_truth else "",
            "protocol": "`readers` only" if i.needs_trial else "",
            "parts": ", ".join(f"`{name}.{p}`" for p in i.parts),
            "paper": i.paper,
            "notes": i.notes,
        }
        lines += ["", f"## {name}", "", f"**{i.title}**"]
        lines += ["", f"<p>{drawing.formula(i.formula)}</p>"] if i.formula else []
        lines += (
            ["", f"<p style='overflow-x:auto'>{drawing.trends(moved[name], i.direction)}</p>"]
            if name in moved
            else []
        )
        lines += _facts(facts)
        if i.variants:
            lines += ["", "Variants:", "", *(f"- `{name}@{v}`: {text}" for v, text in i.variants.items())]
    return "\n".join(lines)


def notebook_page() -> tuple[str, dict[str, bytes]]:
    """The example notebook as it runs now: Markdown, and its pictures by name."""
    from fusebench.testing.notebooks import run_notebook

    lines, pictures = [], {}
    path = ROOT / "examples" / "notebook.ipynb"
    with TemporaryDirectory() as folder, chdir(folder):
        for number, cell in enumerate(run_notebook(path)):
            if cell.kind == "markdown":
                lines += [cell.source, ""]
                continue
            lines += ["```python", cell.source, "```", ""]
            if cell.printed:
                lines += ["```text", cell.printed.rstrip(), "```", ""]
            if hasattr(cell.result, "savefig"):
                pictures[f"notebook-{number}.png"] = cell.result._repr_png_()
                lines += [f"![What the cell shows](notebook-{number}.png)", ""]
            elif hasattr(cell.result, "_repr_html_"):
                table = cell.result._repr_html_()
                lines += ["<div class='notebook'>", *(x.strip() for x in table.splitlines()), "</div>", ""]
            elif cell.result is not None:
                lines += ["```text", pformat(cell.result, width=100, sort_dicts=False), "```", ""]
    end = "The notebook is `examples/notebook.ipynb`; this page is made by running it."
    return "\n".join([*lines, end]), pictures


def datasets_page() -> str:
    """One card per dataset."""
    lines = ["# Datasets", "", _INTRO.format("dataset")]
    for name, cls in _load("datasets"):
        i = cls.info
        facts = {
            "images": i.modalities,
            "splits": ", ".join(i.splits),
            "licence": i.licence,
            "how to get it": i.obtain,
            "notes": i.notes,
        }
        lines += ["", f"## {name}", "", i.summary, *_facts(facts), _doc(cls)]
    return "\n".join(lines)


def cli_page() -> str:
    """The help of every subcommand."""
    from fusebench.cli import build_parser

    parser = build_parser()
    lines = ["# Command line", "", "```text", parser.format_help().strip(), "```"]
    (action,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, sub in action.choices.items():
        lines += ["", f"## {name}", "", "```text", sub.format_help().strip(), "```"]
    return "\n".join(lines)


def rewards_table() -> str:
    """How every metric judges a fair fusion once it is degraded: measured by the conformance kit."""
    from fusebench.testing import MetricSubject, degradation_trends

    words = {1: "better", -1: "worse", 0: "same"}
    rows = []
    for name, metric in _load("metrics"):
        subject = MetricSubject(metric)
        if not subject.info.of_images or subject.info.direction == "none":
            continue
        cells, misled = [], False
        for values in degradation_trends(subject, (1.0,)).values():
            first, last = (subject.goodness(v) for v in (values[0], values[-1]))
            sign = 0 if subject.same(first, last, 1e-3) else 1 if last > first else -1
            misled |= sign > 0
            text = f"{values[0]:.3g} → {values[-1]:.3g}"
            cells.append(f"**{words[sign]}** ({text})" if sign >= 0 else f"{words[sign]} ({text})")
        rows.append((misled, f"| [{name}](cards/metrics.md#{name}) | " + " | ".join(cells) + " |"))
    head = ["| metric | noise | blur | contrast loss | shift |", "|---|---|---|---|---|"]
    return "\n".join([*head, *(row for _, row in rows)])
