"""Figures of a board, each one function ``(board) -> Figure``; `save` writes PNG and SVG.

Methods are told apart by position and label, never by colour alone; controls are grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scikit_posthocs as sp
import seaborn as sns
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cbook import boxplot_stats
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from fusebench.files import atomic_path
from fusebench.metric import ARROWS

from .agreement import Agreement, agreement
from .board import Board, Column
from .chart_layout import DPI, FONT_SIZE, NamesAlong
from .significance import ALPHA

# Two hues of the Okabe-Ito set that stay apart for all common colour-vision deficiencies and in grey.
METHOD, CONTROL, ACCENT = "#0072B2", "#999999", "#D55E00"
MOST_MARKS = 1000  # of subjects, that an SVG holds one by one; more are a picture in it
STYLE: Any = {
    "font.size": FONT_SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "fusebench",
}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem.png`` and ``stem.svg``; the same figure gives the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(stem.name + suffix) for suffix in (".png", ".svg")]
    engine = figure.get_layout_engine()
    box = None if engine else "tight"
    with rc_context(STYLE):
        if engine:
            # Once for both files; left in place it would be solved, and all be drawn, twice for each.
            engine.execute(figure)
            figure.set_layout_engine(None)
        # Level 1 packs thin lines as small as level 6 does, in a third of the time.
        more: tuple[dict[str, Any], ...] = (
            {"format": "png", "dpi": DPI, "pil_kwargs": {"compress_level": 1}},
            {"format": "svg", "metadata": {"Date": None}},
        )
        for path, options in zip(paths, more, strict=True):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, bbox_inches=box, facecolor="white", **options)
    return paths


def all_charts(board: Board) -> Iterator[tuple[str, str, Figure]]:
    """(file stem, caption, figure) of every chart that the board has the data for."""
    several = len(board.ranking.order) > 1
    tested = several and len(board.ranking.blocks) > 1
    if tested:
        yield (
            "critical-difference",
            "Average rank; methods under one bar do not differ significantly",
            critical_difference(board),
        )
        yield (
            "rank-distribution",
            "How often each method takes each position when subjects are resampled",
            rank_distribution(board),
        )
    if several and len(board.ranking.metrics) > 1:
        yield "metric-correlation", "Kendall's tau between the metrics' rankings", metric_correlation(board)
    if several and {"reading", "similarity"} <= board.rankings.keys():
        yield (
            "reading-similarity",
            "Reading rank against similarity rank; controls in grey",
            reading_similarity(board),
        )
    found = agreement(board)
    if found is not None:
        yield (
            "agreement",
            "Kendall's tau of each similarity metric with each reading, over methods and controls",
            agreement_chart(found),
        )
    if several and any(np.isfinite(x.seconds) for x in board.methods):
        yield "quality-time", "Average rank against fusing time per case", quality_time(board)
    for column in board.columns:
        drawn = {x.method for x in board.lines if _finite(board, column, x.method)}
        if not drawn:
            continue
        name = file_name(column.id)
        caption = f"{column.id}: one point per subject, box of quartiles"
        yield f"distribution-{name}", caption, distribution(board, column)
        if column.ranked and several and len(board.scores.subjects) > 1 and drawn & set(board.ranking.order):
            yield f"paired-{name}", f"{column.id}: one line per subject", paired(board, column)


def _finite(board: Board, column: Column, method: str) -> bool:
    """True if there is anything to draw: the PSNR of a copy is infinite everywhere."""
    return bool(np.isfinite(board.scores.take([method], [column.id]).values).any())


def file_name(text: str) -> str:
    """A metric id as part of a file name."""
    return "".join(ch if ch.isalnum() or ch in "-_." else "-" for ch in text)


def plain(text: str) -> str:
    """Keep matplotlib from reading a name as mathematics."""
    return text.replace("$", r"\$")


def _figure(
    width: float, height: float, layout: LayoutEngine | Literal["constrained"] = "constrained"
) -> tuple[Figure, Axes]:
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout=layout)
        return figure, figure.subplots()


def critical_difference(board: Board) -> Figure:
    """Critical-difference diagram (Demšar 2006) with Holm-adjusted Wilcoxon tests, controls in grey."""
    ranking = board.ranking
    names = {m: plain(m) for m in ranking.order}
    ranks = ranking.table["average"].rename(index=names)
    p = ranking.p.loc[ranking.order, ranking.order].rename(index=names, columns=names)
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(7.5, 1.2 + 0.24 * len(ranks)))
        ax = figure.subplots()
        sp.critical_difference_diagram(
            ranks,
            p,
            alpha=ALPHA,
            ax=ax,
            label_fmt_left="{label} ({rank:.2f})",
            label_fmt_right="({rank:.2f}) {label}",
            # The line of a control may pass behind a label.
            label_props={"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}},
            color_palette=dict.fromkeys(ranks.index, METHOD),
            crossbar_props={"color": ACCENT, "linewidth": 2.5},
        )
        for name, rank in ranking.controls.dropna().items():
            ax.axvline(rank, color=CONTROL, linestyle=":", linewidth=1, zorder=0)
            ax.text(rank, -0.02, plain(str(name)), color="#666666", fontsize=7, rotation=90, ha="center",
                    va="top", transform=ax.get_xaxis_transform())  # fmt: skip
        ax.set_title("average rank (1 is best)", fontsize=9, pad=18)
    return figure


def rank_distribution(board: Board) -> Figure:
    """Share of bootstrap draws in which a method takes a position."""
    shares = board.ranking.positions
    figure, ax = _figure(1.8 + 0.45 * shares.shape[1], 1.0 + 0.32 * len(shares))
    sns.heatmap(
        shares.rename(index=plain) * 100,
        ax=ax,
        cmap="Blues",
        vmin=0,
        vmax=100,
        annot=shares.map(lambda v: f"{100 * v:.0f}" if v >= 0.005 else ""),
        fmt="",
        annot_kws={"fontsize": 7},
        cbar_kws={"label": "% of draws"},
        linewidths=0.5,
    )
    ax.set(xlabel="position", ylabel="")
    ax.grid(False)
    ax.tick_params(axis="y", rotation=0)
    return figure


def metric_correlation(board: Board) -> Figure:
    """Kendall's tau between the orders the metrics give."""
    tau = board.ranking.metric_tau
    size = 1.6 + 0.5 * len(tau)
    figure, ax = _figure(size + 0.8, size)
    sns.heatmap(
        tau, ax=ax, cmap="RdBu_r", vmin=-1, vmax=1, annot=True, fmt=".2f", annot_kws={"fontsize": 7},
        square=True, linewidths=0.5, cbar_kws={"label": "Kendall's tau", "shrink": 0.8},
    )  # fmt: skip
    ax.grid(False)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=90)
    return figure


