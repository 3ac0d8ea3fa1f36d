"""What a plugin can change in the process that it runs in, put back behind it: where methods share one.

On a CPU every method has a child of its own (`fusebench.engine.apart`).  On a GPU, and with ``--jobs 0``,
they run in one process; `World.kept` gives the next one what the first one got.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from ..errors import FuseBenchError
from .settings import Settings, read_settings, timers, write_settings

# Modules whose functions and classes decide numbers, times or what is stored; with their submodules.
_WATCHED = (
    *(
        "builtins",
        "math",
        "random",
        "time",
        "os",
        "io",
        "json",
        "statistics",
        "collections",
        "dataclasses",
        "functools",
        "itertools",
        "contextlib",
        "copy",
        "copyreg",
        "pickle",
        "hashlib",
        "pathlib",
        "tempfile",
        "fusebench",
        "numpy",
        "pywt",
        "scipy.ndimage",
    ),
    *(
        "scipy.fft",
        "scipy.signal",
        "scipy.linalg",
        "scipy.stats",
        "scipy.optimize",
        "scipy.special",
        "skimage",
    ),
    *("torch", "torch.functional", "torch.nn", "torch.fft", "torch.linalg", "torch.special", "torch.random"),
)
# Of these the constants and tables count as well.
_WHOLE = ("fusebench", "copyreg")
_CONSTANTS = (bool, int, float, str, tuple, frozenset)
_TREES = tuple(f"{name}." for name in _WATCHED if name != "torch")


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))


class World:
    """The settings of this process, and the functions of the libraries that everybody uses."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        # Of modules and classes: their dictionary, and what is callable in it.
        self._names: list[tuple[Any, Mapping[str, Any], str, Any]] = []
        self._classes: list[tuple[type, Mapping[str, Any], int]] = []
        self._own: dict[type, frozenset[str]] = {}
        self._tables: list[tuple[dict[Any, Any], dict[Any, Any]]] = []  # each with what it held

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
        running, before = timers(), read_settings()
        left: Settings = {}
        try:
            write_settings(settings or {}, before)
            yield left
        finally:
            for which in timers() - running:
                signal.setitimer(which, 0)
            self._put_names()
            now = read_settings()
            left.update({name: value for name, value in now.items() if value != before[name]})
            write_settings({name: before[name] for name in left}, now)
            lost = [name for name, value in read_settings().items() if value != before[name]]
            if lost:
                raise Unrestored(f"it has changed for good: {', '.join(lost)}")

    def _look(self) -> None:
        """Note modules that have been imported since."""
        new = {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self._modules
            and (name in _WATCHED or name.startswith(_TREES))
            # Another thread is still importing it: what it holds is not its last word.
            and not getattr(getattr(module, "__spec__", None), "_initializing", False)
        }
        self._modules.update(new)
        for name, module in new.items():
            known = {k: v for k, v in list(vars(module).items()) if callable(v)}
            self._names += [(module, vars(module), k, v) for k, v in known.items()]
            if name.partition(".")[0] in _WHOLE:
                held = [(k, v) for k, v in list(vars(module).items()) if not k.startswith("__")]
                self._names += [(module, vars(module), k, v) for k, v in held if type(v) in _CONSTANTS]
                self._tables += [(v, dict(v)) for _, v in held if type(v) is dict]
            for cls in known.values():
                if isinstance(cls, type) and cls.__module__ == name and not issubclass(cls, BaseException):
                    there = vars(cls)
                    self._own[cls] = frozenset(there)
                    self._classes.append((cls, there, len(there)))
                    self._names += [(cls, there, k, v) for k, v in there.items() if _is_code(v)]

    def _put_names(self) -> None:
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        changed = [(owner, n, v) for owner, there, n, v in self._names if there.get(n) is not v]
        added = [
            (owner, name)
            for owner, there, count in self._classes
            if len(there) != count
            for name in [n for n in there if n not in self._own[owner] and callable(there[n])]
        ]
        for table, held in self._tables:
            if len(table) != len(held) or any(table.get(k) is not v for k, v in held.items()):
                table.clear()
                table.update(held)
        for owner, name, value in changed:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(owner, name, value)
        for owner, name in added:
            with contextlib.suppress(AttributeError, TypeError):
                delattr(owner, name)


class Unrestored(FuseBenchError):
    """Settings that a plugin has changed for good, which the message names: nobody else may run here."""
