"""The runner is killed at random moments; resumed, it ends with the uninterrupted table."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import fusebench
from fusebench.store.run_store import RunStore

from ..conftest import PLUGINS, Bench
from ..engine_plugins import load

ROOT = Path(__file__).resolve().parents[3]
KILLS = 10
CASES = 12
PAUSE = 0.25  # seconds that half of the fusions take


@pytest.mark.slow
def test_killed_ten_times_equals_uninterrupted(bench: Bench, tmp_path: Path) -> None:
    options = (
        "--methods",
        "healthy,other",
        "--set",
        f"healthy.pause={PAUSE}",
        "--data-option",
        f"count={CASES}",
    )
    assert bench(*options, out=tmp_path / "whole") == 0
    out, log = tmp_path / "cut", tmp_path / "log"
    command = [sys.executable, str(ROOT / "run_bench.py"), "--plugin", str(PLUGINS), "--dataset", "tiny"]
    command += ["--metrics", "psnr", "--out", str(out), *options, "--jobs"]
    environment = {**os.environ, "ENGINE_TEST_LOG": str(log)}
    moments = random.Random(7)
    for kill in range(KILLS):
        known, fused_before = stored(out), fused(log)
        # With a worker process and without: a worker must not outlive its parent.
        process = subprocess.Popen(
            [*command, str(kill % 2)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        # Random moments around the first or second fusion of each run, however long a busy machine takes to
        # come to them.  Once the second has begun the first is stored, so that some work is known to remain.
        begun = len(fused_before) + 1 + kill // 2 % 2
        while len(fused(log)) < begun and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, PAUSE))
        process.send_signal(signal.SIGKILL)
        process.wait()
        again = set(fused(log)[len(fused_before) :]) & known
        assert not again, f"fused although stored: {again}"
    known, fused_before = stored(out), fused(log)
    assert any("has not ended" in note for note in fusebench.load_run(out).board().notes)
    assert 0 < len(known) < 2 * CASES, "the kills must come in the middle of the work"
    assert (
        subprocess.run([*command, "1"], env=environment, stdout=subprocess.DEVNULL, check=False).returncode
        == 0
    )
    assert not set(fused(log)[len(fused_before) :]) & known
    tables = [
        pd.read_parquet(folder / "rows.parquet").sort_values(["method", "case"])[
            ["method", "case", "value"]  # keys hold the plugin's environment, and its log has another path
        ]
        for folder in (tmp_path / "whole", out)
    ]
    pd.testing.assert_frame_equal(*(t.reset_index(drop=True) for t in tables), check_exact=True)


def fused(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def stored(folder: Path) -> set[str]:
    """The stored rows, in the words of the fusing log."""
    if not (folder / "rows.jsonl").exists():
        return set()
    with RunStore(folder) as store:
        rows = list(store.latest())
    sums = {f"case{i:04d}": f"{float(load(i, 8, '').a.data.sum()):.4f}" for i in range(CASES)}
    return {f"{row.method} {sums[row.case]}" for row in rows}
