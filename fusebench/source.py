"""Reads Python source without running it."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator


def nodes_with(source: str, text: str) -> Iterator[ast.AST]:
    """Yield the nodes of `source` that span a line with `text`.

    Walking all nodes of all plugins would take most of the time that finding them takes.

    Raises
    ------
    SyntaxError
    """
    lines = [number for number, line in enumerate(source.splitlines(), 1) if text in line]
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        start = getattr(node, "decorator_list", None) or [node]
        first, last = getattr(start[0], "lineno", 0), getattr(node, "end_lineno", math.inf)
        if any(first <= line <= last for line in lines):
            yield node
            todo += ast.iter_child_nodes(node)
