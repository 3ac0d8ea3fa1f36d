"""Every write of a run fails once: nothing that was stored is lost, and one line says so."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusebench.cli import main
from fusebench.files import file_sha256
from fusebench.store.cache import cache_dir, cached_arrays
from fusebench.store.contents import remembered_sha256
from fusebench.store.read_rows import read_log

from ..conftest import Bench

FAULTS = (errno.ENOSPC, errno.EACCES)


class Fault:
    """Fails the `at`-th write below a folder, and counts."""

    def __init__(self, folder: Path, at: int, number: int) -> None:
        self.folder, self.at, self.number = str(folder), at, number
        self.seen = 0

    def meets(self, path: Any) -> None:
        if not str(path).startswith(self.folder):
            return
        self.seen += 1
        if self.seen - 1 == self.at:
            raise OSError(self.number, os.strerror(self.number), str(path))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Fault | None], None]]:
    """Plant a fault where files are opened for writing, moved into place, and appended to."""
    import pyarrow.parquet as pq

    from fusebench.store.run_store import RunStore

    current: list[Fault | None] = [None]
    opens, replaces, writes, appends = io.open, os.replace, pq.write_table, RunStore.append

    def meet(path: Any) -> None:
        if current[0] is not None:
            current[0].meets(path)

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if set(mode) & set("wax+"):
            meet(file)
        return opens(file, mode, *args, **options)

    def replaced(source: Any, target: Any, **options: Any) -> None:
        meet(target)
        replaces(source, target, **options)

    def written(table: Any, where: Any, *args: Any, **options: Any) -> None:
        meet(where)
        writes(table, where, *args, **options)

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            meet(self.name)
            return super().write(data)

    def appended(self: RunStore, rows: Any) -> None:
        if not isinstance(self._file, Full):
            self._file.close()
            self._file = Full(str(self._path), "a")  # type: ignore[assignment]
        appends(self, rows)

    monkeypatch.setattr(io, "open", opened)
    monkeypatch.setattr(builtins, "open", opened)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(pq, "write_table", written)
    monkeypatch.setattr(RunStore, "append", appended)

    def plant(fault: Fault | None) -> None:
        current[0] = fault

    yield plant
    current[0] = None


@pytest.mark.slow
def test_no_failed_write_of_a_report_leaves_half_of_one(
    bench: Bench,
    tmp_path: Path,
    planted: Callable[[Fault | None], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    run, site = tmp_path / "run", tmp_path / "site"
    assert bench("--methods", "healthy,other", "--cases", "1") == 0
    for at in itertools.count(step=3):  # each is as the two beside it: a page, a script or a picture
        before = {p: p.read_bytes() for p in site.rglob("*") if p.is_file()}
        capfd.readouterr()
        fault = Fault(site, at, FAULTS[at % 2])
        planted(fault)
        code = main(["report", str(run), "--out", str(site), "--no-figures"])
        planted(None)
        said = capfd.readouterr().err
        if fault.seen <= at:
            assert code == 0
            break
        assert code == 2 and "Traceback" not in said, said
        assert [os.strerror(fault.number) in line for line in said.splitlines()] == [True]
        assert not list(site.rglob("*.tmp"))
        assert {p: p.read_bytes() for p in site.rglob("*") if p.is_file()} == before
    assert at > 10
    assert "</html>" in (site / "index.html").read_text()


def test_a_cache_that_fills_up_costs_nothing(
    planted: Callable[[Fault | None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "data"
    file.write_text("1")
    for at in itertools.count():
        cache = tmp_path / f"cache{at}"
        monkeypatch.setenv("FUSEBENCH_CACHE", str(cache))
        fault = Fault(cache, at, errno.ENOSPC)
        planted(fault)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            made = cached_arrays(cache_dir("arrays", "key.npz"), lambda: {"x": np.arange(3)})
            assert remembered_sha256(file) == file_sha256(file)
        planted(None)
        assert made["x"].tolist() == [0, 1, 2]
        assert not list(tmp_path.rglob("*.tmp"))
        if fault.seen <= at:
            break
        assert len(said) == (not cache_dir("arrays", "key.npz").exists())
    assert at == 4  # an array and a hash, each written and moved into place


@pytest.mark.slow
def test_no_failed_write_loses_anything(
    bench: Bench,
    tmp_path: Path,
    planted: Callable[[Fault | None], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = tmp_path / "run"
    assert bench("--methods", "healthy", "--cases", "1", "--save-fused") == 0
    log = before / "rows.jsonl"
    capfd.readouterr()
    for at in itertools.count():
        stored = log.read_bytes()
        fault = Fault(before, at, FAULTS[at % 2])
        planted(fault)
        code = bench("--methods", "healthy,other", "--cases", "2", "--save-fused", "--force")
        planted(None)
        said = capfd.readouterr()
        if fault.seen <= at:
            assert code == 0
            break
        assert "Traceback" not in said.out + said.err
        lines = [line for line in said.err.splitlines() if "error: " in line]
        assert (code == 2 and len(lines) == 1) or code in (0, 1), (at, code, said.err)
        if code in (0, 1):  # a row says so, or a note: what failed was no more than a volume or a picture
            assert os.strerror(fault.number) in said.out + said.err or code == 0
        assert log.read_bytes().startswith(stored), "no stored row is lost or torn"
        read_log(before)
        assert not list(before.rglob("*.tmp"))
    assert at > 10
    found = read_log(before)
    assert len(found) == 4 and all(row.status == "ok" for row in found)
