"""Reading rows that may be anybody's: logs, tables and run folders, checked before they are used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..errors import InputError
from ..files import open_plain, read_json
from ..text import printable, reason_of
from .folder import RunFolder
from .rows import (
    COLUMNS,
    IDENTITY,
    LOG_HASH,
    LOG_SIZE,
    OUTDATED,
    SCHEMA,
    TEXT,
    Row,
    Status,
    as_table,
    column_type,
)

if TYPE_CHECKING:
    import pandas as pd  # only tables need it, and workers make none
    import pyarrow as pa

MOST_ROWS = 5_000_000  # of a table that is read
MOST_TEXT = 1 << 30  # bytes in all cells of such a table: whole for `MOST_ROWS` rows as runs write them
LONGEST_LINE = 1 << 20  # of a log
_STATUSES = frozenset(get_args(Status))
_FILES_OF = ("method", "dataset", "case")  # they become folders and files of a run and a report
_MAY_LACK = {"reason", "fingerprint", "split"}  # what a table made by others may have nothing for
_COLUMNS = frozenset(COLUMNS)
_NUMBERS = tuple(c for c in COLUMNS if c not in TEXT and c != "seed")


def read_log(folder: Path) -> list[Row]:
    """Newest row of every identity in a run folder's log, outdated or not; a torn last line is ignored.

    Raises
    ------
    InputError
        No rows there, a line that is no row, or another schema version.
    """
    return list(_newest(RunFolder(folder).rows, 0, {}).values())


def read_standing(folder: Path) -> list[Row]:
    """`read_log` without the rows that the last run left out as outdated.

    Raises
    ------
    InputError
        As of `read_log`.
    """
    outdated = _outdated_marks(folder)
    rows = read_log(folder)
    return [row for row in rows if row.mark not in outdated] if outdated else rows


def _outdated_marks(folder: Path) -> frozenset[str]:
    """Marks of the rows of a log that the manifest beside it says were left out."""
    try:
        content = read_json(RunFolder(folder).manifest)
        return frozenset(mark for mark in content[OUTDATED]["rows"] if isinstance(mark, str))
    except (OSError, ValueError, LookupError, TypeError):
        return frozenset()


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
        outdated = _outdated_marks(path.parent)
        return as_table(row for row in _newest(path, 0, {}).values() if row.mark not in outdated)
    if path.suffix != ".parquet":
        raise InputError(f"{path}: not a run folder, rows.jsonl or rows.parquet")
    return _unpacked(path)[0]


def _unpacked(path: Path) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """A Parquet file, and what its header says besides."""
    import pyarrow.parquet as pq

    try:
        open_plain(path).close()
        count = pq.read_metadata(path).num_rows
        if count > MOST_ROWS:  # a small file may say so of a single value, and mean to fill the memory
            raise InputError(f"{path}: {count} rows; at most {MOST_ROWS} can be read")
        packed = _read_bounded(path)
        missing = [name for name in (*IDENTITY, "value", "status") if name not in packed.column_names]
        if missing:
            raise ValueError(f"no table of rows, it lacks {', '.join(missing)}")
        table: pd.DataFrame = packed.to_pandas(ignore_metadata=True)  # a stranger's says anything
        return _as_rows(table), packed.schema.metadata or {}
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of a stranger's file, pyarrow and pandas raise nearly anything
        reason = reason_of(error) if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not readable ({reason}); delete it and make it again") from None


def _as_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A table with all columns of rows, each of its type, and with texts that can be printed and name files.

    Raises
    ------
    ValueError
        A cell is not of the kind of its column, or a row does not say what it is of.
    """
    for column in COLUMNS:
        if column not in table:
            table[column] = "" if column in TEXT else 0 if column == "seed" else float("nan")
        cells = table[column]
        if column in IDENTITY and cells.isna().any():
            raise ValueError(f"a row without {column}")
        if column in TEXT:
            cells = cells.astype(object).where(cells.notna(), "")
        cells = cells.astype(column_type(column))
        texts = cells.unique() if column in TEXT else ()
        if not all(text.isprintable() for text in texts):
            cells = cells.map(printable)
        if column in _FILES_OF and not all(can_name(text, column) for text in cells.unique()):
            raise ValueError(f"a {column} cannot name a file")
        if column == "status" and not _STATUSES.issuperset(texts):
            raise ValueError("a status is none of " + ", ".join(sorted(_STATUSES)))
        table[column] = cells
    return table[list(COLUMNS)]


