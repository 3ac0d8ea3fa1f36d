"""Names and numbers as text that no renderer reads as markup, and the marks of best and second."""

from __future__ import annotations


def rich_mark(text: str, mark: str) -> str:
    """Bold best, underlined second, in rich markup."""
    return {"best": f"[bold green]{text}[/]", "second": f"[underline]{text}[/]"}.get(mark, text)


_MARKDOWN = {
    **{ch: "\\" + ch for ch in "\\|*`_[~"},
    **{"&": "&amp;", "<": "&lt;", ">": "&gt;", "\n": " "},
}


def markdown_text(text: str) -> str:
    """Escape what Markdown or HTML would read as markup."""
    return "".join(_MARKDOWN.get(ch, ch) for ch in text)


def markdown_mark(text: str, mark: str) -> str:
    """Bold best, underlined second, in Markdown."""
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


def latex_text(text: str) -> str:
    """Escape what LaTeX would read as commands."""
    return "".join(_TEX.get(ch, ch) for ch in text)


def latex_mark(text: str, mark: str) -> str:
    """Bold best, underlined second, in LaTeX."""
    return {"best": rf"\textbf{{{text}}}", "second": rf"\underline{{{text}}}"}.get(mark, text)
