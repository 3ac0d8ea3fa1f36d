"""Contents of files and folders, for keys: hashes that are remembered, and listings that are bounded.

Nothing here depends on where a file lies or when it was written, so that a key is the same on every machine.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..files import atomic_path, file_sha256, is_file, stamp
from .cache import cache_dir

# Of a folder: entries that are looked at, depth below it, and bytes that are read.
MOST_FILES, DEEPEST, MOST_BYTES = 500, 4, 1 << 30
# The same of a folder that a loader is given, and entries whose names and sizes count where that is too much.
MOST_DATA_FILES, DEEPEST_DATA, MOST_ENTRIES = 5000, 8, 50_000
# Beside a plugin, of which they are no part.
PASSING = frozenset({".pyc", ".log", ".lock", ".tmp", ".pid"})
# Folders that programs write to.
_SCRATCH = re.compile(r"\..*|__pycache__|.*cache.*|te?mp|logs?|runs?|out|outputs?", re.IGNORECASE)


@dataclass(frozen=True)
class Listing:
    """The files below a folder.

    Attributes
    ----------
    files : tuple of Path
        In order; none where the folder holds more than `MOST_FILES` files and folders.
    sizes : tuple of (str, int)
        Name below the folder and size of each.
    """

    files: tuple[Path, ...]
    sizes: tuple[tuple[str, int], ...]

    @property
    def is_small(self) -> bool:
        """Its files can be read for every key."""
        return sum(size for _, size in self.sizes) <= MOST_BYTES


def listing(folder: Path, depth: int = DEEPEST, most: int | None = None) -> Listing:
    """The files below a folder, but for what is hidden, passing, or in folders that programs write to."""
    found: list[tuple[str, int]] = []
    try:
        for seen, entry in enumerate(_below(str(folder), depth)):
            if seen >= (MOST_FILES if most is None else most):
                return Listing((), ())
            if entry.is_file() and not is_passing(entry.name):
                found.append((os.path.relpath(entry.path, folder), entry.stat().st_size))
    except OSError:  # gone meanwhile, or not ours to read
        return Listing((), ())
    found.sort()
    return Listing(tuple(folder / name for name, _ in found), tuple(found))


def _below(folder: str, depth: int) -> Iterator[os.DirEntry[str]]:
    with suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if depth and entry.is_dir() and not _is_written_to(entry):
                yield from _below(entry.path, depth - 1)


def _is_written_to(folder: os.DirEntry[str]) -> bool:
    """By its name, or the folder of a run."""
    return bool(_SCRATCH.fullmatch(folder.name)) or os.path.exists(os.path.join(folder.path, "rows.jsonl"))


def is_passing(name: str) -> bool:
    """True for the name of a file that comes and goes: hidden, compiled, a log, a lock."""
    return name.startswith(".") or os.path.splitext(name)[1] in PASSING


def is_scratch(folder: Path) -> bool:
    """True for a folder that programs write to, by its name."""
    return _SCRATCH.fullmatch(folder.name) is not None


def files_named(value: object) -> list[Path]:
    """The file that a parameter names, or the files of the folder."""
    if is_file(value):
        return [Path(str(value))]
    if not (isinstance(value, Path) or (isinstance(value, str) and os.sep in value)):
        return []
    try:
        folder = Path(value)
        held = listing(folder) if folder.is_dir() and not is_scratch(folder) else None
    except (OSError, ValueError):  # too long, or with a zero in it
        return []
    return list(held.files) if held and held.is_small else []


def content_of(path: Path) -> object:
    """Content of a file or folder, for a key; sizes alone where that is more than `MOST_BYTES`."""
    if path.is_dir():
        held = listing(path, DEEPEST_DATA, MOST_ENTRIES)
        if not held.is_small or len(held.files) > MOST_DATA_FILES:
            return held.sizes
        pairs = zip(held.files, held.sizes, strict=True)
        return [(name, remembered_sha256(file)) for file, (name, _) in pairs]
    size = path.stat().st_size
    return size if size > MOST_BYTES else remembered_sha256(path)


def remembered_sha256(path: Path) -> str:
    """sha256 of a large file; remembered in the cache for as long as the file is not written to."""
    name = hashlib.sha256(f"{path.resolve()}\0{stamp(path)}".encode()).hexdigest()
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
    except OSError:  # nothing is lost: it is hashed again
        pass
    return found
