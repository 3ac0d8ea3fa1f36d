"""Content-addressed cache of arrays: made once, written atomically, safe between processes."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ..files import atomic_path

Arrays = Mapping[str, NDArray[Any]]

_NOTE = "fusebench"  # array of a file that says what the file holds

LOCK_SECONDS = 600.0  # longer than anything takes to make that is cached


def cache_dir(*parts: str) -> Path:
    """Folder for cached files: ``$FUSEBENCH_CACHE``, else the user's cache folder; not created here.

    Where there is neither that variable nor a home (a container's user without an account), a folder that
    cannot be made: then nothing is kept, and a warning names the variable.
    """
    root = os.environ.get("FUSEBENCH_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = os.path.expanduser(root or os.path.join(base, "fusebench"))
    # expanduser leaves the ~ where it knows no home; a folder of that name is not what anybody wants.
    return Path(os.devnull if folder.startswith("~") else folder).joinpath(*parts)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, so that two processes do not both do the work."""
    # A folder that cannot be written is an error here, and not waited for.  A link that another user of the
    # cache left there is not followed.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    lock = FileLock(path)
    # Some network file systems have no locks: then both do it, and each writes a whole file.
    with contextlib.suppress(OSError, NotImplementedError, Timeout):
        lock.acquire(timeout=LOCK_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _read(path: Path, names: Iterable[str] | None) -> dict[str, NDArray[Any]] | None:
    """The named arrays of an ``.npz`` (all by default), or None where it is absent, damaged or another's.

    The end of every array is read, where its checksum is; a file without a note of its key is of an earlier
    version.
    """
    try:  # a pipe or folder of that name is no file of ours, and is not waited for
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        return None
    with open(number, "rb") as handle:
        try:
            if not is_honest(handle):
                return None
            handle.seek(0)
            with np.load(handle, allow_pickle=False) as store:
                held = _held(path, store)
                found = {name: store[name] for name in (held if names is None else names)}
            return found if all(_form(x) == held[name] for name, x in found.items()) else None
        # Truncated, overwritten or with a flipped bit, on which zipfile raises nearly anything: made anew.
        except Exception:
            return None


def _form(array: NDArray[Any]) -> list[Any]:
    """Kind and shape of an array, as JSON has them."""
    return [array.dtype.str, list(array.shape)]


def _note(path: Path, arrays: Arrays) -> NDArray[Any]:
    """Entry that `_held` reads: the key of a file, which is its name, and the form of its arrays."""
    forms = {name: _form(np.asarray(x)) for name, x in arrays.items()}
    return np.array(json.dumps({"key": path.stem, "arrays": forms}))


def _held(path: Path, store: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    """The form of every array of a file, by name.

    Raises
    ------
    ValueError
        The file is not the one that was stored at `path`.
    """
    note = json.loads(str(store[_NOTE]))
    if note["key"] != path.stem or {*note["arrays"], _NOTE} != {*store}:
        raise ValueError(f"{path}: holds another's arrays")
    forms: dict[str, list[Any]] = note["arrays"]
    return forms


def is_honest(file: Path | IO[bytes], ratio: float = 1.5) -> bool:
    """True if a zip archive holds no more than `ratio` times its own size, and a little: no bomb."""
    with zipfile.ZipFile(file) as archive:
        archive.fp.seek(0, os.SEEK_END)  # type: ignore[union-attr]
        return _held_bytes(archive) <= ratio * archive.fp.tell() + (1 << 20)  # type: ignore[union-attr]


def unpacked_bytes(file: Path) -> int:
    """Bytes that a zip archive says it unpacks to."""
    with zipfile.ZipFile(file) as archive:
        return _held_bytes(archive)


def _held_bytes(archive: zipfile.ZipFile) -> int:
    return sum(member.file_size for member in archive.infolist())


def cached_arrays(
    path: Path, make: Callable[[], Arrays], names: Iterable[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Arrays stored at `path` (uncompressed ``.npz``), made by `make` when absent, damaged or another's.

    Parameters
    ----------
    path : Path
        Its name without the suffix is the content key, which the file repeats; a file is never updated in
        place.
    make : callable
        Returns every array of the file.
    names : iterable of str, optional
        Only these are read.

    Returns
    -------
    dict of str to ndarray
        Where the cache cannot be written, the result of `make` with one warning.
    """
    wanted = None if names is None else list(names)
    stored = _read(path, wanted)
    if stored is not None:
        return stored
    problem: OSError | None = None
    with contextlib.ExitStack() as lock:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.enter_context(_exclusive(path.with_suffix(".lock")))
        except OSError as error:
            problem = error
        stored = _read(path, wanted)
        if stored is None:
            stored = dict(make())  # an error of its own is not the cache's
            try:
                if problem is None:
                    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
                        np.savez(handle, allow_pickle=False, **{**stored, _NOTE: _note(path, stored)})
            except OSError as error:
                problem = error
    if problem is not None:
        warnings.warn(
            f"cache {path.parent} is not writable ({problem.strerror or problem}); nothing is kept; "
            "FUSEBENCH_CACHE names another folder",
            stacklevel=2,
        )
    return stored if wanted is None else {name: stored[name] for name in wanted}
