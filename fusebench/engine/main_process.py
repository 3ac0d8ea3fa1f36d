"""Puts back what a plugin has changed in the process that plans, stores and ranks; without torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from ..loading import PLUGIN_MODULE
from .keeper import Keeper
from .plain_settings import PLAIN

# Modules whose functions and classes decide what is planned, stored or ranked.
_WATCHED = (
    *("builtins", "collections", "contextlib", "copy", "dataclasses", "datetime", "functools", "hashlib"),
    *("html", "io", "itertools", "json", "math", "operator", "os", "pathlib", "pickle", "random", "re"),
    *("shutil", "signal", "statistics", "string", "subprocess", "tempfile", "time", "fusebench"),
)
_IMPORTS = ("path", "meta_path", "path_hooks")
_SETTINGS = {name: entry for name, entry in PLAIN.items() if name.removeprefix("sys.") not in _IMPORTS}


@contextlib.contextmanager
def keeping_main_process() -> Iterator[None]:
    """Put back behind a block what it has changed, as `Keeper.kept` does; what it has imported stays.

    Raises
    ------
    Unrestored
        Something cannot be put back; the rest is.
    """
    for name in _WATCHED:  # a function can be replaced in what nobody has imported yet
        import_module(name)
    # A keeper of its own for every block: what the caller has replaced before is not ours to put back.
    with Keeper(_SETTINGS, _WATCHED).kept(), _imports_kept():
        yield


@contextlib.contextmanager
def _imports_kept() -> Iterator[None]:
    """Keep importable what was so before the block; modules and places that it adds stay."""
    modules = dict(sys.modules)
    places = [(name, getattr(sys, name), list(getattr(sys, name))) for name in _IMPORTS]
    try:
        yield
    finally:
        _put_modules(modules)
        for name, held, before in places:
            _put_places(name, held, before)


def _put_modules(before: dict[str, ModuleType]) -> None:
    for name in [name for name, module in sys.modules.items() if module is None and name not in before]:
        del sys.modules[name]  # it was to keep others from importing it
    for name, module in before.items():
        if sys.modules.get(name) is not module and not name.startswith(PLUGIN_MODULE):
            sys.modules[name] = module


def _put_places(name: str, held: list[Any], before: list[Any]) -> None:
    now = list(getattr(sys, name))
    held[:] = [*now, *(place for place in before if place not in now)]
    setattr(sys, name, held)  # others hold on to this list
