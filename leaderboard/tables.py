"""One table model (`Board`) and its renderings: terminal, CSV, Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fusebench.metric import MetricId

from .ranking import MISSING_RULE, Ranking, Scores, gameable, plural, rank, summarise

ARROWS = {"higher": "↑", "lower": "↓", "zero": "→0", "none": ""}
_LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", "zero": r"$\to 0$", "none": ""}


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
    """One metric of one method: statistics over cases, the 95 % interval by subject, and its mark."""

    mean: float
    sd: float
    median: float
    low: float
    high: float
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
        Cases with every ranked metric, and cases of the run.
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
        return str(self.facts.get("origin", "")).startswith("files:")

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
        rows = []
        for x in self.lines:
            row: dict[str, Any] = {
                "method": x.method,
                "control": x.control,
                "position": x.position,
                "average_rank": x.average,
                "rank_low": x.low,
                "rank_high": x.high,
                "position_best": x.best,
                "position_worst": x.worst,
                "group": x.group,
                "win_rate": x.win_rate,
                "cases_ok": x.ok,
                "cases": x.asked,
                "seconds": x.seconds,
                "memory_mb": x.memory_mb,
                "gpu_memory_mb": x.gpu_memory_mb,
                "params": x.params,
                "dims": x.dims,
                "trained_on": x.trained_on,
                "overlap": x.overlap,
                "reason": "; ".join(x.reasons),
            }
            for c in self.columns:
                cell = x.cells[c.id]
                for name in ("mean", "sd", "median", "low", "high", "n"):
                    row[f"{c.id}_{name}"] = getattr(cell, name)
            rows.append(row)
        return pd.DataFrame(rows).astype({"position": "Int64", "dims": "Int64"})

    def to_csv(self) -> str:
        """Comma-separated values of `frame`, lossless."""
        return str(self.frame().to_csv(index=False, lineterminator="\n"))

    def to_markdown(self) -> str:
        """GitHub Markdown: best bold, second underlined, notes below."""
        head = ["#", "Method", "avg rank", "group", *(markdown_text(c.heading) for c in self.shown), *EXTRAS]
        rule = ["--:", ":--", *(["--:"] * (len(head) - 2))]
        body = []
        for x in self.lines:
            cells = [_md_mark(markdown_text(x.text(c)), x.cells[c.id].mark) for c in self.shown]
            name = markdown_text(x.label) + (" *(control)*" if x.control else "")
            body.append([x.place(), name, markdown_text(x.rank_text()), x.group, *cells, *x.extras()])
        lines = [f"### {markdown_text(self.title)}", ""]
        lines += ["| " + " | ".join(row) + " |" for row in [head, rule, *body]]
        lines += ["", *(f"- {markdown_text(n)}" for n in self._footnotes())]
        return "\n".join(lines) + "\n"

    def to_latex(self) -> str:
        r"""A booktabs table (``\usepackage{booktabs}``): best bold, second underlined, arrows, ±."""
        columns = "rlrc" + "r" * (len(self.shown) + len(EXTRAS))
        heads = [_tex(c.id) + (f" [{_tex(c.unit)}]" if c.unit else "") for c in self.shown]
        heads = [
            f"{h} {_LATEX_ARROWS[c.direction]}" + (r"$^{!}$" if c.gameable else "")
            for h, c in zip(heads, self.shown, strict=True)
        ]
        out = [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(self.title)}. Mean $\pm$ sd over cases; best bold, second underlined."
            r" $^{!}$ won by a control.}",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join([r"\#", "Method", "avg rank", "group", *heads, *map(_tex, EXTRAS)]) + r" \\",
            r"\midrule",
        ]
        for x in self.lines:
            if x.control and x is self.controls[0]:
                out += [
                    r"\midrule",
                    rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{Controls, not ranked}}}} \\",
                ]
            cells = [_tex_mark(_tex(x.text(c)), x.cells[c.id].mark) for c in self.shown]
            lead = map(_tex, [x.place(), x.label, x.rank_text(), x.group])
            out.append(" & ".join([*lead, *cells, *map(_tex, x.extras())]) + r" \\")
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
            table.add_row(x.place(), name, *(_rich_mark(escape(t[i]), m[i]) for _, t, m in columns))
        return table

    def _footnotes(self) -> list[str]:
        """Notes of the board, then the reason of every method that misses cases."""
        missing = [f"{x.method}: {'; '.join(x.reasons)}" for x in self.lines if x.reasons]
        return [*self.notes, *missing]


EXTRAS = ("n ok", "s/case", "MB", "params")


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


def _rich_mark(text: str, mark: str) -> str:
    return {"best": f"[bold green]{text}[/]", "second": f"[underline]{text}[/]"}.get(mark, text)


def markdown_text(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    for a, b in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", r"\|"), ("*", r"\*"), ("`", r"\`")):
        text = text.replace(a, b)
    return text.replace("_", r"\_").replace("[", r"\[").replace("\n", " ")


def _md_mark(text: str, mark: str) -> str:
    return {"best": f"**{text}**", "second": f"<u>{text}</u>"}.get(mark, text)


_TEX = {
    "\\": r"\textbackslash{}",
    **{ch: "\\" + ch for ch in "&%$#_{}"},
    **{ch: f"${ch}$" for ch in "<>|"},
    **{ch: "{" + ch + "}" for ch in "[]"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "∞": r"$\infty$",
    "–": "--",
    "⚠": "!",
    '"': "''",
    "\n": " ",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(ch, ch) for ch in text)


def _tex_mark(text: str, mark: str) -> str:
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}"}.get(mark, text)


# -- building ----------------------------------------------------------------------------------------


def build(
    rows: pd.DataFrame, manifest: Mapping[str, Any], protocol: str, metrics: Sequence[str] | None = None
) -> Board:
    """Make the board of one protocol from stored rows and the manifest alone.

    Parameters
    ----------
    rows : DataFrame
        Columns of `fusebench.results.Row`.
    manifest : mapping
        ``methods`` and ``metrics`` by name with the fields of their infos.
    protocol : str
    metrics : sequence of str, optional
        Ids to show and to rank on.  By default every id in the rows is on the board and the default
        ranking set counts: a metric with ``ranked`` true, and its ``worst`` part.

    Returns
    -------
    Board
    """
    mine = rows[rows["protocol"] == protocol]
    columns = _columns(mine, manifest, metrics)
    infos: Mapping[str, Any] = manifest.get("methods", {})
    names = list(dict.fromkeys([*infos, *mine["method"].astype(str)]))
    controls = [m for m in names if infos.get(m, {}).get("control")]
    # "none" is kept out of the ranking; so is a metric that is on the board but not in the ranking set.
    directions = {c.id: c.direction for c in columns}
    scores = Scores.from_rows(mine, names, [c.id for c in columns], directions)
    summary = summarise(scores)
    flags = gameable(summary, scores, controls)
    columns = tuple(_finish(c, summary, flags.get(c.id, "")) for c in columns)
    ranked = [c.id for c in columns if c.ranked]
    silent = _silent(scores)
    ranking = rank(scores.take([m for m in names if m not in silent], ranked), controls)
    lines = _lines(mine, manifest, names, controls, columns, scores, summary, ranking)
    dataset = ", ".join(sorted(set(mine["dataset"].astype(str))))
    return Board(
        f"{dataset or 'no data'}, protocol {protocol}, {plural(len(scores.cases), 'case')} of "
        f"{plural(len(scores.subjects), 'subject')}",
        protocol,
        dataset,
        columns,
        lines,
        ranking,
        scores,
        summary,
        _board_notes(columns, ranking, lines),
    )


def _silent(scores: Scores) -> set[str]:
    """Methods without any value: listed with their reason, but no rank can be stated."""
    return {m for i, m in enumerate(scores.methods) if np.isnan(scores.values[i]).all()}


def facts_of(metric: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest's facts for a metric id, of the id itself or of its metric."""
    known: Mapping[str, Any] = manifest.get("metrics", {})
    return known.get(metric) or known.get(MetricId.parse(metric).name) or {}


