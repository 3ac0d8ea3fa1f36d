"""What the source of a plugin says in literals: names, variants and facts, without importing it."""

from __future__ import annotations

import ast
import importlib.util
import io
import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .files import read_bytes
from .method_info import Weights


@dataclass(frozen=True)
class Variants:
    """Variants of a plugin, as its class declares them.

    Attributes
    ----------
    names : tuple of str
        Keys of the class attribute `variants`.
    default : str
        `default_variant`: the one that the plain name stands for; "" where that is an entry of its own.
    unlisted : tuple of str
        `unlisted_variants`: run only where they are named, since they need a file of the user's, say.
    """

    names: tuple[str, ...] = ()
    default: str = ""
    unlisted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """Facts of an entry: the plugin's ``info``, or that of one variant, and what the variant sets."""

    info: Any
    setting: Mapping[str, Any] = field(default_factory=dict)


def literal_names(source: str, info_class: str) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of every ``InfoClass(name="literal", ...)`` call in `source`."""
    for node in nodes_with(source, info_class):
        if not isinstance(node, ast.Call):
            continue
        callee = node.func
        called = callee.attr if isinstance(callee, ast.Attribute) else getattr(callee, "id", "")
        if called != info_class:
            continue
        for keyword in node.keywords:
            value = keyword.value
            if keyword.arg == "name" and isinstance(value, ast.Constant):
                yield str(value.value), node.lineno


def literal_variants(source: str, info_class: str) -> Iterator[tuple[str, Variants]]:
    """Yield (plugin name, variants) of every class in `source` with literal ``info`` and ``variants``."""
    for node in nodes_with(source, "variants"):
        if not isinstance(node, ast.ClassDef):
            continue
        assigned: dict[str, ast.expr] = {}
        for line in node.body:
            if isinstance(line, ast.Assign):
                assigned |= {t.id: line.value for t in line.targets if isinstance(t, ast.Name)}
            elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
                assigned[line.target.id] = line.value
        info, table = assigned.get("info"), assigned.get("variants")
        if not isinstance(info, ast.Call) or not isinstance(table, ast.Dict):
            continue
        names = [n for n, _ in literal_names(ast.unparse(info), info_class)]
        keys = tuple(str(k.value) for k in table.keys if isinstance(k, ast.Constant))
        default = assigned.get("default_variant")
        unlisted = assigned.get("unlisted_variants")
        for name in names:
            yield (
                name,
                Variants(
                    keys,
                    str(default.value) if isinstance(default, ast.Constant) else "",
                    tuple(ast.literal_eval(unlisted)) if unlisted is not None else (),
                ),
            )


def nodes_with(source: str, text: str) -> Iterator[ast.AST]:
    """Yield the nodes of `source` that span a line with `text`.

    Walking all nodes of all plugins would take most of the time that finding them takes.

    Raises
    ------
    SyntaxError
    """
    # As Python counts them: a form feed or U+2028 ends no line.
    lines = [number for number, line in enumerate(io.StringIO(source, newline=None), 1) if text in line]
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        start = getattr(node, "decorator_list", None) or [node]
        first, last = getattr(start[0], "lineno", 0), getattr(node, "end_lineno", math.inf)
        if any(first <= line <= last for line in lines):
            yield node
            todo += ast.iter_child_nodes(node)


class NotLiteral(Exception):
    """An expression that says nothing without being run."""


def literal_facts(path: Path, info_class: type, name: str, variant: str = "") -> Facts:
    """Facts of a plugin as its file states them.

    Raises
    ------
    NotLiteral
        They are computed, or a method that describes itself says nothing of this variant
        (`Method.variant_facts`); the plugin has to be imported.
    """
    try:
        module = ast.parse(read_bytes(path).decode("utf-8", "replace"))
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        raise NotLiteral(str(error)) from None
    known = _assigned(module.body)
    calls = {info_class.__name__: info_class, "Weights": Weights, "float": float, "dict": dict}
    read = _Reader(known, calls)
    for owner, call in _calls(module, info_class.__name__):
        named = {k.arg: k.value for k in call.keywords}.get("name")
        if not isinstance(named, ast.Constant) or named.value != name:
            continue
        info = read(call)
        if not variant:
            return Facts(info)
        if owner is None:
            break
        own = _assigned(owner.body)
        facts = read(own["variant_facts"]).get(variant) if "variant_facts" in own else None
        if facts is None and any(isinstance(n, ast.FunctionDef) and n.name == "describe" for n in owner.body):
            break
        return Facts(replace(info, **(facts or {})), read(own["variants"])[variant])
    raise NotLiteral(name)


def absent_module(path: Path) -> str:
    """First module that a plugin file imports and that is not installed; "" for none.

    Only what the file imports as a whole is looked at, not what that imports in turn.
    """
    body = ast.parse(read_bytes(path).decode("utf-8", "replace")).body
    names = [a.name for line in body if isinstance(line, ast.Import) for a in line.names]
    names += [line.module or "" for line in body if isinstance(line, ast.ImportFrom) and not line.level]
    roots = dict.fromkeys(name.partition(".")[0] for name in names)
    return next((r for r in roots if not _is_there(r)), "")


def _is_there(module: str) -> bool:
    if module in sys.modules:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an importer of someone's refuses to say
        return True


def _calls(tree: ast.AST, name: str) -> Iterator[tuple[ast.ClassDef | None, ast.Call]]:
    """Yield the calls of what is called `name`, each with the class whose body it stands in."""
    todo: list[tuple[ast.ClassDef | None, ast.AST]] = [(None, tree)]
    while todo:
        owner, node = todo.pop()
        if isinstance(node, ast.Call) and name in (
            getattr(node.func, "id", ""),
            getattr(node.func, "attr", ""),
        ):
            yield owner, node
        inside = node if isinstance(node, ast.ClassDef) else owner
        todo += [(inside, child) for child in ast.iter_child_nodes(node)]


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """Names that the statements of a body set, with the expressions."""
    found: dict[str, ast.expr] = {}
    for line in body:
        if isinstance(line, ast.Assign):
            found |= {t.id: line.value for t in line.targets if isinstance(t, ast.Name)}
        elif isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value:
            found[line.target.id] = line.value
    return found


_SIGNS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _Reader:
    """Evaluates literals, names of such, items of such, `math`, and calls of a few known classes.

    Parameters
    ----------
    known : mapping
        Expressions of the module's names.
    calls : mapping
        Classes that may be made, by name.
    """

    def __init__(self, known: Mapping[str, ast.expr], calls: Mapping[str, Callable[..., Any]]) -> None:
        self._known, self._calls, self._depth = known, calls, 0

    def __call__(self, node: ast.expr) -> Any:
        self._depth += 1
        try:
            if self._depth > 40:  # a name that is set from itself
                raise NotLiteral(ast.dump(node))
            return self._read(node)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise NotLiteral(f"{type(error).__name__}: {error}") from None
        finally:
            self._depth -= 1

    def _read(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Tuple():
                return tuple(map(self, node.elts))
            case ast.List():
                return list(map(self, node.elts))
            case ast.Dict() if None not in node.keys:
                keys = [self(k) for k in node.keys if k is not None]
                return dict(zip(keys, map(self, node.values), strict=True))
            case ast.UnaryOp(op=ast.USub()):
                return -self(node.operand)
            case ast.BinOp() if type(node.op) in _SIGNS:
                return _SIGNS[type(node.op)](self(node.left), self(node.right))
            case ast.Name():
                return self(self._known[node.id])
            case ast.Subscript():
                return self(node.value)[self(node.slice)]
            case ast.Attribute(value=ast.Name(id="math")):
                return getattr(math, node.attr)
            case ast.Call():
                given: dict[str, Any] = {}
                for keyword in node.keywords:
                    value = self(keyword.value)
                    given |= {keyword.arg: value} if keyword.arg else value
                return self._callee(node.func)(*map(self, node.args), **given)
        raise NotLiteral(ast.dump(node))

    def _callee(self, node: ast.expr) -> Callable[..., Any]:
        if isinstance(node, ast.Name):
            return self._calls[node.id]
        return self(node)  # type: ignore[no-any-return]
