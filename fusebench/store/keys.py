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
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..files import PACKAGE, file_sha256, stamp
from .sources import LIBRARIES, sha256_of, source_files, sources

if TYPE_CHECKING:
    from ..case import Case

# Core files that decide what comes of a method's answer, and of a fused volume's score.
CONTRACT = ("method.py", "engine/fusing.py")
SCORING = ("metric.py", "triple.py", "levels.py", "scoring/evaluate.py", "scoring/protocol.py")


# Files and what tells that they were written to.
Stamps = tuple[tuple[str, tuple[int, ...]], ...]


def digest(*parts: object) -> str:
    """Short hash of the JSON form of `parts`."""
    text = json.dumps(parts, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """JSON form of an array or tensor, all of it, where its text would leave numbers out; else the text."""
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        return [str(value.dtype), list(getattr(value, "shape", ())), value.tolist()]
    return str(value)


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


def method_key(
    cls: type,
    parameters: Mapping[str, Any],
    files: Sequence[Path],
    given: Mapping[str, Any] | None = None,
    file: str = "",
) -> str:
    """Hash of everything that decides what a method returns for given inputs.

    Parameters
    ----------
    parameters : mapping
        As the method has stored them.
    files : sequence of Path
        `Method.files`: weights and the like.
    given : mapping, optional
        What it was made with, of which it may have stored something else.
    file : str, optional
        The plugin file, where that is not the one of the class.

    Raises
    ------
    InputError
        A file is missing.
    """
    paths = source_paths(cls, file)
    stored = dict(parameters)
    if "weights" in stored and (stored["weights"] is None or Path(str(stored["weights"])) in files):
        given = {k: v for k, v in (given or {}).items() if k != "weights"}
        del stored["weights"]  # their content counts, wherever they lie
    other = {k: v for k, v in (given or {}).items() if k not in stored or digest(v) != digest(stored[k])}
    inputs = {
        "class": cls.__name__,
        "source": [source_key(p) for p in paths] or f"{cls.__module__}.{cls.__qualname__}",
        "parameters": [stored, other],
        "files": [_file_key(f) for f in files],
        "contract": core_key(CONTRACT),
    }
    return digest(inputs)


def source_paths(cls: type, file: str) -> list[Path]:
    """The plugin file and that of the class, which may be another: the plugin sets up what it imports."""
    found = (Path(file) if file else None, path_of(cls))
    return list(dict.fromkeys(p.resolve() for p in found if p is not None))


def watched_files(cls: type, files: Sequence[Path], file: str = "") -> Stamps:
    """The files behind a `method_key` with their `stamp`s: while these stay, so does the key."""
    found = dict.fromkeys(f for p in source_paths(cls, file) for f in source_files(p))
    return tuple((str(f), stamp(f)) for f in (*found, *files))


def are_as_they_were(watched: Stamps) -> bool:
    """True if nobody has written to the files since `watched_files` looked at them."""
    try:
        return all(stamp(Path(file)) == before for file, before in watched)
    except OSError:
        return False


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
    return core_key(SCORING)


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


def source_key(path: Path) -> str:
    """Hash of a plugin's source, with the libraries that it imports and the variables that it reads."""
    return digest(sources(path))


def core_key(names: tuple[str, ...]) -> str:
    """Hash of files of the core, alone: what they import decides no number that these do not."""
    return digest([sha256_of(PACKAGE / name) for name in names])


def path_of(obj: Any) -> Path | None:
    """Source file of a class, function or metric object, or None where it has none."""
    try:
        core = obj if isinstance(obj, type) else getattr(obj, "core", obj)
        return Path(inspect.getfile(inspect.unwrap(core)))
    except (TypeError, OSError):
        return None


def _file_key(path: Path) -> str:
    if not path.is_file():
        raise InputError(
            f"weights {path}: no such file; give an existing file or leave it out for the shipped one"
        )
    return file_sha256(path)
