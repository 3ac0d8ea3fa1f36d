"""A whole run of the classical methods on the phantom, beside the same work written as a loop.

    python benchmarks/engine_run.py                 eight phantoms of 128^3, one worker and two
    python benchmarks/engine_run.py --cases 2 --jobs 1

Three things are timed in turn, with the same settings of threads and allocator, on a machine that does
nothing else:

- *tasks*: the tasks of the run as a worker does them, one after the other, each method in a child.  Overhead
  is what is no loading, no setting up of readers, no scoring and no fusing, by the children's own clocks:
  forks, copies of images, checks, messages, rows, handing volumes to the thread that stores them.
- *loop*: the same fusing and scoring in one process, and nothing else.
- *run*: the command from start to end, which holds besides Python and imports, planning, the leaderboard and
  the contact sheet.

Beside the loop, a run also shows what isolation costs the methods themselves: in a fresh process every page
of memory is touched for the first time.  The phantoms are in the cache beforehand.
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


def timed(command: Sequence[str]) -> tuple[float, str]:
    """Wall seconds of a command, and the last line of what it says."""
    environment = {**ALLOCATOR, **os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return time.perf_counter() - begin, (done.stdout.splitlines() or [""])[-1]


def as_worker(cases: int) -> None:
    """Do the tasks of a run in this process, as a worker does; print what is overhead of which time."""
    import torch

    from fusebench.engine import apart, watched
    from fusebench.engine.pool import LocalPool
    from fusebench.engine.request import Request
    from fusebench.engine.run import plan_run
    from fusebench.engine.task import TaskRunner

    torch.set_num_threads(1)
    useful = 0.0
    do = watched.Child.do

    def timed_do(*given: Any, **options: Any) -> dict[str, Any]:
        nonlocal useful
        said = do(*given, **options)
        useful += sum(said.get("seconds", ()))
        return said

    watched.Child.do = timed_do  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        request = Request(methods=classical(), cases=cases, device="cpu", jobs=0, out=Path(folder))
        tasks = plan_run(request, LocalPool(0)).tasks
        tasks.sort(key=lambda task: task.case.id)
        children = apart.Apart()
        runner = TaskRunner(apart=children)
        set_up = runner._set_up

        def timed_set_up(*given: Any, **options: Any) -> Any:
            nonlocal useful
            begin = time.perf_counter()
            try:
                return set_up(*given, **options)
            finally:
                useful += time.perf_counter() - begin

        runner._set_up = timed_set_up  # type: ignore[method-assign]
        wall, count = 0.0, 0
        for task in tasks:
            task.case.load()
            begin = time.perf_counter()
            rows = runner.run(task)
            wall += time.perf_counter() - begin
            useful += sum({row.protocol: row.score_seconds or 0 for row in rows}.values())
            count += len(rows)
        children.close()
    print(f"{wall} {wall - useful} {count}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", choices=["tasks", "loop"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        {"tasks": as_worker, "loop": by_hand}[args.only](args.cases)
        return
    for case in list(find_plugins().datasets.load("phantom")().cases("test"))[: args.cases]:
        _ = case.pair
    here = [str(Path(__file__)), "--cases", str(args.cases), "--only"]
    names = ",".join(classical())
    run = [str(ROOT / "run_bench.py"), "--methods", names, "--cases", str(args.cases), "--threads", "1"]
    ways = {"tasks": [*here, "tasks"], "loop": [*here, "loop"]}
    ways |= {f"run --jobs {jobs}": [*run, "--device", "cpu", "--jobs", str(jobs)] for jobs in args.jobs}
    walls: dict[str, list[float]] = {way: [] for way in ways}
    shares: list[tuple[float, float]] = []
    for _ in range(args.rounds):
        for way, command in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                wall, said = timed([*command, *(["--out", folder] if way.startswith("run") else [])])
            walls[way].append(wall)
            if way == "tasks":
                whole, over, rows = map(float, said.split())
                shares.append((over / whole, 1000 * over / rows))
    share, each = (median(some) for some in zip(*shares, strict=True))
    print(f"engine overhead of the tasks: {share:.1%}, {each:.1f} ms for each row")
    loop = median(walls.pop("loop"))
    print(f"loop: {loop:.1f} s")
    for way in list(walls)[1:]:
        wall = median(walls[way])
        print(f"{way}: {wall:.1f} s, {wall / loop - 1:+.1%} beside the loop")


if __name__ == "__main__":
    main()
