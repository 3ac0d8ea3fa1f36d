"""Time of the leaderboard of 100,000 rows (20 methods x 250 cases x 20 metrics), and of its parts.

pytest benchmarks/test_report.py --benchmark-only -s
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusebench.store.rows import COLUMNS

tables = importlib.import_module("fusebench.leaderboard.tables")
report = importlib.import_module("fusebench.leaderboard.report")
regression = importlib.import_module("fusebench.leaderboard.regression")
runs = importlib.import_module("fusebench.leaderboard.runs")

METHODS, CASES, METRICS = 20, 250, 20


@pytest.fixture(scope="module")
def big() -> tuple[pd.DataFrame, dict[str, Any]]:
    rng = np.random.default_rng(0)
    m, c, k = (x.ravel() for x in np.indices((METHODS, CASES, METRICS)))
    difficulty = rng.normal(size=(1, CASES, METRICS)).repeat(METHODS, axis=0).ravel()
    rows = pd.DataFrame(
        {
            "method": [f"method-{i:02d}" for i in m],
            "case": [f"case-{i:03d}" for i in c],
            "group": [f"subject-{i:03d}" for i in c],
            "metric": [f"metric{i:02d}" for i in k],
            "value": 20 + 0.1 * m + difficulty + rng.normal(size=m.size),
            "fuse_seconds": 0.1 * (1 + m) * np.exp(rng.normal(0, 0.05, m.size)),
        }
    )
    fixed = {"run": "r", "key": "", "dataset": "synthetic", "protocol": "volume", "status": "ok",
             "reason": "", "load_seconds": 0.1, "fuse_iqr": 0.0, "score_seconds": 0.1, "memory_mb": 300.0,
             "gpu_memory_mb": np.nan, "device": "cpu", "seed": 0, "fingerprint": "",
             "split": "test"}  # fmt: skip
    rows = rows.assign(**fixed)[list(COLUMNS)]
    metric = {"direction": "higher", "low": 0, "high": 99, "ranked": True}
    manifest = {
        "run": {"id": "r"},
        "methods": {n: {"name": n, "dims": 3} for n in rows["method"].unique()},
        "metrics": {n: {**metric, "name": n, "title": n} for n in rows["metric"].unique()},
        "dataset": {"name": "synthetic", "split": "test"},
    }
    return rows, manifest


def test_board(benchmark: Any, big: Any) -> None:
    benchmark(tables.build, *big, "volume")


def test_compare(benchmark: Any, big: Any) -> None:
    run = runs.Runs((), *big)
    benchmark(regression.compare, run, run)


def test_report(benchmark: Any, big: Any, tmp_path: Path) -> None:
    folder = store(tmp_path / "run", *big)
    benchmark.pedantic(report.write, (folder, tmp_path / "report"), rounds=1)


def test_report_command_with_its_memory(benchmark: Any, big: Any, tmp_path: Path) -> None:
    """The command as a user runs it, imports included; what it takes is printed, and kept as extra info."""
    folder = store(tmp_path / "run", *big)
    root = Path(__file__).parent.parent
    code = (
        "import resource; from fusebench.cli import main; "
        f"main(['report', {str(folder)!r}]); "
        "used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)"
    )

    def command() -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
        )
        return done.stdout

    seconds, peak = benchmark.pedantic(command, rounds=1).split()[-2:]
    benchmark.extra_info.update(cpu_seconds=float(seconds), peak_mb=int(peak))
    rows = METHODS * CASES * METRICS
    print(f"\nreport of {rows} rows: {float(seconds):.1f} s of CPU, peak memory {peak} MB")


def store(folder: Path, rows: pd.DataFrame, manifest: dict[str, Any]) -> Path:
    import json

    folder.mkdir()
    rows.to_parquet(folder / "rows.parquet", index=False)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
