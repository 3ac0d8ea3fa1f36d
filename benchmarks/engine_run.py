"""A whole run of the classical methods on the phantom, beside the same work written as a loop.

    python benchmarks/engine_run.py                 eight phantoms of 128^3, one worker and two
    python benchmarks/engine_run.py --cases 2 --jobs 1

The loop fuses and scores what the run does, in one process, and does nothing else: no child processes, no
checks of what methods return or leave behind, no deadlines, no rows, no stored volumes, no leaderboard, no
sheet.  Loop and run are commands with the same settings of threads and allocator, timed from start to end in
turn on a machine that does nothing else, so that both pay for Python and imports.  Two figures:

    engine overhead = worker time (wall x workers) outside loading, fusing and scoring, by the rows' seconds
    beside the loop = wall time of the run with one worker / wall time of the loop - 1

The second holds besides what isolation costs the methods themselves: in a fresh process every page of memory
is touched for the first time.  The phantoms are in the cache beforehand.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fusebench.engine.worker import ALLOCATOR, THREAD_VARIABLES  # noqa: E402
from fusebench.plugins import find_plugins  # noqa: E402


def classical() -> list[str]:
    """Methods that learn nothing, controls included."""
    methods = find_plugins().methods
    return [name for name in methods.names() if not methods.load(name).info.params]


def by_hand(cases: int) -> None:
    """Fuse and score what a run does, in a loop; print how many values there are."""
    import torch

    from fusebench.engine.fusing import fuse
    from fusebench.scoring.protocol import PROTOCOLS, READINGS, ScoredImages
    from fusebench.scoring.select import default_metrics

    torch.set_num_threads(1)
    plugins = find_plugins()
    metrics = default_metrics(plugins.metrics, with_truth=True)
    set_up = plugins.metrics.load("reading").trial
    assert set_up is not None
    made = {name: plugins.methods.load(name)() for name in classical()}
    for method in made.values():
        method.setup("cpu")
    found = 0
    for case in list(plugins.datasets.load("phantom")().cases("test"))[:cases]:
        a, b, trial = case.a.data, case.b.data, set_up(case)
        shared: dict[Any, Any] = {}
        for method in made.values():
            truth = dict(case.truth or {})
            fused = fuse(method, a, b)[0]
            scene = ScoredImages.of(case, fused, "cpu", shared)
            if truth["lesion"].any():
                truth["fused_twin"] = fuse(method, truth["mri_twin"], truth["pet_twin"])[0]
            found += len(PROTOCOLS["volume"].score(scene, metrics, truth, plugins))
            read = {"trial": trial, "fused_with": fuse(method, trial.a_with, trial.b_with)[0]}
            found += len(PROTOCOLS["readers"].score(scene, READINGS, read, plugins))
    print(found)


def timed(command: Sequence[str]) -> float:
    """Wall seconds of a command."""
    environment = {**ALLOCATOR, **os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    begin = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin


def overhead(rows: pd.DataFrame, wall: float, jobs: int) -> str:
    """Worker time of a run outside load, fuse and score, and per row."""
    tasks = rows.drop_duplicates(["method", "case", "protocol"])
    fused = tasks.drop_duplicates(["method", "case"])
    # Rows hold the time of the plain fusion; with findings, and without a lesion, a method takes as long.
    again = rows[rows.metric.isin(["reading", "lesion_contrast"]) & (rows.status == "ok")]
    useful = pd.concat([fused["fuse_seconds"], again["fuse_seconds"], tasks["score_seconds"]]).sum()
    useful += fused.drop_duplicates("case").head(jobs)["load_seconds"].sum()  # others load in the background
    over = wall * jobs - useful
    return f"engine overhead {over:.1f} s of {wall * jobs:.1f} s = {over / (wall * jobs):.1%}, " + (
        f"{1000 * over / len(rows):.1f} ms for each of {len(rows)} rows"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--by-hand", action="store_true", help="the loop alone, untimed")
    args = parser.parse_args()
    if args.by_hand:
        by_hand(args.cases)
        return
    for case in list(find_plugins().datasets.load("phantom")().cases("test"))[: args.cases]:
        _ = case.pair
    names = ",".join(classical())
    run = [str(ROOT / "run_bench.py"), "--methods", names, "--cases", str(args.cases), "--threads", "1"]
    ways = {"loop": [str(Path(__file__)), "--by-hand", "--cases", str(args.cases)]}
    ways |= {f"run --jobs {jobs}": [*run, "--device", "cpu", "--jobs", str(jobs)] for jobs in args.jobs}
    walls: dict[str, list[float]] = {way: [] for way in ways}
    said: dict[str, str] = {}
    for _ in range(args.rounds):
        for way, command in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                walls[way].append(timed([*command, *(["--out", folder] if way != "loop" else [])]))
                if way != "loop":
                    rows = pd.read_parquet(Path(folder) / "rows.parquet")
                    said[way] = overhead(rows, walls[way][-1], int(way.split()[-1]))
    typical = {way: median(some) for way, some in walls.items()}
    for way, wall in typical.items():
        beside = "" if way == "loop" else f", {wall / typical['loop'] - 1:+.1%} beside the loop; {said[way]}"
        print(f"{way}: {wall:.1f} s{beside}")


if __name__ == "__main__":
    main()
