"""A board in the terminal: notes first, the table last, where the eye is when a run ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fusebench.metric import ARROWS

from .documents import rank_headings, rank_texts
from .escape import rich_mark

if TYPE_CHECKING:
    from .board import Board, Column

# The default table is no wider than this.
MOST_COLUMNS = 100
# Its metrics: three readings and the worst share of them, and what readers of papers look for.
WORST = "reading"
READINGS = ("cho_auc.a", "cho_auc.b", "outline")
_SHORT = {"reading": "read.", "similarity": "simil.", "all": "all"}
_WORST_HEAD = "worst\nshare"
USUAL = ("psnr", "ssim", "mi", "qabf")


@dataclass(frozen=True)
class _Field:
    """One column of text: heading (lines split by a newline), cells and their marks."""

    head: str
    cells: list[str]
    marks: list[str]

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (*self.head.split("\n"), *self.cells))


def print_board(board: Board, console: Console, *, wide: bool = False) -> None:
    """Print notes, then the table.

    Parameters
    ----------
    board : Board
    console : Console
    wide : bool
        All columns of `Board.shown` with standard deviations, as wide as the console; else the means of a
        few in at most `MOST_COLUMNS` columns.
    """
    console.print(board.title, style="bold", markup=False, highlight=False)
    columns = board.shown if wide else _chosen(board)
    for note in (*board.footnotes(), *board.legend(columns)):
        for line in _wrapped(note, console):
            console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    width = console.width if wide else min(console.width, MOST_COLUMNS)
    names = _Field("method", [x.label for x in board.lines], [])
    places = _Field("#", [x.place() for x in board.lines], [])
    fields = _wide(board) if wide else _narrow(board)
    if not wide and _total([places, names, *fields]) > width:
        fields = [replace(f, head=f.head.replace("_", "\n")) for f in fields]
    if not wide and _total([places, names, *fields]) > width:
        fields = [f for f in fields if f.head != _WORST_HEAD]  # the readings beside it say the same
    while fields:
        used, count = places.width + 1 + names.width, 0
        while count < len(fields) and (not count or used + 1 + fields[count].width <= width):
            used += 1 + fields[count].width
            count += 1
        console.print(_table(board, [places, names, *fields[:count]]))
        fields = fields[count:]


def _wrapped(note: str, console: Console) -> list[str]:
    """A note in lines; those after its first begin further in, so that notes are told apart."""
    lines = Text(note).wrap(console, max(20, console.width - 4))
    return [f"{'    ' if i else '  '}{line.plain.rstrip()}" for i, line in enumerate(lines)]


def _total(fields: Sequence[_Field]) -> int:
    return sum(f.width for f in fields) + len(fields) - 1


def _plain(head: str, cells: Sequence[str]) -> _Field:
    return _Field(head, list(cells), [""] * len(cells))


def _wide(board: Board) -> list[_Field]:
    lines = board.lines
    fields = [_plain("group", [x.group for x in lines])]
    texts = [rank_texts(board, x) for x in lines]
    for i, head in enumerate(rank_headings(board)):
        fields.append(_plain(head.replace(" ", "\n"), [t[i] for t in texts]))
    for c in board.shown:
        fields.append(_Field(_heading(c), [x.text(c) for x in lines], [x.cells[c.id].mark for x in lines]))
    for name in board.EXTRAS:
        fields.append(_plain(name, [x.extras()[name] for x in lines]))
    return fields


def _narrow(board: Board) -> list[_Field]:
    lines = board.lines
    fields = [_plain("group", [x.group for x in lines])]
    for name in _SHORT:
        if name in board.rankings:
            fields.append(_plain(f"{_SHORT[name]}\nrank", [x.ranks[name].short for x in lines]))
    for c in _chosen(board):
        decimals = 2 if c.decimals <= 2 or c.id == WORST else 3
        cells = [x.cells[c.id].mean_text(decimals) for x in lines]
        head = _WORST_HEAD if c.id == WORST else _heading(c)
        fields.append(_Field(head, cells, [x.cells[c.id].mark for x in lines]))
    if any(x.ok < x.asked for x in lines):
        fields.append(_plain("n ok", [x.extras()["n ok"] for x in lines]))
    fields.append(_plain("s/case", [x.extras()["s/case"] for x in lines]))
    return fields


def _chosen(board: Board) -> Sequence[Column]:
    """Metrics of the default table; a board of others shows what it ranks on."""
    found = {c.id: c for c in board.columns}
    return [found[i] for i in (WORST, *READINGS, *USUAL) if i in found] or board.shown


def _heading(column: Column) -> str:
    """The id, long ones broken at the dot; below it unit, arrow and the mark of a metric a control wins."""
    name, dot, part = column.id.partition(".")
    below = [f"{dot}{part}" if part else "", column.unit, ARROWS[column.direction]]
    return f"{name}\n{' '.join(x for x in (*below, '⚠' if column.gameable else '') if x)}".rstrip()


def _table(board: Board, fields: Sequence[_Field]) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for i, field in enumerate(fields):
        table.add_column(
            escape(field.head), justify="left" if i == 1 else "right", vertical="bottom", no_wrap=True
        )
    for i, x in enumerate(board.lines):
        if x.control and x is board.controls[0]:
            table.add_row()
        cells = [rich_mark(escape(f.cells[i]), f.marks[i]) if f.marks else escape(f.cells[i]) for f in fields]
        if x.control:
            cells[1] = f"[dim]{cells[1]}[/]"
        table.add_row(*cells)
    return table
