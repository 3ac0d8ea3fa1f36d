"""Files: the root of the checkout, hashes, and writing so that a reader never sees half a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Any

from .errors import InputError

# The folder that holds this package: the checkout, or site-packages where it is installed.
PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent


def plugin_folder(kind: str) -> Path:
    """Folder of the bundled plugins of one kind (``methods``, ``metrics``, ``datasets``).

    It lies at the top of a checkout; a wheel has it inside the package.
    """
    return (ROOT if (ROOT / "run_bench.py").exists() else PACKAGE) / kind


def portable(path: Path) -> str:
    """A path as a manifest has it: within this project it holds in another checkout too."""
    full = path.resolve()
    return str(full.relative_to(ROOT) if ROOT in full.parents else full)


def located(text: str) -> Path:
    """The path that `portable` tells, here."""
    return ROOT / text


# Bytes of a file of text: lists, tables, notes.  Nobody writes more, and a hole in a file costs nothing.
MOST_TEXT = 256 << 20


def open_plain(path: Path) -> BufferedReader:
    """Open a file for reading; every file that may be anybody's is opened here.

    Raises
    ------
    OSError
        It cannot be read, or is a pipe, a socket or a device, which may keep its reader waiting for ever, or
        a folder.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is a folder, a pipe or a device, and no file", str(path))
    return path.open("rb")


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """The content of a plain file.

    Raises
    ------
    OSError
        As of `open_plain`, or it is longer than `most` bytes.
    """
    with open_plain(path) as handle:
        if os.fstat(handle.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"is larger than {max(1, most >> 20)} MiB", str(path))
        return handle.read(most)


def read_text(path: Path, most: int = MOST_TEXT, encoding: str = "utf-8") -> str:
    """The text of a plain file; see `read_bytes`.

    Raises
    ------
    OSError, UnicodeDecodeError
    """
    return read_bytes(path, most).decode(encoding)


def read_json(path: Path, most: int = MOST_TEXT) -> Any:
    """Content of a plain file of JSON; see `read_bytes`.

    Raises
    ------
    OSError
    ValueError
        It is not JSON, or nested too deeply.
    """
    content = read_bytes(path, most)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file, as hexadecimal digits."""
    with open_plain(path) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_file(value: object) -> bool:
    """True for a `Path` of a file that is there, or a text that can only be one: it has a dot or a slash."""
    if not isinstance(value, Path | str) or (isinstance(value, str) and not {".", "/", os.sep} & {*value}):
        return False
    try:
        return Path(value).is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


# Temporary folders of `whole_folder`.
_WHOLE = re.compile(r"\.[0-9a-f]{32}\.tmp")
_PACKAGES = tuple(f"{os.sep}{kind}-packages{os.sep}" for kind in ("site", "dist"))


@lru_cache(maxsize=1)
def installed_roots() -> tuple[str, ...]:
    """Folders of the standard library and of installed packages, real, each with a slash behind it."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({os.path.realpath(sysconfig.get_path(kind)) + os.sep for kind in kinds})


def is_installed(path: str | Path) -> bool:
    """True for what belongs to the standard library or to the packages of any environment."""
    real = os.path.realpath(path) + os.sep
    return real.startswith(installed_roots()) or any(name in real for name in _PACKAGES)


def stamp(file: Path) -> tuple[int, ...]:
    """Changes when a file is written to, even where its size and time of change are put back."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


def refuse_foreign(folder: Path, names: Iterable[str], maker: str) -> None:
    """Raise `InputError` if `folder` holds any of `names`, a link that leads nowhere as well."""
    foreign = [name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if foreign:
        raise InputError(
            f"{folder}: holds {', '.join(foreign)}, not made by {maker}; give --out an empty or new folder"
        )


def refuse_links(folder: Path, names: Iterable[str]) -> None:
    """Raise `InputError` if one of `names` is a link: files elsewhere would be replaced through it."""
    for name in names:
        if (folder / name).is_symlink():
            raise InputError(f"{folder}: {name} is a link to another folder; give another --out")


def write_text(target: Path, text: str) -> None:
    """Write a text beside `target` and move it into place: no reader sees half of it, no link is followed."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Temporary folder in `target`; what is in it replaces what has the same names there when the block ends.

    Where the block, or a move, ends with an error, `target` is as it was.  What a killed process left is
    cleared.
    """
    is_new = not target.exists()
    for left in target.glob(".*.tmp"):
        if _WHOLE.fullmatch(left.name) and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    temporary = target / f".{uuid.uuid4().hex}.tmp"
    made, former = temporary / "made", temporary / "former"
    try:
        made.mkdir(parents=True)
        former.mkdir()
        yield made
        _exchange(made, target, former)
    except OSError as error:
        for name in (error.filename, error.filename2):
            # Nobody knows the temporary one; of a copy the source is named too.
            if isinstance(name, str | Path) and Path(name).is_relative_to(made):
                error.filename, error.filename2 = str(target / Path(name).relative_to(made)), None
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # it is not empty, or was never made
                target.rmdir()


def _exchange(made: Path, target: Path, former: Path) -> None:
    """Move what is in `made` to `target`, and what was there to `former`: all of it or nothing."""
    moved: list[str] = []
    try:
        for new in sorted(made.iterdir()):
            there = target / new.name
            # A folder in place of a file, or the reverse, is nobody's to replace: the second move says so.
            if os.path.lexists(there) and there.is_dir() == new.is_dir():
                os.replace(there, former / new.name)
            os.replace(new, there)
            moved.append(new.name)
    except BaseException:
        for name in moved:
            os.replace(target / name, made / name)
        for old in former.iterdir():
            os.replace(old, target / old.name)
        raise


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Temporary path beside `target` that replaces it when the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: a cache shared by a group keeps the permissions that the umask gives.
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        # Libraries do not always say which file; nobody knows the temporary one.
        named = {None if name is None else str(name) for name in (error.filename, error.filename2)}
        # One without a number is its text, which naming a file would hide.
        if error.errno and (named == {None} or str(temporary) in named):
            error.filename, error.filename2 = str(target), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
