"""The table model: `Board` and its parts, and its renderings for terminal, CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusebench.metric import ARROWS
from fusebench.text import csv_value

from .markup import latex_mark, latex_text, markdown_mark, markdown_text, rich_mark
from .ranking import Ranking, Scores

LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", "zero": r"$\to 0$", "none": ""}
EXTRAS = ("n ok", "s/case", "MB", "params")


def known_by_files(info: Mapping[str, Any]) -> bool:
    """Whether a manifest's method is an entry of images made elsewhere."""
    return str(info.get("origin", "")).startswith("files:")


@dataclass(frozen=True)
class Column:
    """A metric of the board.

    Attributes
    ----------
    id, title, unit, direction : str
    low, high : float
        Range of the metric.
    ranked : bool
        Counts in the average rank.
    gameable : str
        The control that beats every method here, "" if none does.
    decimals : int
    """

    id: str
    title: str
    direction: str = "none"
    unit: str = ""
    low: float = -np.inf
    high: float = np.inf
    ranked: bool = False
    gameable: str = ""
    decimals: int = 3
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def heading(self) -> str:
        """Id, unit, arrow and the mark of a metric that a control wins."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.id}{unit} {ARROWS[self.direction]}".strip() + (" ⚠" if self.gameable else "")


@dataclass(frozen=True)
class Cell:
    """One metric of one method: statistics over cases, the 95 % interval by subject, and its mark.

    `good` orders methods: the mean with larger better, of a metric that is best at zero of the sizes.
    """

    mean: float
    sd: float
    median: float
    low: float
    high: float
    good: float
    n: int
    asked: int
    mark: str = ""

    def text(self, decimals: int) -> str:
        """``mean ± sd``."""
        if self.n == 0:
            return "–"
        sd = f" ± {self.sd:.{decimals}f}" if np.isfinite(self.sd) else ""
        mean = f"{self.mean:.{decimals}f}" if np.isfinite(self.mean) else "∞" if self.mean > 0 else "-∞"
        return mean + sd


@dataclass(frozen=True)
class Line:
    """One method of the board.

    Attributes
    ----------
    position : int or None
        None for a control and for a method without any value.
    average, low, high : float
        Average rank and its 95 % interval; for a control the rank it would have.
    ok, asked : int
        Cases with every ranked metric (every metric where none is ranked), and cases of the run.
    seconds, memory_mb, gpu_memory_mb : float
        Median fusing time per case; peak memory.
    overlap : bool
        The weights were trained on the very split that is scored.
    reasons : tuple of str
        Why cases are missing, most frequent first, with counts.
    """

    method: str
    control: bool
    position: int | None
    average: float
    low: float
    high: float
    best: float
    worst: float
    group: str
    win_rate: float
    cells: Mapping[str, Cell]
    ok: int
    asked: int
    seconds: float
    memory_mb: float
    gpu_memory_mb: float
    params: int
    dims: int | None
    trained_on: str
    overlap: bool
    reasons: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name, marked when the method is slice-wise or known from its images only."""
        return self.method + (" (2D)" if self.dims == 2 else " (files)" if self.from_files else "")

    @property
    def from_files(self) -> bool:
        """Whether images made elsewhere were scored."""
        return known_by_files(self.facts)

    def text(self, column: Column) -> str:
        """A cell, with its own count where that is not the line's."""
        cell = self.cells[column.id]
        count = f" ({cell.n}/{cell.asked})" if 0 < cell.n < cell.asked and cell.n != self.ok else ""
        return cell.text(column.decimals) + count

    def place(self) -> str:
        """Position; "c" for a control."""
        return "c" if self.control else "–" if self.position is None else str(self.position)

    def rank_text(self) -> str:
        """Average rank with its interval; in brackets for a control."""
        if not np.isfinite(self.average):
            return "–"
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if np.isfinite(self.low) else ""
        return f"({self.average:.2f})" if self.control else f"{self.average:.2f}{interval}"

    def extras(self) -> list[str]:
        """Cells of `EXTRAS`."""
        memory = f"{self.memory_mb:.0f}" if np.isfinite(self.memory_mb) else "–"
        return [f"{self.ok}/{self.asked}", short_seconds(self.seconds), memory, short_count(self.params)]