def reading_similarity(board: Board) -> Figure:
    """Average rank by readings against average rank by similarity; of controls the ranks they would have."""
    points = pd.DataFrame(
        [
            (x.method, x.ranks["similarity"].average, x.ranks["reading"].average, x.control)
            for x in board.lines
        ],
        columns=["method", "similarity", "reading", "control"],
    ).dropna()
    figure, ax = _figure(6, 5)
    for control, marker, colour in ((False, "o", METHOD), (True, "X", CONTROL)):
        some = points[points["control"] == control]
        label = "control" if control else "method"
        if len(some):
            ax.scatter(
                some["similarity"], some["reading"], marker=marker, color=colour, s=40, label=label, zorder=3
            )
    ax.invert_xaxis()
    ax.invert_yaxis()
    ax.margins(0.12)
    ax.set(
        xlabel="similarity rank (nearest to the sources on the right)",
        ylabel="reading rank (most can be read on top)",
    )
    if len(points):
        figure.legend(fontsize=7, frameon=False, loc="outside upper right", ncols=2)
    figure.draw_without_rendering()  # the layout decides where points lie in pixels
    _label_points(ax, points["method"], points[["similarity", "reading"]].to_numpy())
    return figure


def agreement_chart(found: Agreement) -> Figure:
    """Kendall's tau of similarity metrics (rows) with readings (columns), with its interval."""
    figure, ax = _figure(2.2 + 1.0 * len(found.readings), 1.4 + 0.36 * len(found.similarities))
    texts = [[found.text(s, r).replace(" [", "\n[") for r in found.readings] for s in found.similarities]
    sns.heatmap(
        found.tau, ax=ax, cmap="RdBu_r", vmin=-1, vmax=1, annot=np.array(texts), fmt="",
        annot_kws={"fontsize": 6}, linewidths=0.5, cbar_kws={"label": "Kendall's tau"},
    )  # fmt: skip
    ax.grid(False)
    ax.set(xlabel="reading", ylabel="similarity metric")
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=45)
    return figure


