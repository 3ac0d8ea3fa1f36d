"""A board as Markdown, LaTeX and HTML, for pages, papers and notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .escape import latex_mark, latex_text, markdown_mark, markdown_text

if TYPE_CHECKING:
    from .board import Board, Line

LATEX_ARROWS = {"higher": r"$\uparrow$", "lower": r"$\downarrow$", "zero": r"$\to 0$", "none": ""}


def rank_headings(board: Board) -> list[str]:
    """One column per ranking, the one that gives the places first."""
    return [f"{name} rank" for name in _rankings(board)]


def rank_texts(board: Board, line: Line) -> list[str]:
    """Average ranks of a line, with the interval in the ranking that gives the places."""
    return [line.ranks[n].text if n == board.by else line.ranks[n].short for n in _rankings(board)]


def _rankings(board: Board) -> list[str]:
    return sorted(board.rankings, key=lambda name: name != board.by)


def markdown(board: Board) -> str:
    """GitHub Markdown: best bold, second underlined, notes below."""
    head = ["#", "Method", "group", *rank_headings(board)]
    head += [*(markdown_text(c.heading) for c in board.shown), *board.EXTRAS]
    rule = ["--:", ":--", *(["--:"] * (len(head) - 2))]
    body = []
    for x in board.lines:
        cells = [markdown_mark(markdown_text(x.text(c)), x.cells[c.id].mark) for c in board.shown]
        name = markdown_text(x.label) + (" *(control)*" if x.control else "")
        ranks = [markdown_text(text) for text in rank_texts(board, x)]
        body.append([x.place(), name, x.group, *ranks, *cells, *x.extras().values()])
    lines = [f"### {markdown_text(board.title)}", ""]
    lines += ["| " + " | ".join(row) + " |" for row in [head, rule, *body]]
    lines += ["", *(f"- {markdown_text(n)}" for n in (*board.footnotes(), *board.legend()))]
    return "\n".join(lines) + "\n"


def latex(board: Board) -> str:
    r"""A booktabs table (``\usepackage{booktabs}``): best bold, second underlined, arrows, ±."""
    ranks = rank_headings(board)
    columns = "rlc" + "r" * (len(ranks) + len(board.shown) + len(board.EXTRAS))
    heads = [latex_text(c.id) + (f" [{latex_text(c.unit)}]" if c.unit else "") for c in board.shown]
    heads = [
        f"{h} {LATEX_ARROWS[c.direction]}" + (r"$^{!}$" if c.gameable else "")
        for h, c in zip(heads, board.shown, strict=True)
    ]
    out = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_text(board.title)}. Mean $\pm$ sd over cases; best bold, second underlined."
        r" $^{!}$ won by a control.}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join([r"\#", "Method", "group", *ranks, *heads, *map(latex_text, board.EXTRAS)]) + r" \\",
        r"\midrule",
    ]
    for x in board.lines:
        if x.control and x is board.controls[0]:
            out += [
                r"\midrule",
                rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{Controls, not ranked}}}} \\",
            ]
        cells = [latex_mark(latex_text(x.text(c)), x.cells[c.id].mark) for c in board.shown]
        lead = map(latex_text, [x.place(), x.label, x.group, *rank_texts(board, x)])
        out.append(" & ".join([*lead, *cells, *map(latex_text, x.extras().values())]) + r" \\")
    out += [r"\bottomrule", r"\end{tabular}}", r"\end{table}"]
    return "\n".join(out) + "\n"


def html(board: Board) -> str:
    """A plain table for notebooks, of what the terminal shows; notes and names of the metrics fold out."""
    head = ["#", "method", "group", *rank_headings(board), *(c.heading for c in board.shown)]
    names = [""] * (len(head) - len(board.shown)) + [c.name for c in board.shown]
    titles = [f' title="{escape(name)}"' if name else "" for name in names]
    heads = "".join(f"<th{t}>{escape(text)}</th>" for t, text in zip(titles, head, strict=True))
    body = "".join(_html_row(board, line) for line in board.lines)
    notes = "".join(f"<li>{escape(note)}</li>" for note in (*board.footnotes(), *board.legend()))
    return (
        f"<table><caption>{escape(board.title)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table><details><summary>Notes</summary><ul>{notes}</ul></details>"
    )


def _html_row(board: Board, line: Line) -> str:
    lead = [line.place(), line.label, line.group, *rank_texts(board, line)]
    cells = [f"<td>{escape(text)}</td>" for text in lead]
    tags = {"best": ("<b>", "</b>"), "second": ("<u>", "</u>"), "": ("", "")}
    for column in board.shown:
        first, last = tags[line.cells[column.id].mark]
        cells.append(f"<td>{first}{escape(line.text(column))}{last}</td>")
    style = ' style="opacity:.6"' if line.control else ""
    return f"<tr{style}>{''.join(cells)}</tr>"
