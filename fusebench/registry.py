"""One generic registry: finds plugins by folder, entry point or path, without importing them.

A plugin is a class or function with an attribute ``info`` that is an instance of the registry's info
class (`MethodInfo`, `MetricInfo`, `DatasetInfo`).  Names are read from the source: every literal
``MethodInfo(name="...")`` in a file is one plugin, so a plugin is listed even when importing it fails.  So
are the names of a class's `variants`, which are entries of their own: ``name@variant``.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from .errors import DuplicateNameError, FuseBenchError, InputError, PluginError, UnknownNameError
from .files import read_bytes
from .literals import (
    Facts,
    NotLiteral,
    Variants,
    absent_module,
    literal_facts,
    literal_names,
    literal_variants,
)
from .loading import module_from_path
from .names import check_name
from .staying import staying
from .text import message_of, printable, type_name

T = TypeVar("T")

# Folders inside a plugin folder that hold data or shared code, never plugins.
_NOT_PLUGINS = {"__pycache__", "weights", "training", "preprocessing"}


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One known plugin.

    Attributes
    ----------
    name : str
    origin : str
        ``path:line`` or the entry point.
    load : callable
        Imports and returns the plugin; raises whatever the import raises.
    path : Path or None
        Source file, for the content key; None for an entry point that was not loaded yet.
    variant : str
        The variant that `name` asks for; "" for none.
    bundled : bool
        It lies in a folder of this project, so that its facts are taken from the source unimported.
    """

    name: str
    origin: str
    load: Callable[[], T]
    path: Path | None = None
    variant: str = ""
    bundled: bool = False


