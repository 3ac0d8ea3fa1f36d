"""Modules, files and environment variables that a Python source names, by its syntax tree."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from . import places
from .places import Places

IMPORTERS = ("import_module", "__import__", "run_module", "find_spec")
ENVIRONMENT = ("environ", "getenv")
_READERS = ("get", "getenv", "setdefault", "pop")  # of the environment, whatever it is called there
_DOTTED = re.compile(r"\.*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_CAPITALS = re.compile(r"[A-Z_][A-Z0-9_]*")
_PERCENT = re.compile(r"%[-+ #0-9.]*[a-z]|%\(\w+\)[-+ #0-9.]*[a-z]")
_BRACES = re.compile(r"\{[^{}]*\}")


@dataclass
class Said:
    """Names in one source."""

    imports: list[tuple[int, str, tuple[str, ...]]] = field(default_factory=list)  # dots, module, names of it
    maybe_modules: set[str] = field(default_factory=set)  # where it imports by name: its dotted texts
    texts: set[str] = field(default_factory=set)  # as they stand, with "*" for what is filled in
    variables: set[str] = field(default_factory=set)
    places: Places = field(default_factory=Places)


def read(text: str, file: Path) -> Said | None:
    """Return what `text` says, which `file` holds; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
            said = _read(tree, text)
            said.places = places.read(tree, str(file))
            return said
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _read(tree: ast.AST, text: str) -> Said:
    said = Said()
    asks = any(word in text for word in ENVIRONMENT)
    inner: set[int] = set()  # parts of a text that has been put together already
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            said.imports += [(0, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names if alias.name != "*")
            said.imports.append((node.level, node.module or "", names))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                said.texts.add(node.value)
        elif isinstance(node, (ast.JoinedStr, ast.BinOp)):
            if id(node) not in inner:
                said.texts.add(_together(node, inner))
        elif isinstance(node, ast.Call):
            name = _name(node.func)
            if name == "format" and isinstance(node.func, ast.Attribute):
                said.texts.add(_BRACES.sub("*", _text(node.func.value) or ""))
            elif name.endswith(IMPORTERS):
                for given in _arguments(node, "name", "mod_name"):
                    if _DOTTED.fullmatch(given):
                        module = given.lstrip(".")
                        said.imports.append((len(given) - len(module), module, ()))
            elif asks and name.endswith(_READERS):
                said.variables.update(_arguments(node, "key"))
        elif asks and isinstance(node, ast.Subscript):
            said.variables.add(_text(node.slice) or "")
        elif asks and isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn)):
            said.variables.add(_text(node.left) or "")
    if asks:  # a name may be put together, or handed to a function that asks
        said.variables.update(t for t in said.texts if _CAPITALS.fullmatch(t))
    said.variables = {v for v in said.variables if _VARIABLE.fullmatch(v)}
    if any(word in text for word in IMPORTERS):
        said.maybe_modules = {t for t in said.texts if _DOTTED.fullmatch(t) and t[0] != "."}
    return said


def _together(node: ast.AST, inner: set[int]) -> str:
    """The text that an f-string, a sum or a `%` makes, with "*" for what is not known here."""
    inner.add(id(node))
    if isinstance(node, ast.JoinedStr):
        return "".join(_together(part, inner) for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _together(node.left, inner) + _together(node.right, inner)
    text = _text(node)
    if text is None and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        text = _PERCENT.sub("*", _text(node.left) or "*")
    return "*" if text is None else text


def _arguments(call: ast.Call, *keywords: str) -> Iterator[str]:
    """Texts that a call is given first or under one of the names."""
    for value in (*call.args[:1], *(k.value for k in call.keywords if k.arg in keywords)):
        text = _text(value)
        if text is not None:
            yield text


def _text(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
