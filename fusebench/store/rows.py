"""Result rows, and the append-only store of a run folder.

A row is one method x case x protocol x metric.  Rows are appended to ``rows.jsonl`` as they come, so a
crash loses at most the one in flight; ``rows.parquet`` and ``rows.csv`` are made from it at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import atomic_path, file_sha256
from ..text import cell, printable
from .folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd  # only tables need it, and workers make none

Status = Literal["ok", "skip", "error", "timeout", "oom"]
SCHEMA = 1
IDENTITY = ("method", "dataset", "case", "protocol", "metric")
FSYNC_SECONDS = 1.0
MOST_ROWS = 5_000_000  # of a table that is read
LONGEST_LINE = 1 << 20
# Files that a run writes into its folder besides the rows.
_FILES = (
    *("rows.parquet", "rows.csv", "manifest.json", "figures", "fused"),
    *(f"leaderboard.{suffix}" for suffix in ("csv", "md", "tex")),
)


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
_STATUSES = frozenset(get_args(Status))
# In the table: how long rows.jsonl was when it was made, and its hash.
_LOG_SIZE, _LOG_HASH = b"fusebench.log.size", b"fusebench.log.sha256"
_TEXT = {"run", "key", *IDENTITY, "group", "status", "reason", "device", "fingerprint", "split"}
_FILES_OF = ("method", "dataset", "case")  # they become folders and files of a run and a report
_MAY_LACK = {"reason", "fingerprint", "split"}  # what a table made by others may have nothing for
_COLUMNS = frozenset(COLUMNS)
_NUMBERS = tuple(c for c in COLUMNS if c not in _TEXT and c != "seed")


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
        _check_ours(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(RunFolder(folder).lock)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{folder} is in use by another run; wait for it or give another --out"
            ) from None
        except OSError as error:
            raise InputError(f"--out {folder}: {error.strerror}; give a folder that can be written") from None
        self._path = RunFolder(folder).rows
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
        yield from read_log(self.folder)

    def consolidate(self, outdated: Callable[[Row], str] = lambda _: "") -> pd.DataFrame:
        """Write ``rows.parquet`` and ``rows.csv`` atomically and return the table.

        Parameters
        ----------
        outdated : callable
            What keeps a row out of the table, as `outdated` then says; "" for a row that stands.  Rows that
            are kept out stay in ``rows.jsonl``.

        Raises
        ------
        InputError
            The disk is full; tables made before stay as they were.
        """
        rows, other = [], dict[str, dict[str, set[str]]]()
        for row in self.latest():
            reason = outdated(row)
            if reason:
                other.setdefault(reason, {}).setdefault(row.method, set()).add(row.case)
            else:
                rows.append(row)
        for reason, methods in other.items():
            named = ", ".join(f"{method} ({len(ids)})" for method, ids in methods.items())
            self.outdated.append(f"Left out, {reason}: {named}.")
        table = as_table(rows)
        try:
            self._write_tables(table)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise InputError(
                f"{RunFolder(self.folder).parquet}: {reason}; the rows are stored, their tables are not: "
                "make room and run the same command"
            ) from None
        return table

    def _write_tables(self, table: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = {
            _LOG_SIZE: str(self._path.stat().st_size).encode(),
            _LOG_HASH: file_sha256(self._path).encode(),
        }
        packed = pa.Table.from_pandas(table, preserve_index=False)
        packed = packed.replace_schema_metadata({**(packed.schema.metadata or {}), **known})
        with atomic_path(RunFolder(self.folder).parquet) as path:
            pq.write_table(packed, path)
        cells = table.copy(deep=False)
        for column in _TEXT:
            cells[column] = [cell(text) for text in table[column]]
        with atomic_path(RunFolder(self.folder).csv) as path:
            cells.to_csv(path, index=False)

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


def _check_ours(folder: Path) -> None:
    """Raise `InputError` where a run would replace files that no run has made, or write through a link."""
    log = folder / "rows.jsonl"
    linked = [p.name for p in (log, folder / ".lock") if p.is_symlink()]
    if linked:
        raise InputError(f"{folder}: {linked[0]} is a link to another file; give another --out")
    try:
        with log.open("rb") as handle:
            first = handle.readline(1 << 20)
    except FileNotFoundError:
        foreign = [name for name in _FILES if (folder / name).exists() or (folder / name).is_symlink()]
        if foreign:
            raise InputError(
                f"{folder}: holds {', '.join(foreign)}, not made by a run; give --out an empty or new folder"
            ) from None
        return
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; give a folder that can be written") from None
    if first.endswith(b"\n"):
        _parsed(first, f"{log}, line 1")
    elif first and not first.startswith(b'{"schema": '):
        raise InputError(f"{log}: not made by a run; give --out an empty or new folder")


def read_log(folder: Path) -> list[Row]:
    """Newest row of every identity in a run folder's log; a torn last line is ignored.

    Raises
    ------
    InputError
        No rows there, a line that is no row, or another schema version.
    """
    return list(_newest(RunFolder(folder).rows, 0, {}).values())


def read_rows(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Rows that stand as a table, one method, case, protocol and metric a row.

    Parameters
    ----------
    path : path
        A run folder: the rows of its last run, and what was added since.  Or a file of rows: ``rows.jsonl``,
        ``rows.parquet`` or one of a history store.

    Returns
    -------
    DataFrame
        Columns of `Row`.

    Raises
    ------
    InputError
        No rows there, or files that cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a run folder")
    if path.is_dir():
        return _read_folder(RunFolder(path))
    if path.suffix == ".jsonl":
        return as_table(_newest(path, 0, {}).values())
    if path.suffix != ".parquet":
        raise InputError(f"{path}: not a run folder, rows.jsonl or rows.parquet")
    table = _unpacked(path)[0]
    missing = [c for c in (*IDENTITY, "value", "status") if c not in table]
    if missing:
        raise InputError(f"{path}: no table of rows, it lacks {', '.join(missing)}")
    return table


def _unpacked(path: Path) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """A Parquet file, and what its header says besides."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        count = pq.read_metadata(path).num_rows
        if count > MOST_ROWS:  # a small file may say so of a single value, and mean to fill the memory
            raise InputError(f"{path}: {count} rows; at most {MOST_ROWS} can be read")
        packed = pq.read_table(path)
        table: pd.DataFrame = packed.to_pandas()
        for column in table.columns.intersection(list(COLUMNS)):
            cells = table[column].astype(_type_of(column))
            if column in _TEXT and not all(text.isprintable() for text in cells.dropna().unique()):
                cells = cells.map(printable, na_action="ignore")
            table[column] = cells
            if column in _FILES_OF and not all(_can_name(text) for text in cells.dropna().unique()):
                raise ValueError(f"a {column} cannot name a file")
        return table, packed.schema.metadata or {}
    except (OSError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise InputError(f"{path}: not readable ({error}); make it again") from None


def _read_folder(folder: RunFolder) -> pd.DataFrame:
    log, path = folder.rows, folder.parquet
    if not path.exists():
        if not log.exists():
            raise InputError(f"{folder.path}: neither rows.jsonl nor rows.parquet there; is it a run folder?")
        return as_table(read_log(folder.path))
    try:
        table, known = _unpacked(path)
    except InputError:
        if log.exists():
            return as_table(read_log(folder.path))
        raise
    if not log.exists():
        return table
    said = known.get(_LOG_SIZE, b"")
    size = int(said) if said.isdigit() else -1
    if size < 0 or _beginning_hash(log, size) != known.get(_LOG_HASH, b"").decode():
        return as_table(read_log(folder.path))  # the table is of another log
    if log.stat().st_size == size:
        return table
    held = {row.identity: row for row in (Row(**r) for r in _records(table))}
    return as_table(_newest(log, size, held).values())


def _records(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows of a table as `Row` takes them: a number that is missing is None."""
    for record in table.reindex(columns=list(COLUMNS)).to_dict("records"):
        yield {str(k): None if isinstance(v, float) and v != v else v for k, v in record.items()}


def _beginning_hash(path: Path, size: int) -> str:
    found, left = hashlib.sha256(), size
    with path.open("rb") as handle:
        while left and (block := handle.read(min(left, 1 << 20))):
            found.update(block)
            left -= len(block)
    return "" if left else found.hexdigest()


def _newest(path: Path, start: int, newest: dict[tuple[str, ...], Row]) -> dict[tuple[str, ...], Row]:
    """Put the rows of a log from byte `start` on over those of `newest`."""
    try:
        handle = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; is {path.parent} a run folder?") from None
    with handle:
        handle.seek(start)
        for number, line in enumerate(iter(lambda: handle.readline(LONGEST_LINE), b""), 1):
            place = f"{path}, line {number}" + (f" after byte {start}" if start else "")
            if not line.endswith(b"\n"):
                if len(line) == LONGEST_LINE:
                    raise InputError(f"{place}: too long for a row; delete the line")
                break
            row = _parsed(line, place)
            newest[row.identity] = row
    return newest


def _can_name(text: str) -> bool:
    """False for a name that would lead out of the folder that it is used in."""
    # A history names benchmarks by file and test, and pages make names of their own.
    return not text.startswith("/") and not any(part.strip() in (".", "..") for part in text.split("/"))


def _is_number(value: object) -> bool:
    """True for one that a table of floats can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def _parsed(line: bytes, place: str) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise InputError(f"{place}: not JSON; delete the line") from None
    if not isinstance(record, dict) or "schema" not in record:
        raise InputError(f"{place}: not a row; delete the line")
    if record.pop("schema") != SCHEMA or not record.keys() <= _COLUMNS:
        raise InputError(f"{place}: written by another version of FuseBench; use another --out")
    try:
        row = Row(**record)
    except TypeError:
        raise InputError(f"{place}: not a whole row; delete the line") from None
    values = vars(row)
    for name in _TEXT:
        text = values[name]
        if text is None and name in _MAY_LACK:
            text = values[name] = ""
        if not isinstance(text, str):
            raise InputError(f"{place}: {name} is not text; delete the line")
        if not (text.isascii() and text.isprintable()):
            values[name] = printable(text)
    for name in _FILES_OF:
        if not _can_name(values[name]):
            raise InputError(f"{place}: {name} cannot name a file; delete the line")
    for name in _NUMBERS:
        value = values[name]
        if not (value is None or _is_number(value)):
            raise InputError(f"{place}: {name} is not a number; delete the line")
    if type(row.seed) is not int or not -(2**63) <= row.seed < 2**63 or row.status not in _STATUSES:
        raise InputError(f"{place}: seed or status is not one; delete the line")
    return row


def as_table(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table with stable column types."""
    import pandas as pd

    table = pd.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))
    for column in COLUMNS:
        table[column] = table[column].astype(_type_of(column))
    return table


def _type_of(column: str) -> Literal["str", "int64", "float64"]:
    return "str" if column in _TEXT else "int64" if column == "seed" else "float64"
