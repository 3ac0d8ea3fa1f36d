"""A whole run of the classical methods on the phantom: engine overhead, and speed-up by a second worker.

    python benchmarks/engine_run.py                 eight phantoms of 128^3 with 1 and with 2 workers
    python benchmarks/engine_run.py --cases 2 --jobs 2

Each run is the command a user types, timed from its start to its end, on a machine that does nothing else.
The phantoms are in the cache beforehand.  What workers do in load, fuse and score is taken from the rows:

    useful   = fuse + score of every task + load of every worker's first case
               (later cases are loaded in the background of tasks that are counted already);
               a task fuses once more with findings, and once more without its lesion where it has one
    overhead = wall time x workers - useful

so that overhead holds the start of all processes, imports, planning, checks of what methods return, stored
volumes, rows, the leaderboard, the contact sheet, and workers that wait for each other at the end.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fusebench.plugins import find_plugins  # noqa: E402


def classical() -> list[str]:
    """Methods that learn nothing, controls included."""
    methods = find_plugins().methods
    return [name for name in methods.names() if not methods.load(name).info.params]


def useful_seconds(rows: pd.DataFrame, jobs: int) -> dict[str, float]:
    """Seconds that workers spent in load, fuse and score, by the rows of a run."""
    tasks = rows.drop_duplicates(["method", "case", "protocol"])
    fused = tasks.drop_duplicates(["method", "case"])
    first = fused.drop_duplicates("case").head(jobs)
    # Rows hold the time of the plain fusion; what else is fused of a case takes a classical method as long.
    again = rows[rows.metric.isin(["reading", "lesion_contrast"]) & (rows.status == "ok")]
    times = pd.concat([fused["fuse_seconds"], again["fuse_seconds"]])
    return {
        "load": float(first["load_seconds"].sum()),
        "fuse": float(times.sum()),
        "score": float(tasks["score_seconds"].sum()),
    }


def measure(jobs: int, cases: int) -> float:
    """Run once, print what it took, and return the wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run_bench.py"), "--methods", ",".join(classical())]
        command += ["--cases", str(cases), "--jobs", str(jobs), "--threads", "1", "--out", folder]
        before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([*command, "--device", "cpu"], check=True, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
        rows = pd.read_parquet(Path(folder) / "rows.parquet")
    parts = useful_seconds(rows, jobs)
    overhead = wall * jobs - sum(parts.values())
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{jobs} worker{'s' * (jobs > 1)}: {wall:.1f} s; "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items())
        + f"; engine overhead {overhead:.1f} s of {wall * jobs:.1f} s of worker time = "
        f"{overhead / (wall * jobs):.1%} (processor time of all processes {cpu:.1f} s)",
        flush=True,
    )
    return wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    for case in list(find_plugins().datasets.load("phantom")().cases("test"))[: args.cases]:
        _ = case.pair
    walls = [measure(jobs, args.cases) for jobs in args.jobs]
    for jobs, wall in zip(args.jobs[1:], walls[1:], strict=True):
        print(f"speed-up of {jobs} workers over {args.jobs[0]}: {walls[0] / wall:.2f}")


if __name__ == "__main__":
    main()
