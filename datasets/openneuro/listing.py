"""What is fetched of an accession: path, size, hash and stored version of every file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fusebench.errors import InputError
from fusebench.names import check_text

from ..preprocessing.base import read_table

COLUMNS = ("path", "bytes", "hash", "version")
_DIGITS = {"sha256": 64, "md5": 32, "git": 40}


@dataclass(frozen=True)
class File:
    """One file of an accession.

    Attributes
    ----------
    path : str
        Below the root of the dataset, with slashes.
    size : int
        Bytes.
    hash : str
        ``sha256:``, ``md5:`` or ``git:`` (a git blob) and hexadecimal digits.
    version : str
        Of the object in the public bucket; "" for the newest.
    """

    path: str
    size: int
    hash: str
    version: str = ""

    def hasher(self) -> hashlib._Hash:
        """What to feed the content to, for `hash`."""
        algorithm = self.hash.partition(":")[0]
        if algorithm == "git":
            return hashlib.sha1(f"blob {self.size}\0".encode(), usedforsecurity=False)
        return hashlib.new(algorithm, usedforsecurity=False)

    @property
    def digest(self) -> str:
        """Digits of `hash`."""
        return self.hash.partition(":")[2]


def read_listing(path: Path) -> list[File]:
    """Read a listing, a CSV with the columns of `COLUMNS`.

    Raises
    ------
    InputError
        No such table, or a row that is no file inside the dataset.
    """
    files = []
    for line, row in read_table(path, "path", "bytes", "hash"):
        where = f"{path} line {line}"
        if not (_is_inside(row["path"]) and _is_hash(row["hash"]) and row["bytes"].isdecimal()):
            raise InputError(
                f"{where}: no file of a dataset; give path, bytes and hash (sha256:, md5: or git:)"
            )
        name = check_text(row["path"], where)
        files.append(File(name, int(row["bytes"]), row["hash"], row.get("version", "")))
    return files


def _is_inside(path: str) -> bool:
    return bool(path) and not set(path.split("/")) & {"", ".", ".."} and "\\" not in path


def _is_hash(text: str) -> bool:
    algorithm, _, digits = text.partition(":")
    return len(digits) == _DIGITS.get(algorithm) and set(digits) <= set("0123456789abcdef")
