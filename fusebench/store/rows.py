"""Result rows, and the append-only store of a run folder.

A row is one method x case x protocol x metric.  Rows are appended to ``rows.jsonl`` as they come, so a
crash loses at most the one in flight; ``rows.parquet`` and ``rows.csv`` are made from it at the end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import atomic_path
from ..text import printable

if TYPE_CHECKING:
    import pandas as pd  # only tables need it, and workers make none

    from ..case import Case

Status = Literal["ok", "skip", "error", "timeout", "oom"]
SCHEMA = 1
IDENTITY = ("method", "dataset", "case", "protocol", "metric")
FSYNC_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One result.

    Attributes
    ----------
    run, key : str
        Run id and the content key the row was made under.
    method, dataset, case, group, protocol, metric : str
        `metric` is the full id, ``ssim.worst`` or ``mi@cddfuse``.
    value : float or None
        None unless `status` is "ok".
    status, reason : str
        Why there is no value; "" for an ok row.
    load_seconds, fuse_seconds, score_seconds : float or None
        Of the case: loading, fusing (median of repeats, device synchronised), scoring all metrics of
        the protocol.
    fuse_iqr : float or None
        Interquartile range of the fusing time, where repeated.
    memory_mb, gpu_memory_mb : float or None
        Peak resident memory of the worker while fusing, and peak device memory.
    device : str
    seed : int
    fingerprint : str
        `Case.fingerprint` of the data the row was made from; "" where the row does not say.
    split : str
        Of the dataset, in which the case was; "" where the row does not say.
    """

    run: str
    key: str
    method: str
    dataset: str
    case: str
    group: str
    protocol: str
    metric: str
    value: float | None = None
    status: Status = "ok"
    reason: str = ""
    load_seconds: float | None = None
    fuse_seconds: float | None = None
    fuse_iqr: float | None = None
    score_seconds: float | None = None
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None
    device: str = "cpu"
    seed: int = 0
    fingerprint: str = ""
    split: str = ""

    def as_dict(self) -> dict[str, Any]:
        return vars(self).copy()  # flat, so that asdict's deep copy is not needed

    @property
    def identity(self) -> tuple[str, ...]:
        """Method, dataset, case, protocol and metric: a later row with the same ones replaces this one."""
        return tuple(getattr(self, name) for name in IDENTITY)


COLUMNS = tuple(f.name for f in fields(Row))
_TEXT = {"run", "key", *IDENTITY, "group", "status", "reason", "device", "fingerprint", "split"}


class RunStore:
    """The rows of one run folder, held under a lock while it is open.

    Raises
    ------
    InputError
        The folder cannot be written, holds another schema, or another run has it open.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []  # on the file as it was found
        self.outdated: list[str] = []  # on rows that `consolidate` kept out of the table
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder / ".lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{folder} is in use by another run; wait for it or give another --out"
            ) from None
        except OSError as error:
            raise InputError(f"--out {folder}: {error.strerror}; give a folder that can be written") from None
        self._path = folder / "rows.jsonl"
        self._synced = 0.0
        try:
            self._mend()
            # Unbuffered: a row that cannot be written must fail now, not at the end.
            self._file: IO[bytes] = self._path.open("ab", buffering=0)
        except OSError as error:
            self._lock.release()
            raise InputError(f"{self._path}: {error.strerror}; give a folder that can be written") from None

    def _mend(self) -> None:
        """Drop a torn last line, left by a run that was killed while writing it."""
        if not self._path.exists():
            return
        with self._path.open("rb+") as handle:
            size = handle.seek(0, os.SEEK_END)
            if size == 0:
                return
            back = min(size, 1 << 20)
            handle.seek(size - back)
            tail = handle.read(back)
            end = tail.rfind(b"\n") + 1
            if end < len(tail):
                handle.truncate(size - len(tail) + end)
                self.notes.append(f"{self._path}: the last row was torn (a killed run) and is dropped")

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows; they reach the disk (fsync) about once a second.

        Raises
        ------
        InputError
            The disk is full or gone; what was stored before stays readable.
        """
        text = "".join(json.dumps({"schema": SCHEMA, **row.as_dict()}) + "\n" for row in rows)
        start = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(text.encode())
            while left:  # a disk that gets full takes a part, and says why only when asked for the rest
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced > FSYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            os.truncate(self._path, start)
            raise InputError(
                f"{self._path}: {error.strerror}; what was stored is kept: make room and run the same command"
            ) from None

    def latest(self) -> Iterator[Row]:
        """The newest row of every identity, in the order of first appearance."""
        yield from read_rows(self.folder)

    def consolidate(self, cases: Iterable[Case] = ()) -> pd.DataFrame:
        """Write ``rows.parquet`` and ``rows.csv`` atomically and return the table.

        Parameters
        ----------
        cases : iterable of Case
            As the dataset has them now.  Rows of these cases that were made from other data are kept out of
            the table (`outdated` says so); they stay in ``rows.jsonl``.
        """
        now = {(case.dataset, case.id): case.fingerprint for case in cases}
        rows, other = [], dict[str, set[str]]()
        for row in self.latest():
            if row.fingerprint in ("", now.get((row.dataset, row.case), row.fingerprint)):
                rows.append(row)
            else:
                other.setdefault(row.method, set()).add(row.case)
        if other:
            named = ", ".join(f"{method} ({len(ids)})" for method, ids in other.items())
            self.outdated.append(
                f"Left out, made from other data of the same cases: {named}; run these methods again."
            )
        table = as_table(rows)
        with atomic_path(self.folder / "rows.parquet") as path:
            table.to_parquet(path, index=False)
        with atomic_path(self.folder / "rows.csv") as path:
            table.to_csv(path, index=False)
        return table

    def close(self) -> None:
        """Flush, sync and release the lock."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
        finally:
            self._lock.release()

    def __enter__(self) -> RunStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_rows(folder: Path) -> list[Row]:
    """Newest row of every identity in a run folder; a torn last line is ignored.

    Raises
    ------
    InputError
        No rows there, an unreadable line in the middle, or another schema version.
    """
    path = folder / "rows.jsonl"
    newest: dict[tuple[str, ...], Row] = {}
    try:
        handle = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; is {folder} a run folder?") from None
    with handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
            except ValueError:
                raise InputError(f"{path}, line {number}: not JSON; delete the line") from None
            if record.pop("schema", None) != SCHEMA:
                raise InputError(
                    f"{path}, line {number}: written by another version of FuseBench; use another --out"
                )
            # Reasons name files, and names of files are any bytes.
            record["reason"] = printable(record.get("reason", ""))
            row = Row(**record)
            newest[row.identity] = row
    return list(newest.values())


def as_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with stable column types."""
    import pandas as pd

    table = pd.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))
    for column in COLUMNS:
        table[column] = table[column].astype(
            "str" if column in _TEXT else "int64" if column == "seed" else "float64"
        )
    return table