def _columns(
    rows: pd.DataFrame, manifest: Mapping[str, Any], metrics: Sequence[str] | None
) -> tuple[Column, ...]:
    present = [m for m in dict.fromkeys(rows["metric"].dropna().astype(str)) if m]
    wanted = present if metrics is None else list(metrics)
    columns = []
    for name in wanted:
        facts = facts_of(name, manifest)
        mid = MetricId.parse(name)
        direction = str(facts.get("direction", "none"))
        default = bool(facts.get("ranked")) and not mid.variant and mid.part in ("", "worst")
        columns.append(
            Column(
                name,
                str(facts.get("title", name)),
                direction,
                str(facts.get("unit", "")),
                _number(facts.get("low"), -np.inf),
                _number(facts.get("high"), np.inf),
                direction != "none" and (default if metrics is None else True),
                facts=facts,
            )
        )
    if not any(c.ranked for c in columns):
        # Protocols made of variants only (`paper`) rank on everything that has a direction.
        columns = [_replace(c, ranked=c.direction != "none") for c in columns]
    return tuple(sorted(columns, key=lambda c: not c.ranked)) if metrics is None else tuple(columns)


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _replace(column: Column, **changes: Any) -> Column:
    return Column(**{**column.__dict__, **changes})


def _finish(column: Column, summary: pd.DataFrame, control: str) -> Column:
    """Decimals from the size of the values: four significant digits at the usual spread."""
    mean = summary["mean"].xs(column.id, level="metric").abs()
    mean = mean[np.isfinite(mean)]
    top = float(mean.max()) if len(mean) else 1.0
    decimals = 4 if top < 1 else 3 if top < 10 else 2 if top < 1000 else 1
    return _replace(column, gameable=control, decimals=decimals)


