"""Importing plugin files: as they are now, whatever bytecode of an earlier state lies beside them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import threading
from functools import cache
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
)
from pathlib import Path
from types import ModuleType
from typing import Any

from .files import ROOT, is_installed, stamp


class _Fresh(SourceFileLoader):
    """Compiles what the file holds: bytecode is told from it by size and whole seconds only."""

    def path_stats(self, path: str) -> dict[str, float]:  # type: ignore[override]
        raise OSError


@cache
def _import_helpers_afresh() -> None:
    """Have this process import modules beside plugins, and wherever these add to the path, by `_Fresh`."""
    loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (_Fresh, SOURCE_SUFFIXES)
    hook = FileFinder.path_hook(*loaders)

    def is_plain(path: str) -> bool:
        return is_installed(path) or (os.path.realpath(path) + os.sep).startswith(str(ROOT) + os.sep)

    def afresh(path: str) -> Any:
        if is_plain(path):
            raise ImportError
        return hook(path)

    sys.path_hooks.insert(0, afresh)
    for path in list(sys.path_importer_cache):
        if not is_plain(path):
            del sys.path_importer_cache[path]


PLUGIN_MODULE = "fusebench_plugin_"  # how the names of plugin files' modules begin


def module_name(path: Path) -> str:
    """Name under which a plugin file is imported, made from its path."""
    # The hash keeps two files of one stem apart.
    tag = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return f"{PLUGIN_MODULE}{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}_{tag}"


_STAMP = "__fusebench_stamp__"  # of a module's file, as it was imported
# No thread may take a module that another one is still importing; one plugin file may import another.
_importing = threading.RLock()


def module_from_path(path: Path) -> ModuleType:
    """Import a plugin file, anew where it was written to since; `sys.modules` keeps one module per file."""
    name = module_name(path)
    with _importing:
        known = sys.modules.get(name)
        if known is not None and (not path.exists() or getattr(known, _STAMP) == stamp(path)):
            return known
        _import_helpers_afresh()
        spec = importlib.util.spec_from_file_location(name, path, loader=_Fresh(name, str(path)))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        setattr(module, _STAMP, stamp(path))
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
