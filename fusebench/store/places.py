"""Paths that a Python source makes from where it lies, by its syntax tree: nothing is run.

``Path(__file__).parent / "weights" / f"{name}.npy"`` is known but for the name.  What only a running program
knows is "*" here, and an environment variable ``${NAME}``.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_MAKE = {"Path", "PurePath", "PosixPath", "PurePosixPath"}
# They give the path that they are given, by another name.
_SAME = {"abspath", "realpath", "normpath", "expanduser", "expandvars", "fspath", "str", "fsdecode"}
_SAME_METHODS = {"resolve", "absolute", "expanduser", "as_posix", "strip"}
_LISTS = {"iterdir", "listdir", "scandir", "walk"}
_MATCHES = {"glob", "rglob", "iglob"}
# They write to the paths that they are handed.
_WRITES = {"mkdir", "makedirs", "write_text", "write_bytes", "touch", "unlink", "rmtree", "imsave", "imwrite"}
_WRITES |= {"urlretrieve", "extractall", "load_state_dict_from_url", "hf_hub_download", "snapshot_download"}
_WRITES |= {"save", "savez", "savez_compressed", "savetxt", "save_file", "to_csv", "to_parquet", "tofile"}
_DEEPEST, _VALUES = 20, 5  # steps from an expression to what its names were given, and values of a name
_LONGEST = 4096  # characters
_DOLLAR = re.compile(r"^\$(\w+)")


@dataclass
class Places:
    """Absolute paths, with "*" for what is not known, by what the source does with them."""

    named: set[str] = field(default_factory=set)  # whatever is done with them, but for writing
    listed: set[str] = field(default_factory=set)  # folders
    written: set[str] = field(default_factory=set)


def read(tree: ast.AST, file: str) -> Places:
    """Return the places that the syntax tree of `file` makes."""
    return _Reader(tree, file).places


class _Reader:
    def __init__(self, tree: ast.AST, file: str) -> None:
        self.file, self.places = file, Places()
        self._given: dict[str, list[ast.expr]] = {}
        used = set()
        for node in ast.walk(tree):
            for name, value in _assigned(node):
                self._given.setdefault(name, []).append(value)
            if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Load):
                used.add(_name(node))
        self._known: dict[str, str | None] = {}
        self._inner: set[int] = set()  # parts of a path that is known already
        for name in used & {*self._given}:
            if self._of_name(name, 0):  # then what is done with the name says what the path is for
                self._inner.update(map(id, self._given[name]))
        for node in ast.walk(tree):
            self._visit(node)

    def _visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            self._called(node)
        if id(node) in self._inner:
            self._inner.update(map(id, ast.iter_child_nodes(node)))
        elif isinstance(node, ast.expr) and not isinstance(node, ast.Constant) and not _is_target(node):
            place = self._rooted(node)
            if place and place != self.file:
                self.places.named.add(place)
                if place[0] == "/":  # a variable may have a default, which is another path
                    self._inner.update(map(id, ast.iter_child_nodes(node)))

    def _called(self, call: ast.Call) -> None:
        """Note the use of the paths that a call, or the object that it is a method of, is given."""
        name, given = _name(call.func), [*call.args, *(k.value for k in call.keywords)]
        if isinstance(call.func, ast.Attribute):
            given.append(call.func.value)
        if name in _LISTS:
            self.places.listed.update(filter(None, map(self._rooted, given)))
        elif name in _MATCHES:
            pattern = self._rooted(call)
            if os.path.basename(pattern) in ("*", "*.*", "**"):  # names nothing, and lists all
                self.places.listed.add(pattern.partition("/*")[0])
        elif name in _WRITES or (name == "open" and any(_is_mode(g) for g in given)):
            written = [node for node in given if self._rooted(node)]
            self.places.written.update(map(self._rooted, written))
            self._inner.update(map(id, written))

    def _rooted(self, node: ast.expr) -> str:
        """The full path that an expression makes, of where the source lies or of another one; else ""."""
        text = _DOLLAR.sub(r"${\1}", self._text(node, 0) or "")
        if not text.startswith(("/", "${")) or "\0" in text:
            return ""
        return "/" * (text[0] == "/") + os.path.normpath(text).lstrip("/")

    def _text(self, node: ast.AST, depth: int) -> str | None:
        """The text or path of an expression; None where it is not known, or too long to be a path."""
        text = self._made(node, depth + 1) if depth < _DEEPEST else None
        return None if text is None or len(text) > _LONGEST else text

    def _made(self, node: ast.AST, below: int) -> str | None:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else None
        if isinstance(node, ast.Name):
            return self._of_name(node.id, below)
        if isinstance(node, ast.JoinedStr):
            return "".join(self._part(p, below) for p in node.values)
        if isinstance(node, ast.FormattedValue):
            return self._text(node.value, below)
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.Add)):
            left, right = self._text(node.left, below), self._part(node.right, below)
            if isinstance(node.op, ast.Div):
                return None if left is None else os.path.join(left, right)
            return None if left is None else left + right
        if isinstance(node, ast.Attribute):
            if node.attr == "pardir":
                return os.pardir
            if node.attr == "parent":
                return _up(self._text(node.value, below))
            return self._of_name(node.attr, below) if isinstance(node.value, ast.Name) else None
        if isinstance(node, ast.Subscript):
            return self._of_item(node, below)
        return self._of_call(node, below) if isinstance(node, ast.Call) else None

    def _part(self, node: ast.AST, depth: int) -> str:
        text = self._text(node, depth)
        return "*" if text is None else text

    def _of_name(self, name: str, depth: int) -> str | None:
        if name == "__file__":
            return self.file
        if name not in self._known:
            self._known[name] = None  # while it is looked for: a name may be made of itself
            texts = {self._text(value, depth) for value in self._given.get(name, ())[:_VALUES]}
            self._known[name] = texts.pop() if len(texts) == 1 else None
        return self._known[name]

    def _of_item(self, node: ast.Subscript, depth: int) -> str | None:
        """``path.parents[1]``, ``os.environ["NAME"]``."""
        if _name(node.value) == "environ":
            return _variable(node.slice)
        if _name(node.value) != "parents" or not isinstance(node.value, ast.Attribute):
            return None
        steps = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if not isinstance(steps, int) or not 0 <= steps <= _DEEPEST:
            return None
        return _up(self._text(node.value.value, depth), steps + 1)

    def _of_call(self, call: ast.Call, depth: int) -> str | None:
        name, arguments = _name(call.func), list(call.args)
        own = call.func.value if isinstance(call.func, ast.Attribute) else None
        if name == "getenv" or (name == "get" and _name(own) == "environ"):
            return _variable(arguments[0]) if arguments else None
        if name == "files":  # of importlib.resources: of the package that the source lies in, nearly always
            return os.path.dirname(self.file)
        if own is not None and name in _SAME_METHODS:
            return self._text(own, depth)
        if own is not None and name == "with_stem" and arguments:
            start = self._text(own, depth)
            below = self._part(arguments[0], depth) + os.path.splitext(start or "")[1]
            return start and os.path.join(os.path.dirname(start), below)
        if own is not None and name in ("joinpath", "with_name", "glob", "rglob") and arguments:
            start = self._text(own, depth)
            if start is not None:  # else `glob.glob(path)`
                start = os.path.dirname(start) if name == "with_name" else start
                deep = ["**"] if name == "rglob" else []
                return os.path.join(start, *deep, *(self._part(a, depth) for a in arguments))
        first = self._text(arguments[0], depth) if arguments else None
        if first is None:
            return None
        if name in _MAKE or (name == "join" and _name(own) in ("", "path")):
            return os.path.join(first, *(self._part(a, depth) for a in arguments[1:]))
        if name == "dirname":
            return _up(first)
        return first if name in _SAME or name in _MATCHES else None


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Names that a node gives a value, each with it."""
    if isinstance(node, ast.Assign):
        yield from ((t.id, node.value) for t in node.targets if isinstance(t, ast.Name))
        yield from ((t.attr, node.value) for t in node.targets if isinstance(t, ast.Attribute))
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr, ast.AugAssign)) and node.value is not None:
        target = node.target
        if isinstance(target, (ast.Name, ast.Attribute)):
            yield _name(target), node.value


def _variable(name: ast.expr) -> str | None:
    """Placeholder for the value of an environment variable."""
    text = name.value if isinstance(name, ast.Constant) else None
    return f"${{{text}}}" if isinstance(text, str) and text.isidentifier() else None


def _is_target(node: ast.expr) -> bool:
    """True for a name that is given a value here."""
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _up(path: str | None, steps: int = 1) -> str | None:
    for _ in range(steps):
        path = os.path.dirname(path) if path else None
    return path


def _is_mode(node: ast.expr) -> bool:
    """True for the mode of a file that is opened to be written, and not to be read first."""
    mode = node.value if isinstance(node, ast.Constant) else None
    return isinstance(mode, str) and 0 < len(mode) <= 3 and mode[0] in "wxa" and "+" not in mode


def _name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