def _marks(summary: pd.DataFrame, column: Column, ranked: Sequence[str]) -> dict[str, str]:
    """Best and second mean among ranked methods with the most cases: no gain by missing the hard ones."""
    if column.direction == "none" or not ranked:
        return {}
    table = summary.xs(column.id, level="metric").loc[list(ranked)]
    table = table[table["n"].gt(0) & table["n"].eq(table["n"].max())]
    good = {"lower": -table["mean"], "zero": -table["mean"].abs()}.get(column.direction, table["mean"])
    place = good.rank(ascending=False, method="min")
    return {str(m): {1.0: "best", 2.0: "second"}[p] for m, p in place.items() if p <= 2}


def _lines(
    rows: pd.DataFrame,
    manifest: Mapping[str, Any],
    names: Sequence[str],
    controls: Sequence[str],
    columns: Sequence[Column],
    scores: Scores,
    summary: pd.DataFrame,
    ranking: Ranking,
) -> tuple[Line, ...]:
    infos: Mapping[str, Any] = manifest.get("methods", {})
    data: Mapping[str, Any] = manifest.get("dataset", {})
    scored = f"{data.get('name')}/{data.get('split')}"
    marks = {c.id: _marks(summary, c, [m for m in names if m not in controls]) for c in columns}
    costs = _costs(rows)
    k = [i for i, c in enumerate(columns) if c.ranked]
    asked = scores.asked[:, k]
    there: NDArray[np.bool_] = ~np.isnan(scores.values[:, :, k])
    complete = np.asarray((there | ~asked).all(axis=2) & asked.any(axis=1))
    table = summary.to_dict(orient="index")
    cells = {
        m: {c.id: Cell(**_cell(table[(m, c.id)]), mark=marks[c.id].get(m, "")) for c in columns}
        for m in names
    }
    places = ranking.table.to_dict(orient="index")
    lines = []
    for i, m in enumerate(names):
        info = infos.get(m, {})
        row: Mapping[Any, Any] | None = places.get(m)
        lines.append(
            Line(
                method=m,
                control=m in controls,
                position=None if row is None or np.isnan(row["average"]) else int(row["position"]),
                average=float(ranking.controls.get(m, np.nan)) if row is None else float(row["average"]),
                low=np.nan if row is None else float(row["low"]),
                high=np.nan if row is None else float(row["high"]),
                best=np.nan if row is None else float(row["best"]),
                worst=np.nan if row is None else float(row["worst"]),
                group="" if row is None else str(row["group"]),
                win_rate=np.nan if row is None else float(row["win_rate"]),
                cells=cells[m],
                ok=int(complete[i].sum()),
                asked=len(scores.cases),
                seconds=float(costs["seconds"].get(m, np.nan)),
                memory_mb=float(costs["memory"].get(m, np.nan)),
                gpu_memory_mb=float(costs["gpu"].get(m, np.nan)),
                params=int(info.get("params") or 0),
                dims=info.get("dims"),
                trained_on=str(info.get("trained_on") or ""),
                overlap=scored in str(info.get("trained_on") or "").replace(",", " ").split(),
                reasons=_reasons(rows[rows["method"] == m], info),
                facts=info,
            )
        )
    return tuple(
        sorted(lines, key=lambda x: (x.control, x.position or np.inf, np.nan_to_num(x.average, nan=np.inf)))
    )