class Registry(Generic[T]):
    """Plugins of one kind.

    Parameters
    ----------
    kind : str
        "method", "metric" or "dataset"; used in messages.
    info_class : type
        Class of the plugins' ``info`` attribute.
    sets : mapping
        Named sets, which `select` takes beside names: of the listed entries those whose info passes, which
        is None where the source does not state it.
    """

    def __init__(
        self, kind: str, info_class: type, sets: Mapping[str, Callable[[Any], bool]] | None = None
    ) -> None:
        self.kind = kind
        self.info_class = info_class
        self.sets = sets or {}
        self._entries: dict[str, Entry[T]] = {}
        self._variants: dict[str, Variants] = {}

    # -- sources ---------------------------------------------------------------------------------

    def add_folder(self, folder: Path, package: str) -> None:
        """Register every plugin of a drop-in folder, one level of sub-folders included."""
        for path in sorted([*folder.glob("*.py"), *folder.glob("*/*.py")]):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[0] in _NOT_PLUGINS or parts[-1].startswith("__"):
                continue
            module = ".".join([package, *parts])
            self._add_file(path, partial(importlib.import_module, module), bundled=True)

    def add_path(self, path: Path) -> None:
        """Register the plugins of one file anywhere on disk (``--plugin``)."""
        path = path.resolve()
        if not path.is_file():
            raise InputError(f"--plugin {path}: no such file")
        self._add_file(path, partial(module_from_path, path))

    def add_entry_points(self, found: Iterable[EntryPoint]) -> None:
        """Register what installed packages offer."""
        for ep in found:
            self._add(Entry(ep.name, f"entry point {ep.value}", partial(self._check, ep), None))

    def _check(self, ep: EntryPoint) -> T:
        obj: T = ep.load()
        if not isinstance(getattr(obj, "info", None), self.info_class):
            raise TypeError(f"{ep.value} has no `info` of type {self.info_class.__name__}")
        return obj

    def _add(self, entry: Entry[T]) -> None:
        try:
            check_name(entry.name, self.kind)
        except InputError as error:  # a plugin that cannot be used costs no other
            entry = replace(entry, name=printable(entry.name) or "(no name)", load=partial(_refuse, error))
        known = self._entries.get(entry.name)
        if known is not None:
            raise DuplicateNameError(
                f"two {self.kind}s are named {entry.name!r}: {known.origin} and {entry.origin}; "
                "rename one of them"
            )
        self._entries[entry.name] = entry

    def _add_file(self, path: Path, load: Callable[[], ModuleType], *, bundled: bool = False) -> None:
        try:
            source = read_bytes(path).decode("utf-8", "replace")
        except OSError as error:
            raise InputError(f"plugin {path}: {error.strerror}; make it readable, or move it away") from None
        if f"{self.info_class.__name__}(" not in source:
            return
        try:
            names = list(literal_names(source, self.info_class.__name__))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # Importing it gives the reason, as for any other plugin that does not load.
            names = [(path.stem, 1)]
        for name, line in names:
            place = f"{path}:{line}"
            self._add(Entry(name, place, partial(self._pick, load, name), path, bundled=bundled))
        if "variants" in source:
            found = dict(literal_variants(source, self.info_class.__name__))
            for name, known in found.items():
                kept = tuple(v for v in known.names if _is_name(v))
                self._variants[name] = replace(known, names=kept)

    def _pick(self, load: Callable[[], ModuleType], name: str) -> T:
        module = load()
        for obj in vars(module).values():
            info: Any = getattr(obj, "info", None)
            if isinstance(info, self.info_class) and getattr(info, "name", "") == name:
                plugin: T = obj
                return plugin
        raise LookupError(f"no object with info.name == {name!r} in {module.__name__}")

    # -- use -------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All names, variants behind their plugin, in natural order (``a2`` before ``a10``)."""
        found = []
        for name in self._entries:
            known = self._variants.get(name, Variants())
            found += [] if known.default else [name]
            found += [f"{name}@{v}" for v in known.names if v not in known.unlisted]
        return sorted(found, key=natural)

    def unlisted(self) -> list[str]:
        """Names of the variants that are no part of `names`; they run only where they are named."""
        found = [
            f"{n}@{v}" for n, known in self._variants.items() for v in known.unlisted if n in self._entries
        ]
        return sorted(found, key=natural)

    def entry(self, name: str) -> Entry[T]:
        """The entry called `name`, or ``name@variant``; `UnknownNameError` offers near names."""
        base, _, variant = name.partition("@")
        if base not in self._entries:
            near = difflib.get_close_matches(name, self.names(), n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"see `list {self.kind}s`"
            raise UnknownNameError(f"no {self.kind} is called {name!r}; {hint}")
        found = self._entries[base]
        known = self._variants.get(base)
        if known is None and variant and found.path is None:  # an installed plugin tells when it is loaded
            known = Variants(tuple(getattr(found.load(), "variants", ())))
        known = known or Variants()
        variant = variant or known.default
        if variant and variant not in known.names:
            listed = f"it has {', '.join(known.names)}" if known.names else "it has none"
            raise UnknownNameError(f"{self.kind} {base} has no variant {variant!r}; {listed}")
        return replace(found, name=f"{base}@{variant}", variant=variant) if variant else found

    def load(self, name: str) -> T:
        """Import and return the plugin.

        Raises
        ------
        UnknownNameError
            No such name.
        PluginError
            The import failed; the message holds the origin and the reason.
        """
        entry = self.entry(name)
        try:
            with staying():
                return entry.load()
        # A plugin is foreign code and may raise anything, SystemExit included.
        except (Exception, SystemExit) as error:
            reason = f"{type_name(error)}: {message_of(error)[:300]}".splitlines()[0]
            raise PluginError(name, entry.origin, printable(reason)) from error

    def facts(self, name: str) -> Facts:
        """Facts of an entry, from its source where that states them, else by importing it.

        Raises
        ------
        UnknownNameError
            No such name.
        PluginError
            The plugin needs a module that is not installed, or the import failed.
        """
        entry = self.entry(name)
        if entry.bundled and entry.path is not None:
            try:
                found = literal_facts(entry.path, self.info_class, name.partition("@")[0], entry.variant)
            except NotLiteral:
                pass
            else:
                absent = absent_module(entry.path)
                if absent:
                    raise PluginError(name, entry.origin, f"ModuleNotFoundError: No module named {absent!r}")
                return found
        plugin: Any = self.load(name)
        if not entry.variant:
            return Facts(plugin.info)
        setting = plugin.variants[entry.variant]
        try:
            return Facts(plugin(**setting).describe(), setting)
        except FuseBenchError:  # it needs a file of the user's
            return Facts(plugin.info, setting)

    def stated(self, name: str) -> Facts | None:
        """Facts that the source of an entry states; None where only importing it would tell."""
        entry = self.entry(name)
        if entry.path is None:
            return None
        try:
            return literal_facts(entry.path, self.info_class, name.partition("@")[0], entry.variant)
        except NotLiteral:
            return None

    def select(self, patterns: Iterable[str], exclude: Sequence[str] = ()) -> list[str]:
        """Names that match any pattern (``all``, a named set or shell wildcards) and no exclusion."""
        chosen: list[str] = []
        for pattern in patterns:
            chosen += [n for n in self._matches(pattern) if n not in chosen]
        dropped = {n for pattern in exclude for n in self._matches(pattern)}
        return [n for n in chosen if n not in dropped]

    def _matches(self, pattern: str) -> list[str]:
        if pattern == "all":
            return self.names()
        if pattern in self.sets:
            stated = {name: self.stated(name) for name in self.names()}
            passes = self.sets[pattern]
            return [name for name, facts in stated.items() if passes(facts.info if facts else None)]
        if not set(pattern) & set("*?["):
            return [self.entry(pattern).name]
        found = fnmatch.filter(self.names(), pattern)
        if not found:
            raise UnknownNameError(f"no {self.kind} matches {pattern!r}; see `list {self.kind}s`")
        return found

    def __contains__(self, name: object) -> bool:
        return str(name).partition("@")[0] in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self._entries)


def _refuse(error: InputError) -> Any:
    raise error


def _is_name(text: str) -> bool:
    try:
        check_name(text, "variant")
    except InputError:
        return False
    return True


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``a2`` before ``a10``."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", name) if t]