def _read_bounded(path: Path) -> pa.Table:
    """The columns of a Parquet file that rows have, none of which takes more memory than a run's may.

    A text that repeats is stored once in the file, and would fill the memory where it is written out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    names = [name for name in schema.names if name in _COLUMNS]
    if len(names) != len(set(names)):
        raise ValueError("two columns of one name")
    texts = []
    for name in names:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
            texts.append(name)
        elif not (pa.types.is_primitive(kind) or pa.types.is_null(kind)):
            raise ValueError(f"a {name} is of type {kind}")
    stored = pq.read_metadata(path)
    groups = [stored.row_group(i) for i in range(stored.num_row_groups)]
    if sum(g.column(i).total_uncompressed_size for g in groups for i in range(g.num_columns)) > 2 * MOST_TEXT:
        raise ValueError("too large when unpacked")
    packed = pq.read_table(path, columns=names, read_dictionary=texts)
    left = MOST_TEXT
    for index, name in enumerate(packed.column_names):
        column = packed.column(index)
        if not pa.types.is_dictionary(column.type):
            continue
        kind = column.type.value_type
        if name in texts:
            left -= sum(_written_out(chunk) for chunk in column.chunks)
            if left < 0:
                raise ValueError(f"more than {MOST_TEXT >> 20} MiB of text in {name} and before")
        packed = packed.set_column(index, name, column.cast(kind))
    return packed


def _written_out(chunk: Any) -> int:
    """Bytes of a column of texts, where each that repeats is written out every time."""
    import pyarrow.compute as pc

    lengths = pc.binary_length(chunk.dictionary).cast("int64")
    return int(pc.sum(lengths.take(chunk.indices)).as_py() or 0)


def _read_folder(folder: RunFolder) -> pd.DataFrame:
    log, path = folder.rows, folder.parquet
    if not path.exists():
        if not log.exists():
            raise InputError(f"{folder.path}: neither rows.jsonl nor rows.parquet there; is it a run folder?")
        return as_table(read_standing(folder.path))
    try:
        table, known = _unpacked(path)
    except InputError:
        if log.exists():
            return as_table(read_standing(folder.path))
        raise
    if not log.exists():
        return table
    said = known.get(LOG_SIZE, b"")
    size = int(said) if said.isdigit() and len(said) < 20 else -1
    if size < 0 or _beginning_hash(log, size).encode() != known.get(LOG_HASH, b""):
        return as_table(read_standing(folder.path))  # the table is of another log
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
    with _opened(path) as handle:
        while left and (block := handle.read(min(left, 1 << 20))):
            found.update(block)
            left -= len(block)
    return "" if left else found.hexdigest()


def _opened(log: Path) -> BufferedReader:
    try:
        return open_plain(log)
    except OSError as error:
        raise InputError(f"{log}: {error.strerror}; is {log.parent} a run folder?") from None


def _newest(path: Path, start: int, newest: dict[tuple[str, ...], Row]) -> dict[tuple[str, ...], Row]:
    """Put the rows of a log from byte `start` on over those of `newest`."""
    with _opened(path) as handle:
        handle.seek(start)
        for number, line in enumerate(iter(lambda: handle.readline(LONGEST_LINE), b""), 1):
            place = f"{path}, line {number}" + (f" after byte {start}" if start else "")
            if not line.endswith(b"\n"):
                if len(line) == LONGEST_LINE:
                    raise InputError(f"{place}: too long for a row; delete the line")
                break
            row = parse_row(line, place)
            newest[row.identity] = row
    return newest


def can_name(text: object, what: str) -> bool:
    """False for a name of a `what` that would lead out of the folder that it is used in, or is no text."""
    if not isinstance(text, str):
        return False
    if what == "dataset" and "/" in text:  # a page of a case is told by what stands before the slash
        return False
    # A history names benchmarks by file and test, and pages make names of their own.
    return not text.startswith("/") and not any(part.strip() in (".", "..") for part in text.split("/"))


def _is_number(value: object) -> bool:
    """True for one that a table of floats can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float)


def parse_row(line: bytes, place: str) -> Row:
    """The row of one line of a log.

    Raises
    ------
    InputError
        The line is no row, or of another schema version; `place` says where it stands.
    """
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
    for name in TEXT:
        text = values[name]
        if text is None and name in _MAY_LACK:
            text = values[name] = ""
        if not isinstance(text, str):
            raise InputError(f"{place}: {name} is not text; delete the line")
        if not (text.isascii() and text.isprintable()):
            values[name] = printable(text)
    for name in _FILES_OF:
        if not can_name(values[name], name):
            raise InputError(f"{place}: {name} cannot name a file; delete the line")
    for name in _NUMBERS:
        value = values[name]
        if not (value is None or _is_number(value)):
            raise InputError(f"{place}: {name} is not a number; delete the line")
    if type(row.seed) is not int or not -(2**63) <= row.seed < 2**63 or row.status not in _STATUSES:
        raise InputError(f"{place}: seed or status is not one; delete the line")
    return row
