"""The store of a run: append, lock, torn lines, consolidation, files of others."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pandas as pd
import pytest

from fusebench.errors import InputError
from fusebench.store.read_rows import read_log, read_rows
from fusebench.store.rows import COLUMNS
from fusebench.store.run_store import RunStore

from .made_rows import row


def test_rows_are_on_disk_as_soon_as_they_are_appended(tmp_path: Path) -> None:
    with RunStore(tmp_path / "run") as store:
        store.append([row()])
        assert [r.value for r in read_log(tmp_path / "run")] == [1.5]


def test_newest_row_of_an_identity_wins(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(value=1.0), row("c2", 5.0)])
        store.append([row(value=2.0, key="new")])
        assert {r.case: r.value for r in store.latest()} == {"c1": 2.0, "c2": 5.0}


@pytest.mark.parametrize("value", [float("inf"), 0.1 + 0.2, 1e-300, -3.0])
def test_values_survive_exactly(tmp_path: Path, value: float) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(value=value)])
        store.consolidate()
    assert read_log(tmp_path)[0].value == value
    assert pd.read_parquet(tmp_path / "rows.parquet").value[0] == value


def test_torn_last_line_is_dropped_and_said(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(), row("c2")])
    path = tmp_path / "rows.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert [r.case for r in read_log(tmp_path)] == ["c1"]
    with RunStore(tmp_path) as store:
        assert "torn" in store.notes[0]
        store.append([row("c3")])
        assert [r.case for r in store.latest()] == ["c1", "c3"]


def test_second_run_on_a_folder_is_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path), pytest.raises(InputError, match="in use by another run"):
        RunStore(tmp_path)
    with RunStore(tmp_path):
        pass


def test_out_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(InputError, match=r"--out .*file"):
        RunStore(path)


def test_consolidated_tables_agree(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(), row("c2", None, status="error", reason='said "no", twice')])
        table = store.consolidate()
    assert list(table.columns) == list(COLUMNS)
    csv = pd.read_csv(tmp_path / "rows.csv", keep_default_na=False, na_values={"value": [""]})
    assert csv.reason[1] == 'said "no", twice'
    assert pd.isna(csv.value[1])
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), table)


def test_full_disk_keeps_what_was_stored(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row()])
        good = store._file

        class Full:
            def seek(self, offset: int, whence: int) -> int:
                return good.seek(offset, whence)

            def write(self, data: bytes) -> int:
                good.write(data[:10])
                raise OSError(28, "No space left on device")

        store._file = Full()  # type: ignore[assignment]
        with pytest.raises(InputError, match="No space left on device; what was stored is kept"):
            store.append([row("c2")])
        store._file = good
    assert [r.case for r in read_log(tmp_path)] == ["c1"]


def test_rows_of_other_data_stay_out_of_the_table_but_are_kept(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(method="old", fingerprint="then"), row(method="new", fingerprint="now")])
        store.append([row("c9", method="old", fingerprint="then"), row(method="silent")])
        table = store.consolidate(lambda r: "made from other data" if r.fingerprint == "then" else "")
        assert list(table.method) == ["new", "silent"]
        assert store.outdated == ["Left out, made from other data: old (2)."]
    assert len(read_log(tmp_path)) == 4
    assert list(read_rows(tmp_path).method) == ["new", "silent"]


def test_rows_that_fit_in_part_are_not_stored_in_part(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunStore(tmp_path) as store:
        store.append([row()])
        size = (tmp_path / "rows.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 200, before[1]))
        try:
            for _ in range(2):
                with pytest.raises(InputError, match="File too large; what was stored is kept"):
                    store.append([row("c2"), row("c3"), row("c4")])
                assert (tmp_path / "rows.jsonl").stat().st_size == size
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        store.append([row("c5")])
    assert [r.case for r in read_log(tmp_path)] == ["c1", "c5"]


def test_formulas_are_text_in_the_table_for_spreadsheets(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.append([row(method="=1+1", reason="@sum", value=-1.0)])
        store.consolidate()
    text = (tmp_path / "rows.csv").read_text()
    assert ",'=1+1," in text and ",'@sum," in text and ",-1.0," in text
    assert list(read_rows(tmp_path).method) == ["=1+1"]


@pytest.mark.parametrize("name", ["manifest.json", "rows.csv", "leaderboard.md", "rows.jsonl", "fused"])
def test_files_that_no_run_made_are_not_replaced(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.write_text("my notes, without an end of line")
    with pytest.raises(InputError, match="not made by a run"):
        RunStore(tmp_path)
    assert mine.read_text() == "my notes, without an end of line"
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [".lock", "rows.jsonl"])
def test_links_in_a_run_folder_are_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "thesis").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "thesis")
    with pytest.raises(InputError, match="is a link to another file"):
        RunStore(tmp_path / "run")
    assert (tmp_path / "thesis").read_text() == "years of work"


@pytest.mark.parametrize("name", ["rows.jsonl", "manifest.json"])
def test_a_pipe_in_place_of_a_file_of_a_run_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=r"is a folder, a pipe|not made by a run"):
        RunStore(tmp_path)
