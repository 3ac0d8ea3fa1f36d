"""``prepare`` of simulated subjects on one and two workers, and its resume after an interruption.

    python benchmarks/prepare_scaling.py --subjects 40

The subjects are phantoms whose PET headers are moved at random, as a BIDS tree in a temporary folder.  Every
worker has one thread; left alone, a single one would use two in parts.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fusebench

grid: Any = importlib.import_module("fusebench.datasets.preprocessing.grid")
_ONE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
os.environ.update(dict.fromkeys(_ONE, "1"))
_RUN = Path(__file__).resolve().parents[1] / "run_bench.py"


def make_tree(root: Path, subjects: int, size: int) -> None:
    """BIDS tree of phantoms, the PET moved against the MRI."""
    cases = fusebench.create_dataset("phantom", size=size, subjects=4).cases("val")
    for number in range(subjects):
        case = cases[number % len(cases)]
        rng = np.random.default_rng(number)
        move = grid.rigid_matrix(rng.uniform(-10, 10, 3), rng.uniform(-10, 10, 3))
        noise = rng.normal(0, 0.01, case.b.shape).astype(np.float32)
        name = f"sub-{number:02d}"
        for folder, suffix, data, affine in (
            ("anat", "T1w", case.a.data, case.a.affine),
            ("pet", "pet", np.clip(case.b.data + noise, 0, 1), move @ case.b.affine),
        ):
            path = root / name / folder / f"{name}_{suffix}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data.transpose(2, 1, 0), affine), path)


def command(root: Path, out: Path, jobs: int) -> list[str]:
    """The command line of one run."""
    given = ["--dataset", "bids", "--data-dir", str(root), "--out", str(out), "--jobs", str(jobs)]
    return [sys.executable, str(_RUN), "prepare", *given, "--data-option", "recipe=native"]


def run(root: Path, out: Path, cache: Path, jobs: int) -> tuple[float, float, str]:
    """Wall and CPU seconds and output of a whole run into an own cache."""
    environment = {**os.environ, "FUSEBENCH_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command(root, out, jobs), env=environment, capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu, done.stdout


def interrupt(root: Path, out: Path, cache: Path, after: int) -> int:
    """Start on two workers, stop by Ctrl-C once `after` subjects are done; returns how many were."""
    environment = {
        **os.environ,
        "FUSEBENCH_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        command(root, out, 2), env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    count = 0
    for line in process.stdout:
        count += line.rstrip().endswith("prepared")
        if count >= after:
            os.killpg(process.pid, signal.SIGINT)
            break
    process.stdout.read()
    process.wait(timeout=120)
    return count


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--subjects", type=int, default=40)
    parser.add_argument("--size", type=int, default=64, help="voxels per axis over 224 mm")
    parser.add_argument("--repeats", type=int, default=1, help="pairs of runs, interleaved; the best counts")
    args = parser.parse_args()
    # A job in the background inherits Ctrl-C ignored, and so would the run that is to be interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        make_tree(base / "data", args.subjects, args.size)
        best: dict[int, float] = {}
        for repeat in range(args.repeats):
            for jobs in (1, 2):
                seconds, cpu, _ = run(base / "data", base / "out", base / f"cache{repeat}{jobs}", jobs)
                best[jobs] = min(best.get(jobs, seconds), seconds)
                print(
                    f"{args.subjects} subjects, {jobs} workers: {seconds:.1f} s, CPU {cpu:.1f} s", flush=True
                )
        print(f"load {os.getloadavg()[0]:.1f}; one worker / two workers: {best[1] / best[2]:.2f}")
        done = interrupt(base / "data", base / "out", base / "cache-resume", args.subjects // 3)
        seconds, _, text = run(base / "data", base / "out", base / "cache-resume", 2)
        counts = text.strip().splitlines()[-3]
        print(f"interrupted after {done}; resumed in {seconds:.1f} s: {counts}")


if __name__ == "__main__":
    main()
