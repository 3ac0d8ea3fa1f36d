"""A board with everything that the pages show of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from fusebench.text import plural

from .agreement import Agreement
from .board import Board, Column
from .paper_values import NOTE, number, paper_table

# Groups of metric columns: by kind those of the default set, then the others, hidden at first.
KINDS, FURTHER = ("reading", "similarity"), "further metrics"


@dataclass(frozen=True)
class Span:
    """Horizontal scale of a column's interval bars."""

    low: float
    high: float

    def at(self, x: float) -> float:
        """Position in percent."""
        return round(100 * (x - self.low) / ((self.high - self.low) or 1.0), 2)

    def width(self, low: float, high: float) -> float:
        """Length in percent."""
        return round(self.at(high) - self.at(low), 2)


@dataclass(frozen=True)
class Status:
    """The outcome of one method on one case, in words, and a flag for a failure."""

    text: str
    failed: bool


NOTHING = Status("–", False)


@dataclass(frozen=True)
class Outcome:
    """Status and values of one method on one case: the values as cells of a table, and as text."""

    status: Status
    cells: Markup
    texts: list[str]

    @property
    def printed(self) -> list[str]:
        """Status and values, for paper."""
        return [self.status.text, *self.texts]


@dataclass(frozen=True, eq=False)
class Section:
    """A board with everything the pages need of it."""

    board: Board
    slug: str
    rows: pd.DataFrame
    statuses: Mapping[tuple[str, str], Status]
    figures: list[dict[str, str]]
    files: list[dict[str, str]]
    spans: Mapping[str, Span]
    agreement: Agreement | None

    @property
    def title(self) -> str:
        return self.board.title

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.board.columns

    @property
    def groups(self) -> list[str]:
        """Groups of columns that the page can show and hide, those with columns only."""
        kinds = {self._group(c) for c in self.columns}
        return [*(g for g in (*KINDS, FURTHER) if g in kinds), "cost", "about"]

    def group_class(self, column: Column) -> str:
        """Class of a column's cells, by its group."""
        return f"g-{self._group(column).replace(' ', '-')}"

    def _group(self, column: Column) -> str:
        return column.kind if column in self.board.shown else FURTHER

    @property
    def printed_names(self) -> list[str]:
        """Methods with their places."""
        return [f"{x.place()} {x.label}" for x in self.board.lines]

    @property
    def printed_headings(self) -> list[str]:
        """Every column of the table."""
        ranks = [f"{name} rank" for name in self.board.rankings]
        metrics = [c.heading for c in self.columns]
        return [*ranks, "group", "win rate", *metrics, *self.board.EXTRAS, "GPU MB", "dims", "trained on"]

    @property
    def printed_rows(self) -> list[list[str]]:
        """Cells of `printed_headings`, a list per method."""
        return [
            [
                *(x.ranks[name].text for name in self.board.rankings),
                x.group,
                f"{x.win_rate:.2f}" if np.isfinite(x.win_rate) else "–",
                *(x.text(c) for c in self.columns),
                *x.extras().values(),
                f"{x.gpu_memory_mb:.0f}" if np.isfinite(x.gpu_memory_mb) else "–",
                str(x.dims or "–"),
                x.trained_on or "–",
            ]
            for x in self.board.lines
        ]

    @property
    def printed_agreement(self) -> list[list[str]]:
        """Cells of the table of agreement, a list per similarity metric."""
        a = self.agreement
        return [[a.text(s, r) for r in a.readings] for s in a.similarities] if a else []

    def outcome(self, method: str, case: str) -> Outcome:
        """The outcome of one method on one case."""
        scores = self.board.scores
        values = scores.values[scores.methods.index(method), scores.cases.index(case)].tolist()
        texts = [digits(v, c) for v, c in zip(values, self.columns, strict=True)]
        keys = [abs(v) if c.direction == "zero" else v for v, c in zip(values, self.columns, strict=True)]
        # Pages hold each value twice, in numbers that make a macro of Jinja dear.
        cells = "".join(f'<td data-value="{sortable(k)}">{t}</td>' for k, t in zip(keys, texts, strict=True))
        return Outcome(self.statuses.get((method, case), NOTHING), Markup(cells), texts)

    @property
    def published(self) -> dict[str, Any] | None:
        """The paper's row beside ours, for the protocol `paper`."""
        table = paper_table(self.board) if self.board.protocol == "paper" else pd.DataFrame()
        if table.empty:
            return None
        metrics = [c for c in table.columns if c not in ("method", "data", "control")]
        rows = [
            {
                "method": r["method"],
                "data": r["data"],
                "control": r["control"],
                "values": [number(r[m]) for m in metrics],
            }
            for r in table.to_dict("records")
        ]
        return {"note": NOTE, "metrics": metrics, "rows": rows}

    @property
    def stability(self) -> list[dict[str, Any]]:
        """Position intervals of the ranked methods."""
        table = self.board.ranking.table
        if len(table) < 2:
            return []

        def between(low: float, high: float) -> str:
            return "–" if np.isnan(low) else f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"

        return [
            {
                "method": r["method"],
                "average": r["average"],
                "positions": between(r["best"], r["worst"]),
                "lomo": between(r["lomo_best"], r["lomo_worst"]),
            }
            for r in table.reset_index().to_dict("records")
        ]

    @property
    def leave_out(self) -> list[dict[str, Any]]:
        """Kendall's tau of the ranking without one metric."""
        table = self.board.ranking.leave_one_out
        return [
            {"metric": m, "tau": "–" if np.isnan(r["tau"]) else f"{r['tau']:.2f}", "first": r["first"]}
            for m, r in table.to_dict(orient="index").items()
        ]

    @property
    def friedman(self) -> str:
        """Friedman's test in words."""
        test = self.board.ranking.friedman
        if test is None:
            return ""
        return (
            f"Friedman's test over {plural(len(self.board.ranking.blocks), 'subject')}: "
            f"chi-square {test.chi2:.2f}, Iman-Davenport F {test.f:.2f}, p = {test.p:.2g}."
        )


def sortable(x: float | str | None) -> str:
    """The sort key of a cell: nothing for no value, JavaScript's spelling for an infinite one."""
    if x is None or x != x:
        return ""
    return str(x).replace("inf", "Infinity") if isinstance(x, float) else str(x)


def digits(x: float, column: Column) -> str:
    """A value with the decimals of its column."""
    return short(x) if x != x or abs(x) > 1e300 else f"{x:.{column.decimals}f}"


def short(x: float) -> str:
    """Four significant digits."""
    return "–" if np.isnan(x) else f"{x:.4g}".replace("inf", "∞")
