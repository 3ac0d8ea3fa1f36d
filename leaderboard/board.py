"""The table model: `Board` and its parts; `documents` and `terminal` render it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from rich.console import Console

from fusebench.metric import ARROWS, MetricId
from fusebench.text import csv_value, plural

from . import documents, terminal
from .ranking import Ranking
from .scores import Scores


def known_by_files(info: Mapping[str, Any]) -> bool:
    """True for an entry of images made elsewhere, given the manifest's facts of a method."""
    return str(info.get("origin", "")).startswith("files:")


@dataclass(frozen=True)
class Column:
    """A metric of the board.

    Attributes
    ----------
    id, title, unit, direction : str
    low, high : float
        Range of the metric.
    kind : {"reading", "similarity"}
        The average rank that it may count in: what can still be read, or the likeness to the sources.
    default : bool
        Of the default set: shown where there is room for some only.
    ranked : bool
        Counts in the average rank of its kind.
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
    kind: str = "similarity"
    default: bool = False
    ranked: bool = False
    gameable: str = ""
    decimals: int = 3
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the metric is called, and of which source; its definition of another program is said so."""
        mid = MetricId.parse(self.id)
        of = {"a": "structural source", "b": "functional source", "worst": "the worse source"}
        parts = [self.title, of.get(mid.part, mid.part), f"as {mid.variant}" if mid.variant else ""]
        return ", ".join(part for part in parts if part)

    @property
    def heading(self) -> str:
        """Id, unit, arrow and the mark of a metric that a control wins."""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.id}{unit} {ARROWS[self.direction]}".strip() + (" ⚠" if self.gameable else "")


@dataclass(frozen=True)
class Cell:
    """One metric of one method.

    Attributes
    ----------
    mean, sd, median : float
        Over cases.
    low, high : float
        The 95 % interval of the mean by subject.
    good : float
        What methods are ordered by, larger is better: the mean, minus the mean where lower is better, minus
        the mean size where zero is best.
    n, asked : int
        Cases with a value, and cases that the metric applies to.
    mark : {"", "best", "second"}
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

    def mean_text(self, decimals: int) -> str:
        """The mean; a dash where there is none."""
        if self.n == 0:
            return "–"
        return f"{self.mean:.{decimals}f}" if np.isfinite(self.mean) else "∞" if self.mean > 0 else "-∞"

    def text(self, decimals: int) -> str:
        """``mean ± sd``."""
        sd = f" ± {self.sd:.{decimals}f}" if self.n and np.isfinite(self.sd) else ""
        return self.mean_text(decimals) + sd


@dataclass(frozen=True)
class Standing:
    """An average rank and its 95 % interval; of a control the rank it would have."""

    average: float = np.nan
    low: float = np.nan
    high: float = np.nan
    control: bool = False

    @property
    def short(self) -> str:
        """The rank; in brackets for a control."""
        if not np.isfinite(self.average):
            return "–"
        text = f"{self.average:.2f}" if self.average < 10 else f"{self.average:.1f}"
        return f"({text})" if self.control else text

    @property
    def text(self) -> str:
        """The rank with its interval."""
        interval = f" [{self.low:.2f}, {self.high:.2f}]" if np.isfinite(self.low) else ""
        return self.short + interval


@dataclass(frozen=True)
class Line:
    """One method of the board.

    Attributes
    ----------
    position : int or None
        None for a control, and for a method without any value or of which too little was run.
    standing : Standing
        In the ranking that gives the places.
    ranks : mapping
        Standing by ranking, "reading" and "similarity".
    best, worst : float
        The 95 % interval of the position.
    group : str
        Methods that share a letter do not differ significantly.
    win_rate : float
        Share of duels won.
    ok, asked : int
        Cases with every ranked metric (every metric where none is ranked), and cases of the run.
    seconds, memory_mb, gpu_memory_mb : float
        Median fusing time per case; peak memory.
    overlap : bool
        The weights were trained on the very split that is scored.
    reasons : tuple of str
        Why cases are missing, most frequent first, with counts.
    alike : str
        Of a learned method, the unlearned one that it equals.
    """

    method: str
    control: bool
    position: int | None
    standing: Standing
    ranks: Mapping[str, Standing]
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
    alike: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Name, marked when the method is slice-wise or known from its images only."""
        return self.method + (" (2D)" if self.dims == 2 else " (files)" if self.from_files else "")

    @property
    def average(self) -> float:
        """Average rank in the ranking that gives the places."""
        return self.standing.average

    @property
    def from_files(self) -> bool:
        """True where images made elsewhere were scored."""
        return known_by_files(self.facts)

    def text(self, column: Column) -> str:
        """A cell, with its own count where that is not the line's."""
        cell = self.cells[column.id]
        count = f" ({cell.n}/{cell.asked})" if 0 < cell.n < cell.asked and cell.n != self.ok else ""
        return cell.text(column.decimals) + count

    def place(self) -> str:
        """Position; "c" for a control."""
        return "c" if self.control else "–" if self.position is None else str(self.position)

    def extras(self) -> dict[str, str]:
        """Cells of `Board.EXTRAS`."""
        memory = f"{self.memory_mb:.0f}" if np.isfinite(self.memory_mb) else "–"
        cells = (f"{self.ok}/{self.asked}", short_seconds(self.seconds), memory, short_count(self.params))
        return dict(zip(Board.EXTRAS, cells, strict=True))


