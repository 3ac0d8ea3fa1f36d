"""Pages made from the code at build time, so that they cannot drift: cards, and the command line."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("COLUMNS", "100")

from mkdocs.structure.files import File, Files  # noqa: E402

from fusebench.method_info import REFERENCE  # noqa: E402

_ARROWS = {"higher": "higher is better", "lower": "lower is better", "zero": "closest to 0 is best"}
_INTRO = "Made from each {0}'s own `info`; `run_bench.py list {0}s` shows the same."


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {
        "cards/methods.md": methods_page(),
        "cards/metrics.md": metrics_page(),
        "cards/datasets.md": datasets_page(),
        "cli.md": cli_page(),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
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
    """One card per method."""
    lines = ["# Methods", "", _INTRO.format("method")]
    for name, cls in _load("methods"):
        i = cls.info
        kind = "control" if i.control else "fuses volumes" if i.dims == 3 else "fuses slices"
        facts = {
            "kind": kind,
            "paper": i.paper,
            "licence": i.licence,
            "learned parameters": f"{i.params:,}" if i.params else "none",
            "trained on": i.trained_on,
            "weights": f"`{i.weights.file}`, sha256 `{i.weights.sha256[:16]}…`" if i.weights else "",
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


def _cost(cls: Any) -> str:
    """Seconds for a phantom of 128 cubed, of the method and of variants that take another time."""
    variants = {f"@{v}": f["cost"] for v, f in cls.variant_facts.items() if "cost" in f}
    costs = {"": cls.info.cost, **variants}
    stated = [f"{name} {2.1 * c:.2g} s".strip() for name, c in costs.items() if c is not None]
    return f"{', '.join(stated)} for a volume of 128 cubed on {REFERENCE}" if stated else ""


def metrics_page() -> str:
    """One card per metric."""
    lines = ["# Metrics", "", _INTRO.format("metric")]
    for name, metric in _load("metrics"):
        i = metric.info
        high = "∞" if math.isinf(i.high) else f"{i.high:g}"
        low = "−∞" if math.isinf(i.low) else f"{i.low:g}"
        facts = {
            "better": _ARROWS.get(i.direction, "neither: descriptive, never ranked"),
            "range": f"{low} to {high} {i.unit}",
            "family": i.family,
            "dimensions": "2D and 3D" if 3 in i.dims else "2D; slice by slice in volumes",
            "in the ranking set": "yes" if i.ranked else "no",
            "needs ground truth": "yes" if i.needs_truth else "",
            "protocol": "`readers` only" if i.needs_trial else "",
            "parts": ", ".join(f"`{name}.{p}`" for p in i.parts),
            "paper": i.paper,
            "notes": i.notes,
        }
        lines += ["", f"## {name}", "", i.title + ".", *_facts(facts)]
        if i.variants:
            lines += ["", "Variants:", "", *(f"- `{name}@{v}`: {text}" for v, text in i.variants.items())]
    return "\n".join(lines)


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
