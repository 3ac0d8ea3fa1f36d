"""The files that rows were made of: kept in the manifest, so that a later run can tell what has changed.

They are under ``method_files`` and ``metric_files``, apart from the facts, which are handed on to others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import FuseBenchError
from ..files import located, portable
from ..plugins import Plugins
from ..store.contents import remembered_sha256
from ..store.keys import source_key
from .plan import metric_source
from .spec import MethodSpec

OTHER_CODE = "made with other code, settings, seed, device or libraries"
GONE = "no longer to be checked, since the plugin, weights or images are not where they were"


def method_files(plugins: Plugins, specs: Iterable[MethodSpec]) -> dict[str, dict[str, Any]]:
    """Source file of each method, and hashes of all that its key depends on."""
    found: dict[str, dict[str, Any]] = {}
    for spec in specs:
        path = _method_path(plugins, spec.plugin)
        hashes = {portable(Path(file)): _sha256(Path(file)) for file, _ in spec.watched}
        found[spec.name] = {"file": portable(path) if path else "", "watched": hashes}
    return found


def metric_files(plugins: Plugins, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Source file of each metric, and its hash."""
    paths = {name: plugins.metrics.entry(name).path for name in names}
    return {
        name: {"file": portable(path) if path else "", "source": metric_source(plugins, name)}
        for name, path in paths.items()
    }


def method_source(plugins: Plugins, plugin: str) -> str:
    """Hash of the source of a registered method, which is not imported; "" where there is none."""
    path = _method_path(plugins, plugin)
    return source_key(path) if path else ""


def metric_source_now(plugins: Plugins, name: str, kept: Mapping[str, Any]) -> str:
    """Hash of a metric's source, registered or where it was; "" where it is gone."""
    if name in plugins.metrics:
        try:
            return metric_source(plugins, name)
        except FuseBenchError:
            return ""
    path = _located(kept.get("file"))
    return source_key(path) if path and path.is_file() else ""


def what_changed(plugins: Plugins, plugin: str, source: object, kept: Mapping[str, Any]) -> str:
    """The reason why a method's rows do not stand: its files are others or gone; "" where they are the same.

    Parameters
    ----------
    plugin : str
        Registered name; where it is not registered, its file is looked for where it was.
    source : str
        `method_source` of then.
    kept : mapping
        Of `method_files`.
    """
    then = _located(kept.get("file"))
    path = _method_path(plugins, plugin) or then
    watched = kept.get("watched") or {}
    if path is None and plugin not in plugins.methods and not watched:
        return GONE
    if path is not None and not path.is_file():
        return GONE
    if path is not None and source and source_key(path) != source:
        return OTHER_CODE
    moved = path != then  # then the sources are known by the key alone
    now = {file: _sha256(located(str(file))) for file in watched if not (moved and str(file).endswith(".py"))}
    if any(sha256 and sha256 != watched[file] for file, sha256 in now.items()):
        return OTHER_CODE
    return "" if all(now.values()) else GONE


def _method_path(plugins: Plugins, plugin: str) -> Path | None:
    return plugins.methods.entry(plugin).path if plugin in plugins.methods else None


def _located(text: object) -> Path | None:
    return located(text) if isinstance(text, str) and text else None


def _sha256(file: Path) -> str:
    """Hash of a file; "" where it is not there."""
    try:
        return remembered_sha256(file) if file.is_file() else ""
    except (OSError, ValueError):
        return ""
