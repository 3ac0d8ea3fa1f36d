"""`RunStore`, the append-only store of a run folder.

Rows are appended to ``rows.jsonl`` as they come, so a crash loses at most the one in flight;
``rows.parquet`` and ``rows.csv`` are made from it at the end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

from ..errors import InputError
from ..files import atomic_path, file_sha256, open_plain, refuse_foreign
from ..text import cell
from .folder import BOARD_SUFFIXES, RunFolder
from .read_rows import LONGEST_LINE, parse_row, read_log
from .rows import LOG_HASH, LOG_SIZE, SCHEMA, TEXT, Row, as_table

if TYPE_CHECKING:
    import pandas as pd  # only tables need it, and workers make none

FSYNC_SECONDS = 1.0
# Files that a run writes into its folder besides the rows.
_FILES = (
    *("rows.parquet", "rows.csv", "manifest.json", "figures", "fused"),
    *(f"leaderboard.{suffix}" for suffix in BOARD_SUFFIXES),
)


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
        self.outdated_marks: list[str] = []  # of these rows: without the table, they tell what stands
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
            back = min(size, LONGEST_LINE)
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
                self.outdated_marks.append(row.mark)
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
            where = error.filename or RunFolder(self.folder).parquet
            raise InputError(
                f"{where}: {reason}; the rows are stored, their tables are not: make room and run the same "
                "command"
            ) from None
        return table

    def _write_tables(self, table: pd.DataFrame) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = {
            LOG_SIZE: str(self._path.stat().st_size).encode(),
            LOG_HASH: file_sha256(self._path).encode(),
        }
        packed = pa.Table.from_pandas(table, preserve_index=False)
        packed = packed.replace_schema_metadata({**(packed.schema.metadata or {}), **known})
        with atomic_path(RunFolder(self.folder).parquet) as path:
            pq.write_table(packed, path)
        cells = table.copy(deep=False)
        for column in TEXT:
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
        with open_plain(log) as handle:
            first = handle.readline(LONGEST_LINE)
    except FileNotFoundError:
        boards = [p.name for p in folder.glob("leaderboard-*") if p.suffix[1:] in BOARD_SUFFIXES]
        refuse_foreign(folder, (*_FILES, *boards), "a run")
        return
    except OSError as error:
        raise InputError(f"--out {folder}: {error.strerror}; give a folder that can be written") from None
    if first.endswith(b"\n"):
        parse_row(first, f"{log}, line 1")
    elif first and not first.startswith(b'{"schema": '):
        raise InputError(f"{log}: not made by a run; give --out an empty or new folder")
