"""Rigid registration against known offsets: error over the brain, CPU seconds.

    python benchmarks/registration_trials.py phantom --trials 40
    python benchmarks/registration_trials.py MRI.nii.gz PET.nii.gz --trials 40 [--optimum]

Each trial moves the header of the PET by 5 to 20 mm and up to 15 degrees about each axis; its error is how
far the registration found lies from that move, as mean distance over the brain. ``--optimum`` measures from
the registration's own result on the unmoved pair, for pairs whose true alignment is not known.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import fusebench
from fusebench.images.foreground import foreground
from fusebench.images.read_write import read_raw

grid: Any = importlib.import_module("fusebench.datasets.preprocessing.grid")
rigid: Any = importlib.import_module("fusebench.datasets.preprocessing.rigid")


def phantom(number: int) -> tuple[Any, Any, Any]:
    """MRI, PET and brain points of a phantom of the test split; aligned."""
    cases = fusebench.create_dataset("phantom").cases("test")
    case = cases[number % len(cases)]
    points = grid.mask_points(case.mask, case.a.affine)
    return grid.Image(case.a.data, case.a.affine), grid.Image(case.b.data, case.b.affine), points


def files(mri: str, pet: str) -> Callable[[int], tuple[Any, Any, Any]]:
    """MRI, PET and points of a pair of files; the brain is where the PET is bright."""
    a, b = read_raw(mri), read_raw(pet)
    data = b.data.max() - b.data if rigid.inverted(b.data) else b.data
    points = grid.mask_points(foreground(data, fraction=0.3), b.affine)
    pair = grid.Image(a.data, a.affine), grid.Image(data, b.affine), points
    return lambda number: pair


def trials(
    load: Callable[[int], tuple[Any, Any, Any]], count: int, *, first: int = 0, optimum: bool = False
) -> Iterator[dict[str, float]]:
    """Error and start error in mm, CPU seconds and information of each trial."""
    base = np.eye(4)
    for number in range(first, first + count):
        mri, pet, points = load(number)
        if optimum and number == first:
            base = rigid.register(mri, pet).matrix
        rng = np.random.default_rng(1000 + number)
        shift = rng.normal(size=3)
        shift *= rng.uniform(5, 20) / np.linalg.norm(shift)
        move = grid.rigid_matrix(rng.uniform(-15, 15, 3), shift, points.mean(axis=0))
        start = time.process_time()
        found = rigid.register(mri, grid.Image(pet.data, move @ pet.affine))
        yield {
            "seconds": time.process_time() - start,
            "error": float(grid.displacement(found.matrix, move @ base, points).mean()),
            "start": float(grid.displacement(np.eye(4), move @ base, points).mean()),
            "information": found.information_after,
            "warnings": len(found.warnings),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="phantom, or an MRI and a PET file")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--optimum", action="store_true")
    args = parser.parse_args()
    load = phantom if args.data == ["phantom"] else files(*args.data)
    rows = []
    for number, row in enumerate(trials(load, args.trials, first=args.first, optimum=args.optimum)):
        rows.append(row)
        print(number, *(f"{k} {v:.2f}" for k, v in row.items()), flush=True)
    errors = np.array([r["error"] for r in rows])
    seconds = np.array([r["seconds"] for r in rows])
    print(
        f"{len(rows)} trials: error mean {errors.mean():.2f}, median {np.median(errors):.2f}, max "
        f"{errors.max():.2f} mm; < 1 mm {np.mean(errors < 1):.1%}, < 1.5 mm {np.mean(errors < 1.5):.1%}; "
        f"CPU seconds median {np.median(seconds):.1f}, max {seconds.max():.1f}"
    )


if __name__ == "__main__":
    main()
