"""Content keys: what a result depends on, hashed.

A method's key covers its source file and every sibling it imports relatively, its parameters, its
weights file and the core contract; a metric's key covers its source likewise.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import file_sha256

_CORE = Path(__file__).resolve().parent.parent
_COMMENT = re.compile(r"#[^\n]*")  # one that holds a bracket would end a list of names
_IMPORT = re.compile(r"\bfrom\s*(\.+)([\w.]*)\s+import\s*(?:\(([^)]*)\)|((?:\\\n|[^\n])+))")
_NAME = re.compile(r"\w+")


def digest(*parts: object) -> str:
    """Short hash of the JSON form of `parts`."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content_key(parameters: Mapping[str, Any], sources: Iterable[Path] = ()) -> str:
    """Hash of what determines a result: JSON-able parameters and the files that compute it."""
    hashed = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    for path in sorted(sources, key=lambda p: p.name):
        hashed.update(b"\0" + path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()[:32]


def source_files(path: Path) -> list[Path]:
    """Return `path` and every file it imports relatively, directly or not."""
    found: dict[Path, None] = {}
    todo = [path.resolve()]
    while todo:
        file = todo.pop()
        if file in found or not file.is_file():
            continue
        found[file] = None
        todo += _imported(file)
    return sorted(found)


@lru_cache(maxsize=512)
def _imported(file: Path) -> tuple[Path, ...]:
    """Where the modules may lie that `file` imports relatively."""
    found: list[Path] = []
    # Not by `ast`, which takes twenty times as long; what looks like an import in a text does no harm.
    text = _COMMENT.sub("", file.read_text(encoding="utf-8", errors="replace"))
    for dots, module, *names in _IMPORT.findall(text):
        if len(dots) > len(file.parents):
            continue
        base = file.parents[len(dots) - 1].joinpath(*filter(None, module.split(".")))
        # `from . import x` names modules; `from .m import f` names m.py (or a package m/ holding f.py).
        found += [base.with_suffix(".py"), *(base / f"{name}.py" for name in _NAME.findall("".join(names)))]
    return tuple(found)


@lru_cache(maxsize=512)
def source_key(path: Path) -> str:
    """Hash of a plugin's source."""
    return digest([file_sha256(f) for f in source_files(path)])


def path_of(obj: Any) -> Path | None:
    """Source file of a class, function or metric object, or None where it has none."""
    try:
        return Path(inspect.getfile(inspect.unwrap(getattr(obj, "core", obj))))
    except (TypeError, OSError):
        return None


def method_key(cls: type, parameters: Mapping[str, Any], weights: Iterable[Path]) -> str:
    """Hash of everything that decides what a method returns for given inputs."""
    path = path_of(cls)
    source = source_key(path) if path else f"{cls.__module__}.{cls.__qualname__}"
    core = source_key(_CORE / "method.py")
    return digest(cls.__name__, source, core, dict(parameters), [_weights_key(w) for w in weights])


def _weights_key(path: Path) -> str:
    if not path.is_file():
        raise InputError(
            f"weights {path}: no such file; give an existing file or leave it out for the shipped one"
        )
    return file_sha256(path)
