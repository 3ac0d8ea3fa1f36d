"""Cores and memory are those of the container or job."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fusebench.errors import OutOfMemory
from fusebench.limits import (
    check_memory,
    naming_file,
    oom_kills,
    spare_memory,
    usable_cores,
    usable_memory_mb,
)

LIMITS = "import fusebench.limits as l; print(l.usable_cores(), l.usable_memory_mb())"


def test_without_a_limit_it_is_the_machine(tmp_path: Path) -> None:
    assert usable_memory_mb(tmp_path) == pytest.approx(psutil.virtual_memory().total / 2**20)
    assert 1 <= usable_cores(tmp_path) <= (os.cpu_count() or 1)


@pytest.mark.parametrize("folder", ["", "memory"])
@pytest.mark.parametrize("name", ["memory.max", "memory.limit_in_bytes"])
def test_memory_of_a_group(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / name).write_text(f"{300 << 20}\n")
    assert usable_memory_mb(tmp_path) == 300


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "nonsense\n", "-1\n"])
def test_no_limit_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert usable_memory_mb(tmp_path) == pytest.approx(psutil.virtual_memory().total / 2**20)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("max 100000", 0),
        ("100000 0", 0),
        ("inf 1", 0),
        ("nan 1", 0),
    ],
)
def test_a_quota_of_processor_time(tmp_path: Path, quota: str, cores: int) -> None:
    free = usable_cores(tmp_path)
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == (cores or free)


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")
def test_affinity_and_ulimit() -> None:
    command = f"ulimit -v 2000000; taskset -c {min(os.sched_getaffinity(0))} {sys.executable} -c '{LIMITS}'"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    cores, memory = done.stdout.split()
    assert cores == "1"
    assert float(memory) <= 2_000_000 / 1024


def test_kills_for_lack_of_memory_are_counted(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert oom_kills(tmp_path, nowhere) == 0
    (tmp_path / "memory.events").write_text("oom 9\noom_kill 2\noom_group_kill 9\n")
    system = tmp_path / "vmstat"
    system.write_text("nr_free_pages 7\noom_kill 3\n")
    before = oom_kills(tmp_path, nowhere)
    assert before > 0
    assert oom_kills(tmp_path, system) == before + 3


def test_memory_that_is_left_counts_a_groups_and_its_page_cache_is_none(tmp_path: Path) -> None:
    free = spare_memory(tmp_path)
    assert 0 < free <= psutil.virtual_memory().total
    (tmp_path / "memory.max").write_text(f"{100 << 20}\n")
    (tmp_path / "memory.current").write_text(f"{90 << 20}\n")
    assert spare_memory(tmp_path) == 10 << 20
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {30 << 20}\nactive_file {1 << 20}\n")
    assert spare_memory(tmp_path) == 41 << 20
    (tmp_path / "memory.current").write_text(f"{900 << 20}\n")
    assert spare_memory(tmp_path) == 0


def test_a_file_that_needs_more_than_is_left_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusebench.limits.spare_memory", lambda: 1 << 30)
    check_memory(Path("a.nii"), 1 << 30)
    with pytest.raises(OutOfMemory, match=r"^a\.nii: reading it takes about 1\.5 GiB .* 1\.0 GiB are left; "):
        check_memory(Path("a.nii"), 3 << 29)
    with pytest.raises(OutOfMemory, match=r"^a\.nii: there is too little memory"), naming_file(Path("a.nii")):
        raise MemoryError