@dataclass(frozen=True, eq=False)
class Board:
    """The table of one protocol: ranked methods best first, then methods without a place, then controls.

    Attributes
    ----------
    title, protocol, dataset : str
    columns : tuple of Column
    lines : tuple of Line
    rankings : mapping
        `Ranking` by name: "reading" and "similarity" where the rows have such metrics, or "all".
    by : str
        Which of them gives the places.
    scores : Scores
    summary : DataFrame
        Of `intervals.summarise`.
    notes : tuple of str
    """

    EXTRAS: ClassVar[tuple[str, ...]] = ("n ok", "s/case", "MB", "params")

    title: str
    protocol: str
    dataset: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    rankings: Mapping[str, Ranking]
    by: str
    scores: Scores
    summary: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def ranking(self) -> Ranking:
        """The ranking that gives the places."""
        return self.rankings[self.by]

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
        """Columns of Markdown, LaTeX and the wide terminal: the default set, or all where there is none."""
        return tuple(c for c in self.columns if c.ranked or c.default) or self.columns

    # -- renderings ----------------------------------------------------------------------------------

    def frame(self) -> pd.DataFrame:
        """The whole board, one row per method, full precision; what `to_csv` writes."""
        lines = self.lines
        table: dict[str, list[Any]] = {
            "method": [x.method for x in lines],
            "control": [x.control for x in lines],
            "position": [x.position for x in lines],
            "average_rank": [x.average for x in lines],
            "rank_low": [x.standing.low for x in lines],
            "rank_high": [x.standing.high for x in lines],
            **{f"{name}_rank": [x.ranks[name].average for x in lines] for name in self.rankings},
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
            "equals": [x.alike for x in lines],
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
        return documents.markdown(self)

    def to_latex(self) -> str:
        r"""A booktabs table (``\usepackage{booktabs}``): best bold, second underlined, arrows, ±."""
        return documents.latex(self)

    def __repr__(self) -> str:
        places = ", ".join(f"{x.place()} {x.method}" for x in self.methods[:3])
        more = ", ..." if len(self.methods) > 3 else ""
        counts = f"{plural(len(self.methods), 'method')}, {plural(len(self.controls), 'control')}"
        return f"<board {self.protocol} of {self.dataset}: {counts}; {places}{more}>"

    def _repr_html_(self) -> str:
        """The board in a notebook."""
        return documents.html(self)

    def to_terminal(self, console: Console, *, wide: bool = False) -> None:
        """Print notes, then the table: the readings and what most papers report, at most 100 columns wide.

        Parameters
        ----------
        console : Console
        wide : bool
            All that ranks, with standard deviations and intervals, as wide as the console.
        """
        terminal.print_board(self, console, wide=wide)

    @cached_property
    def shared_reasons(self) -> frozenset[str]:
        """Why values are missing for every method alike."""
        return (
            frozenset.intersection(*(frozenset(x.reasons) for x in self.lines)) if self.lines else frozenset()
        )

    def legend(self, columns: Sequence[Column] | None = None) -> list[str]:
        """One line with the names of the metrics; `columns`: of these, default `shown`."""
        shown = self.shown if columns is None else columns
        names = {MetricId.parse(c.id).name: c.title for c in shown if c.title != c.id}
        return [f"Metrics: {'; '.join(f'{i}: {name}' for i, name in names.items())}."] if names else []

    def footnotes(self) -> list[str]:
        """Notes of the board, then why cases are missing: each reason once, with its methods."""
        missing: dict[str, list[str]] = {}
        for x in self.lines:
            for reason in x.reasons:
                missing.setdefault(reason, []).append(x.method)
        everyone = len(self.lines) if len(self.lines) > 1 else 0
        said = [
            f"{reason} (all methods)" if len(names) == everyone else f"{', '.join(names)}: {reason}"
            for reason, names in missing.items()
        ]
        return [*self.notes, *said]


def short_seconds(seconds: float) -> str:
    """Three significant digits, of small times three decimals; never in scientific notation."""
    if not np.isfinite(seconds):
        return "–"
    if seconds < 0.1:
        return f"{seconds:.3f}" if seconds >= 0.001 else "<.001"
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"


def short_count(n: int) -> str:
    """12.3 M, 45.6 k, 0."""
    if n >= 1_000_000:
        return f"{n / 1e6:.3g} M"
    return f"{n / 1e3:.3g} k" if n >= 1000 else str(n)
