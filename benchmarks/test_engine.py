"""Engine overhead: everything that is not load, fuse or score.

    pytest benchmarks/test_engine.py --benchmark-only -s

Each benchmark also prints what its figure means per task or per row.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fusebench.engine.plan import Options, make_plan
from fusebench.engine.pool import LocalPool
from fusebench.engine.spec import Choice, method_specs
from fusebench.plugins import find_plugins
from fusebench.scoring.select import metric_infos
from fusebench.store.folder import RunFolder
from fusebench.store.rows import Row
from fusebench.store.run_store import RunStore

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = (str(ROOT / "tests" / "fusebench" / "engine_plugins.py"),)
METRICS = ("psnr", "rmse", "psnr.a", "psnr.b")
FIRST = 5  # tasks left out at the beginning and at the end of the no-op run


def plan(folder: Path, cases: int) -> list:
    """`cases` tasks of a method that does nothing, on cubes of 2 voxels a side."""
    plugins = find_plugins(PLUGINS)
    dataset = plugins.datasets.load("tiny")(count=cases, size=2)
    specs = method_specs(plugins, [Choice("healthy", "healthy", {})])
    infos = metric_infos(plugins.metrics, METRICS)
    return make_plan(
        plugins, dataset.cases(), specs, infos, Options(run="r", metrics=METRICS), RunFolder(folder)
    )


@pytest.mark.benchmark(group="engine", min_rounds=3)
def test_no_op_tasks(benchmark, tmp_path: Path) -> None:
    """Plan, send, fuse nothing, score a voxel or two, store: seconds per row."""
    count = 500
    tasks = plan(tmp_path, count)

    overheads: list[float] = []
    processor: list[float] = []

    def spent() -> float:
        """Processor time of this process and of its worker."""
        (worker,) = psutil.Process().children()
        return time.process_time() + sum(worker.cpu_times()[:2])

    def run() -> None:
        begin, useful = time.perf_counter(), 0.0
        with tempfile.TemporaryDirectory() as folder, RunStore(Path(folder)) as store, LocalPool(1) as pool:
            for done, (_, made) in enumerate(pool.run(tasks, jobs=1), 1):
                store.append(made)
                if done == FIRST:  # the worker is up
                    begin, cpu, useful = time.perf_counter(), spent(), 0.0
                    continue
                parts = ("load_seconds", "fuse_seconds", "score_seconds")
                useful += sum(getattr(made[0], part) or 0.0 for part in parts)
                if done == count - FIRST:
                    overheads.append(time.perf_counter() - begin - useful)
                    processor.append(spent() - cpu - useful)

    benchmark(run)
    for name, values in (("overhead", overheads), ("processor time", processor)):
        best = min(values) / (count - 2 * FIRST) * 1e3
        benchmark.extra_info[f"{name}, ms per row"] = best / len(METRICS)
        print(f"\n{name}: {best:.2f} ms per task, {best / len(METRICS):.2f} ms per row")


def synthetic(count: int) -> Iterator[Row]:
    """Rows as 15 methods on many cases would give them."""
    for i in range(count):
        yield Row(
            run="r",
            key=f"{i:016x}",
            method=f"method{i % 15}",
            dataset="synthetic",
            case=f"case{i // 150:05d}",
            group=f"subject{i // 150:05d}",
            protocol="volume",
            metric=f"metric{i // 15 % 10}",
            value=i / 7,
        )


@pytest.mark.benchmark(group="engine", min_rounds=3)
def test_store_100_000_rows(benchmark, tmp_path: Path) -> None:
    """Append, read back and consolidate 10^5 rows."""

    def run() -> int:
        with tempfile.TemporaryDirectory() as folder, RunStore(Path(folder)) as store:
            rows = list(synthetic(100_000))
            for start in range(0, len(rows), 10):
                store.append(rows[start : start + 10])
            return len(store.consolidate())

    assert benchmark(run) == 100_000


@pytest.mark.parametrize("cases", [10, 1000])
def test_parent_memory(benchmark, cases: int) -> None:
    """Peak resident memory of the parent while it plans and runs 10 and 1000 cases (printed)."""
    script = (
        "import sys, resource, tempfile; sys.path[:0] = [sys.argv[1], sys.argv[1] + '/benchmarks']\n"
        "from pathlib import Path; from test_engine import plan, LocalPool, RunStore\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    tasks = plan(Path(folder), int(sys.argv[2]))\n"
        "    with RunStore(Path(folder)) as store, LocalPool(1) as pool:\n"
        "        for _, rows in pool.run(tasks, jobs=1): store.append(rows)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )

    def run() -> float:
        command = [sys.executable, "-c", script, str(ROOT), str(cases)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    peak = benchmark.pedantic(run, rounds=1)
    print(f"\nparent's peak with {cases} cases: {peak:.0f} MB")
