"""A whole run of the classical methods on the phantom, beside the same work written as a loop.

    python benchmarks/engine_run.py                 eight phantoms of 128^3, one worker and two
    python benchmarks/engine_run.py --cases 2 --jobs 1

The loop fuses and scores what the run does, in one process, and does nothing else: no child processes, no
checks of what methods return or leave behind, no deadlines, no rows, no stored volumes, no leaderboard, no
sheet.  Loop and run are commands, timed from start to end, in turn, so that both pay for Python and imports:

    overhead = processor time of the run - processor time of the loop

of all their processes; wall times are printed beside it.  The phantoms are in the cache beforehand.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

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
    from fusebench.scoring.select import ranking_set

    torch.set_num_threads(1)
    plugins = find_plugins()
    metrics = ranking_set(plugins.metrics)
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


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall and processor seconds of a command and its children."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **one_thread}
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, command in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                out = ["--out", folder] if way != "loop" else []
                times[way].append(timed([*command, *out]))
    typical = {
        way: tuple(median(column) for column in zip(*some, strict=True)) for way, some in times.items()
    }
    loop_wall, loop = typical["loop"]
    print(f"loop: {loop_wall:.1f} s, processor time {loop:.1f} s", flush=True)
    for way, (wall, processor) in list(typical.items())[1:]:
        over = processor - loop
        print(
            f"{way}: {wall:.1f} s ({wall / loop_wall:.2f} of the loop), processor time {processor:.1f} s; "
            f"engine overhead {over:.1f} s = {over / processor:.1%}"
        )


if __name__ == "__main__":
    main()