def quality_time(board: Board) -> Figure:
    """Average rank against seconds per case, with the Pareto front."""
    points = pd.DataFrame(
        [(x.method, x.seconds, x.average, x.control) for x in board.lines],
        columns=["method", "seconds", "rank", "control"],
    ).dropna()
    figure, ax = _figure(7, 4.2)
    ours = points[~points["control"]].sort_values(["seconds", "rank"])
    front = ours[ours["rank"] < ours["rank"].shift(1).cummin().fillna(np.inf)]
    ax.step(front["seconds"], front["rank"], where="post", color=ACCENT, linewidth=1, linestyle=":")
    # Rings, since the line also passes through a method that ties with a quicker one.
    ax.scatter(
        front["seconds"], front["rank"], s=90, facecolors="none", edgecolors=ACCENT, label="Pareto front"
    )
    for control, marker, colour in ((False, "o", METHOD), (True, "X", CONTROL)):
        some = points[points["control"] == control]
        label = "control" if control else "method"
        if len(some):
            ax.scatter(
                some["seconds"], some["rank"], marker=marker, color=colour, s=40, label=label, zorder=3
            )
    if (points["seconds"] > 0).all():
        ax.set_xscale("log")
        for axis_formatter in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            axis_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:e}"[0] in "125" else ""))
        ax.tick_params(axis="x", which="minor", pad=5)  # in line with the labels of the longer major ticks
    ax.invert_yaxis()
    ax.set(xlabel="seconds per case (median)", ylabel="average rank (best on top)")
    figure.legend(fontsize=7, frameon=False, loc="outside upper right", ncols=3)
    figure.draw_without_rendering()  # the layout decides where points lie in pixels
    _label_points(ax, points["method"], points[["seconds", "rank"]].to_numpy())
    return figure


# Where a label may stand, in points from its mark: near first, then further off.
_PLACES = [
    (x * far, y * far, side)
    for far in (1, 2, 3.5)
    for x, y, side in ((6, 3, "left"), (6, -8, "left"), (-6, 3, "right"), (-6, -8, "right"),
                       (0, 7, "center"), (0, -12, "center"))
]  # fmt: skip


def _label_points(ax: Axes, names: Iterable[str], points: NDArray[np.float64]) -> None:
    """Name each point (x, y) of (N, 2), where the name covers neither marks, names nor the axes' edge."""
    inside = np.array(ax.get_window_extent().extents)
    marks = np.tile(ax.transData.transform(points), 2) + np.array([-6, -6, 6, 6])
    texts: list[NDArray[np.float64]] = []
    for name, point in zip(names, points, strict=True):
        text = ax.annotate(plain(name), tuple(point), (0, 0), textcoords="offset points", fontsize=7)
        text.set_in_layout(False)
        here = text.get_window_extent()
        boxes = np.array([_moved(here, ax.figure.dpi, *place).extents for place in _PLACES])
        taken = np.concatenate([marks, texts]) if texts else marks
        cost = _overlap(boxes, boxes) - _overlap(boxes, inside) + _overlap(boxes[:, None], taken).sum(1)
        best = int(np.argmin(cost))  # of equals the nearest
        texts.append(boxes[best])
        text.xyann = _PLACES[best][:2]
        text.set(horizontalalignment=_PLACES[best][2])