@dataclass(frozen=True, eq=False)
class Board:
    """The table of one protocol: ranked methods best first, then methods without a value, then controls."""

    title: str
    protocol: str
    dataset: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    ranking: Ranking
    scores: Scores
    summary: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def methods(self) -> tuple[Line, ...]:
        """Lines that are no controls."""
        return tuple(x for x in self.lines if not x.control)

    @property
    def controls(self) -> tuple[Line, ...]:
        """Lines that are controls."""
        return tuple(x for x in self.lines if x.control)

    @cached_property
    def shown(self) -> tuple[Column, ...]:
        """Columns of the narrow renderings: the ranked ones, or all where none is ranked."""
        return tuple(c for c in self.columns if c.ranked) or self.columns

    # -- renderings ----------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """The whole board, one row per method, full precision; what `to_csv` writes."""
        lines = self.lines
        table: dict[str, list[Any]] = {
            "method": [x.method for x in lines],
            "control": [x.control for x in lines],
            "position": [x.position for x in lines],
            "average_rank": [x.average for x in lines],
            "rank_low": [x.low for x in lines],
            "rank_high": [x.high for x in lines],
            "position_best": [x.best for x in lines],
            "position_worst": [x.worst for x in lines],
            "group": [x.group for x in lines],
            "win_rate": [x.win_rate for x in lines],
            "cases_ok": [x.ok for x in lines],
            "cases": [x.asked for x in lines],
            "seconds": [x.seconds for x in lines],
            "memory_mb": [x.memory_mb for x in lines],
            "gpu_memory_mb": [x.gpu_memory_mb for x in lines],
            "params": [x.params for x in lines],
            "dims": [x.dims for x in lines],
            "trained_on": [x.trained_on for x in lines],
            "overlap": [x.overlap for x in lines],
            "reason": ["; ".join(x.reasons) for x in lines],
        }
        for c in self.columns:
            for name in ("mean", "sd", "median", "low", "high", "n"):
                table[f"{c.id}_{name}"] = [getattr(x.cells[c.id], name) for x in lines]
        return pd.DataFrame(table).astype({"position": "Int64", "dims": "Int64"})

    def to_csv(self) -> str:
        """Comma-separated values of `frame`, lossless; what a spreadsheet would run is text."""
        return str(self.frame().map(csv_value).to_csv(index=False, lineterminator="\n"))

    def to_markdown(self) -> str:
        """GitHub Markdown: best bold, second underlined, notes below."""
        head = ["#", "Method", "avg rank", "group", *(markdown_text(c.heading) for c in self.shown), *EXTRAS]
        rule = ["--:", ":--", *(["--:"] * (len(head) - 2))]
        body = []
        for x in self.lines:
            cells = [markdown_mark(markdown_text(x.text(c)), x.cells[c.id].mark) for c in self.shown]
            name = markdown_text(x.label) + (" *(control)*" if x.control else "")
            body.append([x.place(), name, markdown_text(x.rank_text()), x.group, *cells, *x.extras()])
        lines = [f"### {markdown_text(self.title)}", ""]
        lines += ["| " + " | ".join(row) + " |" for row in [head, rule, *body]]
        lines += ["", *(f"- {markdown_text(n)}" for n in self._footnotes())]
        return "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        r"""A booktabs table (``\usepackage{booktabs}``): best bold, second underlined, arrows, ±."""
        columns = "rlrc" + "r" * (len(self.shown) + len(EXTRAS))
        heads = [latex_text(c.id) + (f" [{latex_text(c.unit)}]" if c.unit else "") for c in self.shown]
        heads = [
            f"{h} {LATEX_ARROWS[c.direction]}" + (r"$^{!}$" if c.gameable else "")
            for h, c in zip(heads, self.shown, strict=True)
        ]
        out = [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_text(self.title)}. Mean $\pm$ sd over cases; best bold, second underlined."
            r" $^{!}$ won by a control.}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join([r"\#", "Method", "avg rank", "group", *heads, *map(latex_text, EXTRAS)]) + r" \\",
            r"\midrule",
        ]
        for x in self.lines:
            if x.control and x is self.controls[0]:
                out += [
                    r"\midrule",
                    rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{Controls, not ranked}}}} \\",
                ]
            cells = [latex_mark(latex_text(x.text(c)), x.cells[c.id].mark) for c in self.shown]
            lead = map(latex_text, [x.place(), x.label, x.rank_text(), x.group])
            out.append(" & ".join([*lead, *cells, *map(latex_text, x.extras())]) + r" \\")
        out += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
        return "\n".join(out) + "\n"

    def to_terminal(self, console: Console) -> None:
        """Print; columns that do not fit side by side continue in further tables."""
        columns = [("avg rank", [x.rank_text() for x in self.lines], [""] * len(self.lines))]
        columns.append(("group", [x.group for x in self.lines], [""] * len(self.lines)))
        for c in self.shown:
            columns.append(
                (c.heading, [x.text(c) for x in self.lines], [x.cells[c.id].mark for x in self.lines])
            )
        for i, name in enumerate(EXTRAS):
            columns.append((name, [x.extras()[i] for x in self.lines], [""] * len(self.lines)))
        fixed = 10 + max((cell_len(x.label) for x in self.lines), default=6)
        console.print(self.title, style="bold", markup=False, highlight=False)
        while columns:
            widths = np.cumsum([3 + max(cell_len(t) for t in (head, *texts)) for head, texts, _ in columns])
            fitting = max(1, int((widths + fixed <= console.width).sum()))
            console.print(self._part(columns[:fitting]))
            columns = columns[fitting:]
        for note in self._footnotes():
            console.print(f"  {note}", style="dim", markup=False, highlight=False)

    def _part(self, columns: Sequence[tuple[str, list[str], list[str]]]) -> Table:
        table = Table(header_style="bold")
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column("method", no_wrap=True)
        for head, _, _ in columns:
            table.add_column(escape(head), justify="right", no_wrap=True)
        for i, x in enumerate(self.lines):
            if x.control and x is self.controls[0]:
                table.add_section()
            name = f"[dim]{escape(x.label)}[/]" if x.control else escape(x.label)
            table.add_row(x.place(), name, *(rich_mark(escape(t[i]), m[i]) for _, t, m in columns))
        return table

    def _footnotes(self) -> list[str]:
        """Notes of the board, then the reason of every method that misses cases."""
        # What every method lacks (lesion metrics on a subject without lesion, say) is said once.
        first, several = self.lines[:1], len(self.lines) > 1
        shared = [r for x in first for r in x.reasons if several and all(r in y.reasons for y in self.lines)]
        missing = [f"every method: {reason}" for reason in shared]
        own = ((x.method, [r for r in x.reasons if r not in shared]) for x in self.lines)
        missing += [f"{method}: {'; '.join(reasons)}" for method, reasons in own if reasons]
        return [*self.notes, *missing]


def short_seconds(seconds: float) -> str:
    """Three significant digits, never in scientific notation."""
    if not np.isfinite(seconds):
        return "–"
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}" if seconds >= 0.001 else "<0.001"


def short_count(n: int) -> str:
    """12.3 M, 45.6 k, 0."""
    if n >= 1_000_000:
        return f"{n / 1e6:.3g} M"
    return f"{n / 1e3:.3g} k" if n >= 1000 else str(n)
