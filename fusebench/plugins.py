"""The three registries, and ``create_*`` / ``list_*`` on them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .dataset import Dataset, DatasetInfo
from .errors import InputError
from .files import plugin_folder, read_bytes
from .method_info import MethodInfo, is_fast, is_standard
from .metric import MetricInfo
from .parameters import as_list, create, user_path
from .registry import Registry

if TYPE_CHECKING:  # torch
    from .method import Method

# Colon-separated plugin files or folders, as --plugin.
ENVIRONMENT = "FUSEBENCH_PLUGINS"


@dataclass(frozen=True)
class Plugins:
    """Everything that is registered: `methods`, `metrics`, `datasets`."""

    methods: Registry[Any]
    metrics: Registry[Any]
    datasets: Registry[type[Dataset]]
    paths: tuple[str, ...] = ()


@lru_cache(maxsize=8)
def find_plugins(paths: tuple[str, ...] = ()) -> Plugins:
    """Collect the built-in folders, entry points, ``FUSEBENCH_PLUGINS`` and `paths`.

    Parameters
    ----------
    paths : tuple of str
        Plugin files, or folders of plugin files (``--plugin``).

    Raises
    ------
    DuplicateNameError
        Two plugins of one kind share a name.
    InputError
        A path does not exist.
    """
    kinds: dict[str, Registry[Any]] = {
        "methods": Registry("method", MethodInfo, {"fast": is_fast, "standard": is_standard}),
        "metrics": Registry("metric", MetricInfo),
        "datasets": Registry("dataset", DatasetInfo),
    }
    extra = [p for p in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if p]
    files = list(_files([*extra, *paths]))
    installed = entry_points()  # reads a file of every installed package
    for folder, registry in kinds.items():
        package = f"fusebench.{folder}"
        registry.add_folder(plugin_folder(folder), package)
        registry.add_entry_points(installed.select(group=package))
        for file in files:
            registry.add_path(file)
    return Plugins(**kinds, paths=tuple(str(f) for f in files))


def _files(paths: Iterable[str]) -> Iterable[Path]:
    seen: set[Path] = set()
    for text in paths:
        path = user_path(text).resolve()
        if not path.exists():
            raise InputError(f"plugin {text}: no such file or folder")
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            if file.exists() and not file.is_file():  # a pipe would keep its reader waiting for ever
                if not path.is_dir():
                    raise InputError(f"plugin {text}: no file; give a file or a folder of files")
            elif file not in seen:
                seen.add(file)
                yield file


def require_plugins(found: Plugins, paths: Iterable[str]) -> None:
    """Raise `InputError` for a file or folder that a user named and that offers nothing; imports nothing."""
    known = {r.entry(n).path for r in (found.methods, found.metrics, found.datasets) for n in r}
    for text in paths:
        path = user_path(text).resolve()
        if path.is_file():
            try:
                ast.parse(read_bytes(path))
            except SyntaxError as error:
                place = f"line {error.lineno}: {error.msg}" if error.lineno else error.msg
                raise InputError(f"plugin {text}: SyntaxError, {place}") from None
            except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deeply
                raise InputError(f"plugin {text}: not Python ({error})") from None
        if not any(p is not None and (p == path or path in p.parents) for p in known):
            raise InputError(
                f"plugin {text}: defines no method, metric or dataset; one is a class or function with "
                '`info = MethodInfo(name="...", ...)`, MetricInfo or DatasetInfo'
            )


def create_method(name: str, **params: Any) -> Any:
    """Make the fusion method called `name`, or ``name@variant``; call ``setup(device)`` next.

    Raises
    ------
    InputError
        No such method, variant or parameter, or a value that it refuses.
    """
    return make_method(find_plugins(), name, params)


def make_method(plugins: Plugins, name: str, given: Mapping[str, Any]) -> Method:
    """Make a method, or ``name@variant``, with the parameters that a user gave.

    Raises
    ------
    InputError
        No such method, variant or parameter, or a value that it refuses.
    """
    variant, cls = plugins.methods.entry(name).variant, plugins.methods.load(name)
    method: Method = create(name, cls, {**(cls.variants[variant] if variant else {}), **given})
    return method


def create_dataset(name: str, **params: Any) -> Dataset:
    """Make the dataset called `name` (``data_dir=...`` where it needs one)."""
    return create(name, find_plugins().datasets.load(name), params)


def create_metric(name: str) -> Any:
    """The metric function called `name`."""
    return find_plugins().metrics.load(name)


def list_methods(patterns: str | Sequence[str] = ("all",), exclude: str | Sequence[str] = ()) -> list[str]:
    """Names of fusion methods; shell wildcards allowed."""
    return find_plugins().methods.select(as_list(patterns), as_list(exclude))


def list_datasets(patterns: str | Sequence[str] = ("all",)) -> list[str]:
    """Names of datasets."""
    return find_plugins().datasets.select(as_list(patterns))


def list_metrics(patterns: str | Sequence[str] = ("all",)) -> list[str]:
    """Names of metrics."""
    return find_plugins().metrics.select(as_list(patterns))
