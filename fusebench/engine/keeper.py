"""Puts back what a plugin has changed in the process that it runs in."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from ..errors import FuseBenchError
from .plain_settings import Settings, Table, read, timers, write

_CONSTANTS = (bool, int, float, str, tuple, frozenset)
_TABLES = (dict, OrderedDict)
_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))


def _is_own(value: object, module: str) -> bool:
    """A class that `module` defines, and that Python code can change."""
    return (
        isinstance(value, type)
        and value.__module__ == module
        and not issubclass(value, BaseException)
        and not value.__flags__ & _IMMUTABLE
    )


class Keeper:
    """The settings of this process, and the functions of the libraries that everybody uses.

    Parameters
    ----------
    table : dict
        Of the settings.
    watched : sequence of str
        Modules whose functions and classes are put back, where they are imported when a block begins.
    alone : sequence of str
        Those of `watched` whose submodules are not.
    whole : sequence of str
        Packages and modules whose constants and tables are put back as well.
    """

    def __init__(
        self, table: Table, watched: Sequence[str], alone: Sequence[str] = (), whole: Sequence[str] = ()
    ) -> None:
        self._table = table
        self._watched = frozenset(watched)
        self._whole = frozenset(whole)
        self._constants: list[tuple[dict[str, Any], str, Any]] = []  # dictionary of the module, name, value
        self._tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []  # each with what it held
        self._trees = tuple(f"{name}." for name in watched if name not in alone)
        self._modules: dict[str, ModuleType] = {}
        # Modules and classes: their dictionary as it is, and as it was.
        self._owners: list[tuple[Any, Mapping[str, Any], dict[str, Any]]] = []

    @contextlib.contextmanager
    def kept(self, settings: Settings | None = None) -> Iterator[Settings]:
        """Run a block under `settings`, and put back behind it all that it has changed.

        Yields
        ------
        dict
            Filled, when the block ends, with the settings that it leaves behind where they are others.

        Raises
        ------
        Unrestored
            Something cannot be put back; the rest is.
        """
        self._look()
        running, before = timers(), read(self._table)
        left: Settings = {}
        try:
            write(self._table, settings or {})
            yield left
        finally:
            # What follows goes as deep as what went before.
            sys.setrecursionlimit(max(sys.getrecursionlimit(), before["recursion limit"]))
            for which in timers() - running:
                signal.setitimer(which, 0)
            self._put_names()
            found, lost = write(self._table, before)
            left.update(found)
            if lost:
                raise Unrestored(f"it has changed for good: {', '.join(lost)}")

    def _look(self) -> None:
        """Note modules that have been imported since."""
        new = {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self._modules
            and (name in self._watched or name.startswith(self._trees))
            # Another thread is still importing it: what it holds is not its last word.
            and not getattr(getattr(module, "__spec__", None), "_initializing", False)
        }
        self._modules.update(new)
        for name, module in new.items():
            # Nothing else of it, which may be large and is to go when the module lets it go.
            known = {k: v for k, v in list(vars(module).items()) if callable(v)}
            self._owners.append((module, vars(module), known))
            if self._whole & {name, name.partition(".")[0]}:
                held = [(k, v) for k, v in list(vars(module).items()) if not k.startswith("__")]
                self._constants += [(vars(module), k, v) for k, v in held if type(v) in _CONSTANTS]
                self._tables += [(v, dict(v)) for _, v in held if type(v) in _TABLES]
            self._owners += [
                (cls, vars(cls), dict(vars(cls))) for cls in known.values() if _is_own(cls, name)
            ]

    def _put_names(self) -> None:
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        changed = [
            (owner, name, value)
            for owner, there, known in self._owners
            for name, value in known.items()
            if there.get(name) is not value and _is_code(value)
        ]
        added = [
            (owner, name)
            for owner, there, known in self._owners
            if isinstance(owner, type) and len(there) != len(known)
            for name in [n for n in there if n not in known and callable(there[n])]
        ]
        for there, name, value in self._constants:
            if there.get(name) is not value:
                there[name] = value
        for table, before in self._tables:
            if len(table) != len(before) or any(table.get(k) is not v for k, v in before.items()):
                table.clear()
                table.update(before)
        for owner, name, value in changed:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(owner, name, value)
        for owner, name in added:
            with contextlib.suppress(AttributeError, TypeError):
                delattr(owner, name)


class Unrestored(FuseBenchError):
    """Settings that a plugin has changed for good, which the message names: nobody else may run here."""
