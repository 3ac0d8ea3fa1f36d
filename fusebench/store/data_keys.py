"""Keys of cases: what their dataset says of the data, the code that loads them, and what the loader is given.

A case of FuseBench has a fingerprint of its files by content, and of the code that prepares them.  Of
another's nobody knows what is in it, so that the files that its loader is given count as well.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property, partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files import PACKAGE, located, portable, stamp
from .contents import content_of
from .keys import Stamps, are_as_they_were, core_key, digest, path_of, source_key, source_paths
from .sources import sha256_of, source_files

if TYPE_CHECKING:
    from ..case import Case

# Reader of nearly all cases of plugins; those of FuseBench have it in their fingerprints.
_READER = PACKAGE / "images" / "read_write.py"
# They make a case of the images that a loader returns.
_CASES = ("case.py", "arrays.py")
_DEEPEST, _MOST = 8, 2000  # steps into what a loader holds, and values in it
_LONGEST = 1000  # characters of what one prints
# Libraries whose objects hold what has nothing to do with the data: loggers, locks.
_PASSING_BY = {"logging", "_thread", "threading"}
# Names of what an object keeps for itself as it goes.
_KEPT = re.compile("cache|memo|seen|found|loaded|read|open|kept|held|done|lru|log|history", re.IGNORECASE)


@dataclass(frozen=True)
class Loading:
    """The code that loads the cases of a dataset.

    Attributes
    ----------
    key : str
        Of the code, the files that it names and so on; "" where it is not known: then a case is known by its
        fingerprint alone.
    bundled : bool
        It is FuseBench's.
    files : tuple of str
        Of the plugin, as the manifest has them.
    code : str
        Hash of the code alone.
    watched : tuple
        Files of that, with their stamps.
    """

    key: str = ""
    bundled: bool = False
    files: tuple[str, ...] = ()
    code: str = ""
    watched: Stamps = ()

    def stated(self, case: Case, data: str) -> str:
        """The fingerprint that rows state, of a case whose key is `data`.

        That of FuseBench's cases tells its voxels apart whatever else is in the file of the dataset.
        """
        return case.fingerprint if self.bundled or not self.key else data


NOT_KNOWN = Loading()


def loading_of(cls: type, file: str = "") -> Loading:
    """How the dataset class of a plugin file loads its cases."""
    paths = source_paths(cls, file)
    if not paths:
        return NOT_KNOWN
    bundled = cls.__module__.startswith("fusebench.")
    names = tuple(map(portable, paths))
    code, watched = _code_key(names), tuple((str(f), stamp(f)) for f in _code(names))
    # A script names the files that it writes its results to as well.
    alone = bundled or cls.__module__ == "__main__"
    key = code if alone else digest([source_key(path) for path in (*paths, _READER)])
    return Loading(digest(key, core_key(_CASES)), bundled, names, code, watched)


def _code(files: tuple[str, ...]) -> list[Path]:
    return [f for name in files for f in source_files(located(name)) if f.suffix == ".py"]


def _code_key(files: tuple[str, ...]) -> str:
    return digest(sorted((f.name, sha256_of(f)) for f in _code(files)))


def check_loading(loading: Loading, dataset: str) -> None:
    """Raise `InputError` where the code of a dataset, as it is here, is not that of the plan."""
    if not loading.key or are_as_they_were(loading.watched):
        return
    try:
        same = _code_key(loading.files) == loading.code
    except OSError:  # not there any more
        same = False
    if not same:
        reason = "its code is not that of the plan: edited meanwhile, or another copy"
        raise InputError(f"dataset {dataset}: {reason}; run the same command again")


def case_keys(cases: Iterable[Case], loading: Loading) -> Iterator[str]:
    """Keys of the data of cases, which are in those of their volumes; code of a plugin may run."""
    held: dict[Path, object] = {}
    for case in cases:
        yield case_key(case, loading, held)


def case_key(case: Case, loading: Loading, held: dict[Path, object] | None = None) -> str:
    """Key of one case; what files hold is taken from `held`, or noted there."""
    given = _of_others(case, {} if held is None else held) if loading.key else ""
    return data_key(case.fingerprint, case.group, loading.key, given)


def data_key(fingerprint: str, group: str, loading: str, given: str = "") -> str:
    """Key of the data of a case, of its parts; the fingerprint alone where nothing is known of the code."""
    return digest("data", fingerprint, group, loading, given) if loading else fingerprint


def _of_others(case: Case, held: dict[Path, object]) -> str:
    """Hash of what a case and its loaders hold; "" for one of FuseBench, whose fingerprint has it."""
    if not case.is_foreign:
        return ""
    told = _Teller(held)
    return digest([told(case.loader), told(case.truth_loader), case.origin, told(case.meta)])


class _Teller:
    """Tells a value so that it is the same text on every machine: files by what they hold, not by place."""

    def __init__(self, held: dict[Path, object]) -> None:
        self._left, self._files = _MOST, held

    def __call__(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            return "..."
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (str, Path)):
            return self._text(value)
        if isinstance(value, (bytes, bytearray)):
            return hashlib.sha256(value).hexdigest()
        if isinstance(value, Mapping):
            # Made of a set, its order is another in every process.
            return sorted(([self(k, depth + 1), self(v, depth + 1)] for k, v in value.items()), key=repr)
        if isinstance(value, (list, tuple, deque)):
            return [self(item, depth + 1) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted(str(self(item, depth + 1)) for item in value)
        try:
            return self._object(value, depth + 1)
        except Exception:  # an object of a plugin's own may raise whatever it is asked
            return type(value).__qualname__

    def _object(self, value: Any, depth: int) -> Any:
        if isinstance(value, partial):
            return [self(part, depth) for part in (value.func, value.args, value.keywords)]
        if isinstance(value, MethodType):
            return [value.__name__, self(value.__self__, depth)]
        if isinstance(value, FunctionType):
            return [*_code_of(value), self(value.__defaults__, depth), self(_enclosed(value), depth)]
        if isinstance(value, type):
            return value.__qualname__
        if hasattr(value, "detach"):  # a tensor, whose library is not imported to plan
            value = value.detach().cpu().numpy()
        if isinstance(value, (np.ndarray, np.generic)):
            held = value.tolist() if value.dtype.hasobject else value.tobytes()
            return [str(value.dtype), list(value.shape), self(held, depth)]
        if hasattr(value, "to_dict"):  # a row of a table
            return self(value.to_dict(), depth)
        if type(value).__module__.partition(".")[0] in _PASSING_BY:
            return type(value).__qualname__
        told = {name: item for name, item in _held(value).items() if _is_said(value, name, item)}
        # Of a range, a date and so on what it prints is all of it.
        return [type(value).__qualname__, self(told, depth) if told else _printed(value)]

    def _text(self, value: str | Path) -> Any:
        """A text, or the name of a file or folder with what it holds."""
        try:
            # A word may be the name of a file in the working folder by chance.
            path = Path(value) if isinstance(value, Path) or "/" in value else None
            if path is not None and path.exists():
                if path not in self._files:
                    self._files[path] = content_of(path)
                return [path.name, self._files[path]]
        except (OSError, ValueError):  # too long for a path, or not ours to read
            path = Path(value)
        return path.name if path is not None and path.is_absolute() else str(value)


def _held(value: Any) -> Mapping[str, Any]:
    if is_dataclass(value):  # which may have slots
        return {f.name: getattr(value, f.name) for f in fields(value)}
    slots = [getattr(cls, "__slots__", ()) for cls in type(value).__mro__]
    names = [name for some in slots for name in ((some,) if isinstance(some, str) else some)]
    found = getattr(value, "__dict__", None)
    told = {name: getattr(value, name) for name in names if hasattr(value, name) and name != "__dict__"}
    return told | (found if isinstance(found, dict) else {})


def _printed(value: Any) -> str:
    """Text that an object prints, if that is not where it lies in memory."""
    text = repr(value)[:_LONGEST]
    return "" if " at 0x" in text else text


def _is_said(value: Any, name: str, item: Any) -> bool:
    """False for what an object keeps to itself and may fill as it goes: a cache, a list of what was found."""
    if isinstance(getattr(type(value), name, None), cached_property):
        return False
    if not name.startswith("_") or isinstance(item, (bool, int, float, str, bytes, Path, tuple)):
        return True
    return isinstance(item, (Mapping, list, set, np.ndarray)) and not _KEPT.search(name)


def _code_of(function: FunctionType) -> list[Any]:
    """Name of a function, with its code where that is in no file."""
    if path_of(function) is not None:
        return [function.__qualname__]
    constants = [c for c in function.__code__.co_consts if isinstance(c, (bool, int, float, str))]
    return [function.__qualname__, function.__code__.co_code.hex(), constants]


def _enclosed(function: FunctionType) -> list[Any]:
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return found
