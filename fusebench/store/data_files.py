"""The files that a plugin's source names: by its texts, and by the paths that it makes."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from glob import escape, iglob
from itertools import islice
from pathlib import Path

from .contents import PASSING, is_scratch, listing
from .places import Places

_LONGEST, _FOLDERS, _MATCHES = 200, 8, 200  # characters of a name, folders to look in, files of a pattern
_TELLING = re.compile(r"\w\.|\.\w|\w{3}")  # what a pattern has to hold, or it would match whatever lies there
_SYSTEM = ("/proc/", "/sys/", "/dev/")  # another content at every look
_WILD = {*"*?["}
# Namesakes of a plugin that it does not read: its card, a notebook, pictures, what editors leave.
_BESIDE = {".md", ".rst", ".ipynb", ".png", ".svg", ".pdf", ".html", ".bak", ".orig", ".rej", ".swp"}


@dataclass
class Found:
    """Files and folders that a source names.

    Attributes
    ----------
    files : list of Path
    folders : dict
        Folders that count as a whole: whose files are among `files`, or else have their sizes here, since
        they are too large to be read.
    """

    files: list[Path] = field(default_factory=list)
    folders: dict[Path, tuple[tuple[str, int], ...]] = field(default_factory=dict)


def named(texts: Iterable[str], places: Places, file: Path) -> Found:
    """Files that are there of those that the source `file` names, its namesakes beside it among them.

    Parameters
    ----------
    texts : iterable of str
        All that it holds, with "*" for what is filled in.
    places : Places
        The paths that it makes.
    """
    places = _expanded(places)
    folders, found = _placed(places, file)
    found.files += [
        p for p in file.parent.glob(f"{escape(file.stem)}.*") if p.is_file() and _is_data(p.suffix)
    ]
    found.files += _by_texts(
        [t for t in texts if 0 < len(t) <= _LONGEST and not {"\n", "\0"} & {*t}], folders
    )
    found.files = [p.resolve() for p in _but_written(dict.fromkeys(found.files), places)]
    return found


def _is_data(suffix: str) -> bool:
    return suffix not in PASSING | _BESIDE and not suffix.endswith("~")


def is_there(path: Path, kind: Callable[[Path], bool] = Path.is_file) -> bool:
    """True if a path is there and of a kind, and no file of the system's."""
    if str(path).startswith(_SYSTEM):
        return False
    try:
        return kind(path)
    except (OSError, ValueError):  # a text that cannot be a path
        return False


def _by_texts(names: list[str], folders: list[Path]) -> Iterator[Path]:
    """Files of these names in the working folder, or in one of the folders: the first is the plugin's own."""
    beside = folders[0]
    for above in folders:  # and those below that a text names: `here / "data" / "table.csv"`
        for name in names:
            folder = above / name.strip("/")
            fits = len(folders) <= _FOLDERS and ".." not in name and folder not in folders
            if fits and is_there(folder, Path.is_dir):
                folders.append(folder)
    for name in names:
        candidates = [beside / os.path.expanduser(name)]
        if "." in name:  # in the working folder, where a bare word is more likely to be there by chance
            candidates.append(Path(name))
        # `folder + "/table.csv"`, `f"{folder}/table.csv"`
        below = name.removeprefix("*").lstrip("/") if name.startswith(("/", "*/")) else name
        yield from filter(is_there, [*candidates, *(folder / below for folder in folders)])
        if _WILD & {*below} and _TELLING.search(below):
            for folder in folders:
                yield from _matching(below, folder)


def _matching(pattern: str, folder: Path) -> Iterator[Path]:
    """Files below a folder that match a pattern; two folders deep at most."""
    for each in {pattern.replace("**/", ""), pattern.replace("**", "*")}:
        if each.count("/") <= 2 and not each.startswith("/"):
            matches = (folder / name for name in sorted(iglob(each, root_dir=folder)))
            yield from islice((p for p in matches if p.suffix != ".pyc" and is_there(p)), _MATCHES)


# -- paths that the source makes --------------------------------------------------------------------


def _placed(places: Places, file: Path) -> tuple[list[Path], Found]:
    """Folders to look for texts in, the plugin's own first, and what is found without them."""
    folders, found = {file.parent: True}, Found()
    whole: list[Path] = []
    for place in sorted(places.named):
        fixed, pattern = _split(place)
        if not pattern and is_there(fixed):
            found.files.append(fixed)
        elif _is_of_a_project(fixed) and is_there(fixed, Path.is_dir):
            folders[fixed] = True
            if pattern and _TELLING.search(os.path.basename(pattern)):
                found.files += _matching(pattern, fixed)
            else:
                whole.append(fixed)
    for folder in whole:
        if folder not in (file.parent, *file.parents) and not _is_scratch(folder, places):
            held = listing(folder)
            found.files += held.files if held.is_small else ()
            found.folders[folder] = () if held.is_small else held.sizes
    for folder in sorted(map(Path, places.listed)):
        # Its own, or one above: what lies there may belong to others, so that only what it can list counts.
        if folder in file.parents and _is_of_a_project(folder):
            found.files += (p for p in listing(folder, 0).files if p.suffix != ".py")
    return list(folders)[: _FOLDERS + 1], found


def _expanded(places: Places) -> Places:
    """The places with what environment variables hold; without those of variables that are not set."""

    def known(some: set[str]) -> set[str]:
        full = (os.path.expandvars(place) for place in some)
        return {os.path.abspath(os.path.expanduser(place)) for place in full if not place.startswith("$")}

    return Places(known(places.named), known(places.listed), known(places.written))


def _split(place: str) -> tuple[Path, str]:
    """The folder or file of a place up to where it is not known, and what follows."""
    parts = Path(place).parts
    known = next((i for i, part in enumerate(parts) if {*"*?"} & {*part}), len(parts))
    return Path(*parts[:known]), "/".join(parts[known:])


def _is_of_a_project(folder: Path) -> bool:
    """False for the folders that anything may lie in."""
    try:
        home = Path.home()
    except RuntimeError:  # a user without an account
        home = Path("/")
    return len(folder.parts) > 2 and folder not in (home, Path(tempfile.gettempdir()))


def _is_scratch(folder: Path, places: Places) -> bool:
    """True for a folder that the source makes, or that is called like one that programs write to."""
    return is_scratch(folder) or any(str(p) in places.written for p in (folder, *folder.parents))


def _but_written(files: Iterable[Path], places: Places) -> Iterator[Path]:
    """Files without those that the source writes and does nothing else with, as far as it says."""
    for path in files:
        name = os.path.normpath(path)
        if not _fits(name, places.written) or _fits(name, places.named):
            yield path


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern.replace("[", "[[]")) for pattern in patterns)
