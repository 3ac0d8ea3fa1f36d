"""Drawings in the generated pages, as SVG: formulas, and how scores move with distortions."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

DOCS = Path(__file__).resolve().parent
# Value by strength, by distortion.
Trends = Mapping[str, Sequence[tuple[float, float]]]
# A change by less than this share of the largest counts as none.
_SAME = 0.02
_WIDTH, _HEIGHT, _GAP = 92, 46, 6
_COLOURS = {"better": "#00897b", "worse": "#d9541e", "up": "#5c6bc0", "down": "#5c6bc0", "same": "#888"}


def formula(text: str) -> str:
    """A formula as SVG in the colour of the text around it; it does without any font of the reader's."""
    from matplotlib import rc_context
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    out = io.BytesIO()
    style = {"svg.fonttype": "path", "mathtext.fontset": "cm", "figure.facecolor": "none"}
    with rc_context({**style, "savefig.facecolor": "none", "svg.hashsalt": text}):
        math_to_image(f"${text}$", out, FontProperties(size=14), format="svg", color="black")
    svg = out.getvalue().decode()
    svg = svg[svg.index("<svg") :]
    for part in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        "<!--.*?-->",
    ):  # a style would be the page's
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', lambda d: re.sub(r"(\d\.\d)\d+", r"\1", d[0]), svg)
    # Ids hold for the whole page, on which other formulas have glyphs of the same name.
    mark = f"f{hashlib.sha256(text.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{mark}", svg)
    svg = re.sub(r"\s+", " ", svg.replace("#000000", "currentColor"))
    return svg.replace(
        "<svg ", f'<svg role="img" aria-label="{escape(text)}" fill="currentColor" overflow="visible" ', 1
    )


def read_trends() -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Trends by metric, as ``benchmarks/metric_trends.py`` stored them."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with (DOCS / "trends.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            points = found.setdefault(row["metric"], {}).setdefault(row["distortion"], [])
            points.append((float(row["strength"]), float(row["value"])))
    return found


def verdict(points: Sequence[tuple[float, float]], direction: str, reach: float) -> str:
    """What the strongest distortion does: "better", "worse", "same"; "up" or "down" where neither is good."""
    first, last = points[0][1], points[-1][1]
    if direction == "zero":
        first, last, direction = abs(first), abs(last), "lower"
    if abs(last - first) <= _SAME * reach:
        return "same"
    if direction == "none":
        return "up" if last > first else "down"
    return "better" if (last > first) == (direction == "higher") else "worse"


def trends(found: Trends, direction: str) -> str:
    """One small chart per distortion, on one scale: strength to the right, score upwards."""
    values = [value for points in found.values() for _, value in points]
    low, high = min(values), max(values)
    reach = high - low
    width = len(found) * (_WIDTH + _GAP) - _GAP
    parts = []
    for number, (name, points) in enumerate(found.items()):
        word = verdict(points, direction, reach)
        parts.append(_panel(number * (_WIDTH + _GAP), name, points, low, reach, word))
    said = "; ".join(f"{name}: {verdict(p, direction, reach)}" for name, p in found.items())
    return (
        f'<svg role="img" aria-label="{escape(said)}" viewBox="0 0 {width} {_HEIGHT + 40}" '
        f'style="max-width:{width}px;min-width:34em;width:100%" font-size="10" font-family="inherit" '
        'fill="currentColor">' + "".join(parts) + "</svg>"
    )


def _panel(
    x: float, name: str, points: Sequence[tuple[float, float]], low: float, reach: float, word: str
) -> str:
    colour = _COLOURS[word]
    places = [
        (x + 4 + (_WIDTH - 8) * grade, 14 + (_HEIGHT - 8) * (1 - ((value - low) / reach if reach else 0.5)))
        for grade, value in points
    ]
    line = " ".join(f"{px:.1f},{py:.1f}" for px, py in places)
    start, (end_x, end_y) = places[0][1], places[-1]
    sign = {"better": "▲ ", "worse": "▼ ", "up": "↑ ", "down": "↓ ", "same": "= "}[word]
    numbers = f"{points[0][1]:.3g} → {points[-1][1]:.3g}"
    return (
        f'<text x="{x}" y="9">{escape(name)}</text>'
        f'<line x1="{x}" x2="{x + _WIDTH}" y1="{start:.1f}" y2="{start:.1f}" stroke="#888" '
        'stroke-width=".7" stroke-dasharray="2 2"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
        f'<circle cx="{end_x:.1f}" cy="{end_y:.1f}" r="2.6" fill="{colour}"/>'
        f'<text x="{x}" y="{_HEIGHT + 22}" fill="{colour}">{sign}{word}</text>'
        f'<text x="{x}" y="{_HEIGHT + 35}">{numbers}</text>'
    )
