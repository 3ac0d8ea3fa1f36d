"""`run_notebook`: the cells of a notebook, run without Jupyter; for tests and for the docs."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Cell:
    """A cell and what it gave.

    Attributes
    ----------
    kind : {"markdown", "code"}
    source : str
    printed : str
        What a code cell wrote to standard output.
    result : object
        Value of a code cell's last expression, as a notebook shows it; None for none.
    """

    kind: str
    source: str
    printed: str = ""
    result: Any = None


def run_notebook(path: Path) -> Iterator[Cell]:
    """Run a notebook of plain Python in the current folder; its cells share one namespace.

    Yields
    ------
    Cell
        As it has run.  What a cell raises is raised, with the cell's number in the traceback.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            yield Cell("markdown", source)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            result = _run(source, f"{path.name}, cell {number}", namespace)
        yield Cell("code", source, printed.getvalue(), result)


def _run(source: str, name: str, namespace: dict[str, Any]) -> Any:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), namespace)
    if not isinstance(last, ast.Expr):
        return None
    return eval(compile(ast.Expression(last.value), name, "eval"), namespace)