def _cell(row: Mapping[Any, Any]) -> dict[str, Any]:
    floats = {name: float(row[name]) for name in ("mean", "sd", "median", "low", "high")}
    return {**floats, "n": int(row["n"]), "asked": int(row["asked"])}


def _costs(rows: pd.DataFrame) -> dict[str, pd.Series]:
    number = rows.assign(
        **{c: pd.to_numeric(rows[c], errors="coerce") for c in ("fuse_seconds", "memory_mb", "gpu_memory_mb")}
    )
    by_case = number.groupby(["method", "dataset", "case"], observed=True)["fuse_seconds"].max()
    by_method = number.groupby("method", observed=True)
    return {
        "seconds": by_case.groupby("method").median(),
        "memory": by_method["memory_mb"].max(),
        "gpu": by_method["gpu_memory_mb"].max(),
    }


def _reasons(rows: pd.DataFrame, info: Mapping[str, Any]) -> tuple[str, ...]:
    """``error x 2 cases: message`` for all statuses but ok, most frequent first."""
    found = [str(info["broken"])] if info.get("broken") else []
    bad = rows[rows["status"] != "ok"]
    if len(bad):
        counts = (
            bad.groupby(["status", "reason"], observed=True)["case"].nunique().sort_values(ascending=False)
        )
        for (status, reason), n in dict(counts).items():
            text = " ".join(str(reason).split()) or "no reason given"
            found.append(f"{status} in {plural(n, 'case')}: {text[:200]}")
    if not found and rows.empty:
        found.append("no rows in this protocol")
    return tuple(found)


def _board_notes(columns: Sequence[Column], ranking: Ranking, lines: Sequence[Line]) -> tuple[str, ...]:
    ids = ", ".join(ranking.metrics) or "nothing"
    notes = [
        f"Mean ± sd over cases; rank = average over {ids}, with its bootstrap 95 % interval by subject. "
        "Methods that share a group letter do not differ significantly (Wilcoxon, Holm)."
    ]
    if any(x.control for x in lines):
        notes.append("c: a control, never ranked; in brackets the average rank it would have.")
    gamed = [f"{c.id} ({c.gameable})" for c in columns if c.gameable and c.ranked]
    if gamed:
        notes.append("⚠ gameable here, a control beats every method: " + ", ".join(gamed))
    if any(x.ok < x.asked for x in lines):
        notes.append(
            f"Missing cases are penalised by {MISSING_RULE}; marks go to methods with the most cases."
        )
    if any(x.dims == 2 for x in lines):
        notes.append("(2D): fuses slice by slice.")
    if any(x.from_files for x in lines):
        notes.append("(files): scored from image files; how and at what cost they were made is not known.")
    return (*notes, *ranking.notes)
