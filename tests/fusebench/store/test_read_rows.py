"""Reading rows: logs, tables and folders that anybody may have written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fusebench.errors import InputError
from fusebench.store.read_rows import MOST_ROWS, read_log, read_rows
from fusebench.store.rows import LOG_HASH, LOG_SIZE
from fusebench.store.run_store import RunStore

from .made_rows import row


def test_foreign_schema_and_garbage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"schema": 99}) + "\n")
    with pytest.raises(InputError, match="line 1: written by another version"):
        read_log(tmp_path)
    path.write_text("no json\n" + json.dumps({"schema": 1}) + "\n")
    with pytest.raises(InputError, match="line 1: not JSON"):
        read_log(tmp_path)


def test_folder_without_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is .* a run folder"):
        read_log(tmp_path / "absent")


def test_a_store_without_fingerprints_is_read(tmp_path: Path) -> None:
    record = {"schema": 1, **row().as_dict()}
    del record["fingerprint"]
    (tmp_path / "rows.jsonl").write_text(json.dumps(record) + "\n")
    assert read_log(tmp_path) == [row()]


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "12",
        "null",
        '{"schema": 1}',
        '{"schema": 1, "run": "r"}',
        "[" * 100_000,
        json.dumps({"schema": 1, **row().as_dict(), "new": 1}),
        json.dumps({"schema": 1, **row().as_dict(), "value": "abc"}),
        json.dumps({"schema": 1, **row().as_dict(), "value": True}),
        json.dumps({"schema": 1, **row().as_dict(), "value": 10**400}),
        json.dumps({"schema": 1, **row().as_dict(), "dataset": "../.."}),
        json.dumps({"schema": 1, **row().as_dict(), "dataset": "a/b"}),
        json.dumps({"schema": 1, **row().as_dict(), "case": ".."}),
        json.dumps({"schema": 1, **row().as_dict(), "method": {}}),
        json.dumps({"schema": 1, **row().as_dict(), "seed": 1.5}),
        json.dumps({"schema": 1, **row().as_dict(), "status": "fine"}),
        '{"schema": 1, "run": "' + "x" * (1 << 21),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    good = json.dumps({"schema": 1, **row().as_dict()})
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError, match=r"rows.jsonl, line 2: .*; (delete the line|use another --out)"):
        read_log(tmp_path)


def test_what_a_row_says_steers_no_terminal(tmp_path: Path) -> None:
    record = {"schema": 1, **row(reason="\x1b[2J\ud800").as_dict()}
    (tmp_path / "rows.jsonl").write_text(json.dumps(record) + "\n")
    [found] = read_log(tmp_path)
    assert found.reason == "\\x1b[2J\\ud800"
    with RunStore(tmp_path) as store:
        store.consolidate()
    assert list(read_rows(tmp_path).reason) == [found.reason]


def test_the_table_is_trusted_by_what_it_was_made_of_and_not_by_the_clock(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(value=1.0), row(method="old", value=2.0)])
        store.consolidate(lambda r: "gone" if r.method == "old" else "")
    log, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    assert list(read_rows(tmp_path).value) == [1.0]
    with log.open("a") as handle:  # what an interrupted run leaves, under a clock that was set back
        handle.write(json.dumps({"schema": 1, **row(value=3.0).as_dict()}) + "\n")
    os.utime(log, (1, 1))
    assert list(read_rows(tmp_path).value) == [3.0], "and what was left out stays out"
    log.write_text(json.dumps({"schema": 1, **row(value=4.0).as_dict()}) + "\n")
    os.utime(log, (1, 1))
    assert list(read_rows(tmp_path).value) == [4.0]
    table.write_bytes(b"PAR1rubbish")
    assert list(read_rows(tmp_path).value) == [4.0]


def test_a_table_of_others_is_no_bomb_and_steers_no_terminal(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row()])
        store.consolidate()
    (tmp_path / "rows.jsonl").unlink()
    path = tmp_path / "rows.parquet"
    whole = pq.read_table(path)
    named = whole.set_column(
        whole.schema.get_field_index("method"),
        "method",
        pa.array(["\x1b[2Jowned"]).dictionary_encode(),  # of another type as well
    )
    pq.write_table(named.replace_schema_metadata({"fusebench.log.size": "many"}), path)
    assert list(read_rows(tmp_path)["method"] + "") == ["\\x1b[2Jowned"]
    pq.write_table(whole.drop_columns(["value"]).append_column("value", pa.array(["high"])), path)
    with pytest.raises(InputError, match="not readable"):
        read_rows(tmp_path)
    many = pa.table({"run": pa.array(np.zeros(MOST_ROWS + 1, np.int8))})
    pq.write_table(many, path)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(InputError, match="at most 5000000 can be read"):
        read_rows(tmp_path)


@pytest.mark.parametrize("as_stated", [False, True])
def test_a_long_text_that_repeats_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_stated: bool
) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(reason="x" * 5000)])
        store.consolidate()
    (tmp_path / "rows.jsonl").unlink()
    path = tmp_path / "rows.parquet"
    [one] = pq.read_table(path).to_pylist()
    often = {
        name: pa.DictionaryArray.from_arrays(np.zeros(3000, np.int32), pa.array([value]))
        for name, value in one.items()
        if value is not None
    }
    pq.write_table(pa.table(often), path, store_schema=as_stated)
    assert len(read_rows(tmp_path)) == 3000
    monkeypatch.setattr("fusebench.store.read_rows.MOST_TEXT", 10 << 20)
    with pytest.raises(InputError, match=r"rows.parquet: not readable \(more than 10 MiB of text in reason"):
        read_rows(tmp_path)


def test_columns_that_rows_do_not_have_are_not_read(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row()])
        table = store.consolidate()
    (tmp_path / "rows.jsonl").unlink()
    nested = pa.Table.from_pandas(table).append_column("more", pa.array([[{"a": "b"}]]))
    pq.write_table(nested, tmp_path / "rows.parquet")
    assert list(read_rows(tmp_path)) == list(table)
    pq.write_table(
        nested.drop_columns("value").append_column("value", pa.array([[1.0]])), tmp_path / "rows.parquet"
    )
    with pytest.raises(InputError, match="a value is of type list"):
        read_rows(tmp_path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_pipe_in_place_of_rows_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="is a folder, a pipe or a device, and no file"):
        read_rows(tmp_path)
    with pytest.raises(InputError, match="is a folder, a pipe or a device, and no file"):
        read_rows(tmp_path / name)


def table_of(folder: Path) -> pa.Table:
    with RunStore(folder) as store:
        store.append([row(), row(case="other")])
        store.consolidate()
    return pq.read_table(folder / "rows.parquet")


@pytest.mark.parametrize(
    "said",
    [
        {LOG_SIZE: b"9" * 5000},
        {LOG_HASH: b"\xff\xfe"},
        {b"pandas": b"{}"},
        {b"pandas": b"[" * 100_000},
        {b"pandas": b'{"index_columns": ["method"], "columns": [], "column_indexes": []}'},
    ],
)
def test_what_a_table_says_of_itself_costs_no_row(tmp_path: Path, said: dict[bytes, bytes]) -> None:
    table = table_of(tmp_path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | said), tmp_path / "rows.parquet")
    assert len(read_rows(tmp_path)) == 2


def test_a_torn_table_is_read_from_the_log_and_alone_is_a_line(tmp_path: Path) -> None:
    table_of(tmp_path)
    path = tmp_path / "rows.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    assert len(read_rows(tmp_path)) == 2
    with pytest.raises(InputError, match=r"rows\.parquet: not readable \(.*\); delete it and make it again"):
        read_rows(path)


def test_a_table_without_columns_that_may_be_missing_has_them_empty(tmp_path: Path) -> None:
    table = table_of(tmp_path).drop_columns(["fuse_seconds", "group", "reason", "seed"])
    pq.write_table(table, tmp_path / "other.parquet")
    found = read_rows(tmp_path / "other.parquet")
    assert found["group"].tolist() == ["", ""] and found["seed"].tolist() == [0, 0]
    assert found["fuse_seconds"].isna().all()


@pytest.mark.parametrize("column", ["method", "case", "metric", "status", "value"])
def test_a_table_without_what_its_rows_are_of_is_a_line(tmp_path: Path, column: str) -> None:
    table = table_of(tmp_path)
    nothing = pa.array([None, None], pa.string())
    for i, spoilt in enumerate(
        [
            table.drop_columns([column]),
            table.set_column(table.schema.get_field_index(column), column, nothing),
        ]
    ):
        path = tmp_path / f"{i}.parquet"
        pq.write_table(spoilt, path)
        if i and column == "value":  # rows without a value there are
            assert read_rows(path)["value"].isna().all()
            continue
        with pytest.raises(InputError, match=rf"{i}\.parquet: not readable \(.*\); delete it"):
            read_rows(path)
