"""Content keys: everything that a result depends on, hashed, and nothing else.

Prepared data depend on files, options, the code that prepares them and its libraries (`content_key`).
A volume depends on the method (its source and what that imports, reads and takes from the environment, its
parameters and weights), the contract it runs under, the case, seed, device, threads and libraries.  A score
depends on the volume, protocol and metric, and on the code that scores.  A row stands while its key is that.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import PACKAGE, ROOT, atomic_path, file_sha256
from .cache import cache_dir

if TYPE_CHECKING:
    from ..case import Case

# Core files that decide what comes of a method's answer, and of a fused volume's score.
CONTRACT = ("method.py", "engine/fusing.py")
SCORING = ("metric.py", "triple.py", "scoring/evaluate.py", "scoring/protocol.py")
# Libraries whose versions change numbers.
LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "PyWavelets")

_COMMENT = re.compile(r"#[^\n]*")  # one that holds a bracket would end a list of names
_RELATIVE = re.compile(r"\bfrom\s*(\.+)([\w.]*)\s+import\s*(?:\(([^)]*)\)|((?:\\\n|[^\n])+))")
_ABSOLUTE = re.compile(r"^[ \t]*(?:from\s+([\w.]+)\s+import\b|import\s+([\w., \t]+))", re.MULTILINE)
_NAME = re.compile(r"\w+")
_TEXT = re.compile(r"""["']([^"'\n\\{}]{1,200})["']""")
_VARIABLE = re.compile(r"""(?:environ(?:\.get)?\s*[\[(]|getenv\s*\()\s*["'](\w+)["']""")
_PLUGINS = ("methods", "metrics", "datasets")


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


def cases_key(cases: Iterable[Case]) -> str:
    """Key of a list of cases: changes when any voxel, the preprocessing or the list changes."""
    hashed = hashlib.sha256()
    for case in cases:
        hashed.update(f"{case.id}\0{case.group}\0{case.fingerprint}\n".encode())
    return hashed.hexdigest()[:16]


def method_key(cls: type, parameters: Mapping[str, Any], files: Iterable[Path]) -> str:
    """Hash of everything that decides what a method returns for given inputs.

    Parameters
    ----------
    parameters : mapping
        As they are set.
    files : iterable of Path
        `Method.files`: weights and the like.

    Raises
    ------
    InputError
        A file is missing.
    """
    path = path_of(cls)
    inputs = {
        "class": cls.__name__,
        "source": source_key(path) if path else f"{cls.__module__}.{cls.__qualname__}",
        "environment": _environment(path) if path else {},
        "parameters": {k: v for k, v in parameters.items() if k != "weights"},
        "files": [_file_key(f) for f in files],
        "contract": _core_key(CONTRACT),
    }
    return digest(inputs)


def fuse_key(method: str, case: str, seed: int, device: str, threads: int) -> str:
    """Key of a fused volume: `method` and `case` are keys themselves, `device` counts by its kind."""
    inputs = {"method": method, "case": case, "seed": seed, "device": device.split(":")[0]}
    return digest({**inputs, "threads": threads, "libraries": libraries()})


def score_key(volume: str, protocol: str, metric: str, source: str) -> str:
    """Key of one score of a volume: `source` is the metric's (`source_key`)."""
    inputs = {"volume": volume, "protocol": protocol, "metric": metric, "source": source}
    return digest({**inputs, "scoring": scoring_key(), "libraries": libraries()})


def scoring_key() -> str:
    """Key of the core files that decide a score, whatever the metric."""
    return _core_key(SCORING)


def remembered_sha256(path: Path) -> str:
    """sha256 of a large file; remembered in the cache by path, size and time of change."""
    stat = path.stat()
    name = hashlib.sha256(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    memo = cache_dir("hashes", name[:2], name)
    try:
        known = memo.read_text()
        if len(known) == 64:
            return known
    except OSError:
        pass
    found = file_sha256(path)
    try:
        with atomic_path(memo) as temporary:
            temporary.write_text(found)
    except OSError:
        pass  # a cache that cannot be written costs time, nothing else
    return found


@lru_cache(maxsize=8)
def minor_versions(names: tuple[str, ...]) -> list[str]:
    """Versions of libraries but for the last number, ``2.1``; "" for one that is not installed."""
    versions = []
    for name in names:
        try:
            versions.append(".".join(version(name).split(".")[:2]))
        except PackageNotFoundError:
            versions.append("")
    return versions


@lru_cache(maxsize=1)
def libraries() -> dict[str, str]:
    """Installed versions of the libraries that change numbers."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def source_files(path: Path) -> list[Path]:
    """Return `path`, the plugin files that it imports, directly or not, and the data files that it names."""
    found: dict[Path, None] = {}
    todo = [path.resolve()]
    while todo:
        file = todo.pop()
        if file in found or not file.is_file():
            continue
        found[file] = None
        if file.suffix == ".py":
            todo += _used(file)
    return sorted(found)


@lru_cache(maxsize=512)
def _used(file: Path) -> tuple[Path, ...]:
    """Paths at which the modules may lie that `file` imports, and files beside it that it names."""
    found: list[Path] = []
    # Not by `ast`, which takes twenty times as long; what looks like an import in a text does no harm.
    text = _COMMENT.sub("", file.read_text(encoding="utf-8", errors="replace"))
    for dots, module, *names in _RELATIVE.findall(text):
        if len(dots) > len(file.parents):
            continue
        base = file.parents[len(dots) - 1].joinpath(*filter(None, module.split(".")))
        # `from . import x` names modules; `from .m import f` names m.py (or a package m/ holding f.py).
        found += [base.with_suffix(".py"), *(base / f"{name}.py" for name in _NAME.findall("".join(names)))]
    for single, several in _ABSOLUTE.findall(text):
        modules = [single] if single else [m.split()[0] for m in several.split(",") if m.strip()]
        for module in modules:
            found += _absolute(module.split("."), file.parent)
    if ROOT not in file.parents:  # bundled plugins name their files to `Method.files`
        found += _named(text, file.parent)
    return tuple(found)


def _absolute(parts: list[str], beside: Path) -> list[Path]:
    """Files of an absolutely imported module: of a bundled plugin, or of a helper beside the plugin."""
    if parts[0] == "fusebench":
        inside = len(parts) > 2 and parts[1] in _PLUGINS
        base = (ROOT if (ROOT / "run_bench.py").exists() else PACKAGE).joinpath(*parts[1:])
        return [base.with_suffix(".py")] if inside else []
    base = beside.joinpath(*parts)
    return [base.with_suffix(".py"), base / "__init__.py"]


def _named(text: str, beside: Path) -> list[Path]:
    """Files that a plugin's text names and that are there, such as a table that it reads."""
    found = []
    for name in _TEXT.findall(text):
        try:
            path = beside / os.path.expanduser(name)
            if "." in name and path.is_file():
                found.append(path.resolve())
        except (OSError, ValueError):  # a text that cannot be a path
            continue
    return found


def _environment(path: Path) -> dict[str, str]:
    """Values of the environment variables that a plugin's files ask for by name."""
    names = {n for f in source_files(path) if f.suffix == ".py" for n in _VARIABLE.findall(_read(f))}
    return {name: os.environ.get(name, "") for name in sorted(names)}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


@lru_cache(maxsize=512)
def source_key(path: Path) -> str:
    """Hash of a plugin's source."""
    return digest([file_sha256(f) for f in source_files(path)])


@lru_cache(maxsize=8)
def _core_key(names: tuple[str, ...]) -> str:
    """Hash of files of the core, alone: what they import decides no number that these do not."""
    return digest([file_sha256(PACKAGE / name) for name in names])


def path_of(obj: Any) -> Path | None:
    """Source file of a class, function or metric object, or None where it has none."""
    try:
        return Path(inspect.getfile(inspect.unwrap(getattr(obj, "core", obj))))
    except (TypeError, OSError):
        return None


def _file_key(path: Path) -> str:
    if not path.is_file():
        raise InputError(
            f"weights {path}: no such file; give an existing file or leave it out for the shipped one"
        )
    return file_sha256(path)