def _moved(box: Bbox, dpi: float, x: float, y: float, side: str) -> Bbox:
    """Where a left-aligned label that now fills `box`, in pixels, lies at an offset in points."""
    left = {"left": 0.0, "center": 0.5, "right": 1.0}[side] * box.width
    return box.translated(x * dpi / 72 - left, y * dpi / 72)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area that boxes (..., 4) of x0, y0, x1, y1 share."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    area: NDArray[np.float64] = np.maximum(sides, 0).prod(-1)
    return area


def _by_subject(board: Board, column: Column) -> pd.DataFrame:
    """Mean of each subject: columns subject, method, value, control; methods in the board's order."""
    scores = board.scores.take([x.method for x in board.lines], [column.id])
    values = scores.values[:, :, 0]
    present = np.isfinite(values)
    count = present.astype(float) @ scores.membership
    total = np.where(present, values, 0) @ scores.membership
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    table = pd.DataFrame(mean, index=[plain(m) for m in scores.methods], columns=list(scores.subjects))
    return table


def _axis_title(column: Column) -> str:
    unit = f" [{column.unit}]" if column.unit else ""
    return f"{column.id}{unit} {ARROWS[column.direction]}"


def distribution(board: Board, column: Column) -> Figure:
    """Box plot of subjects' means per method, with the subjects as points."""
    table = _by_subject(board, column).dropna(how="all")
    colours = {plain(x.method): CONTROL if x.control else METHOD for x in board.lines}
    figure, ax = _figure(6.5, 1.0 + 0.3 * len(table), NamesAlong("y", table.index))
    # One call each for boxes, whiskers, points: a report draws dozens of these; artists per method add up.
    samples = [row[~np.isnan(row)] for row in table.to_numpy()]
    places = np.arange(len(samples))
    box = pd.DataFrame(boxplot_stats(samples))
    tint = [colours[m] for m in table.index]
    ax.barh(places, box["q3"] - box["q1"], 0.6, box["q1"], color=tint, alpha=0.35, edgecolor="black")
    ax.use_sticky_edges = False  # no bar here starts at zero
    ax.vlines(box["med"], places - 0.3, places + 0.3, color="black", linewidth=1)
    ax.hlines(
        np.tile(places, 2), box[["whislo", "q3"]].T, box[["q1", "whishi"]].T, color="black", linewidth=1
    )
    counts = np.array([len(x) for x in samples])
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, sum(counts))
    # A lone subject lies on the line of its box.
    y = np.repeat(places, counts) + np.where(np.repeat(counts, counts) > 1, jitter, 0)
    x = np.concatenate(samples)
    for colour in dict.fromkeys(tint):  # marks of one colour are drawn much faster than each in its own
        some = np.repeat([t == colour for t in tint], counts)
        ax.scatter(x[some], y[some], s=5, color=colour, zorder=3, rasterized=len(y) > MOST_MARKS)
    ax.set_yticks(places, table.index)
    ax.tick_params(axis="y", left=False)
    ax.grid(False, axis="y")
    ax.invert_yaxis()
    ax.set(xlabel=_axis_title(column))
    return figure


def paired(board: Board, column: Column) -> Figure:
    """One line per subject across the ranked methods, mean in bold."""
    table = _by_subject(board, column).loc[[plain(m) for m in board.ranking.order]]
    width = max(4.5, 1.5 + 0.45 * len(table))
    figure, ax = _figure(width, 3.6, NamesAlong("x", table.index))
    x = np.arange(len(table))
    lines = [np.column_stack([x, subject]) for subject in table.to_numpy().T]
    alpha = max(0.12, min(0.6, 6 / len(lines)))
    many = len(lines) > MOST_MARKS
    ax.add_collection(LineCollection(lines, color=METHOD, alpha=alpha, linewidth=0.8, rasterized=many))
    ax.plot(x, table.mean(axis=1), color=ACCENT, linewidth=2, marker="o", markersize=4, label="mean")
    ax.set_xticks(x, table.index, rotation=45, ha="right")
    ax.tick_params(axis="x", bottom=False)
    ax.set(ylabel=_axis_title(column))
    ax.legend(fontsize=7, frameon=False)
    return figure
