"""Cost of every method, as `MethodInfo.cost` states it: seconds per million voxels, on one thread.

    python benchmarks/costs.py                      every entry that `--methods all` holds
    python benchmarks/costs.py dwt 'dcfb*'          these

Each entry fuses a phantom of the default data (128 cubed, from the test split) twice; the shorter processor
time counts, so that other work on the machine changes little.  A 2D method fuses every eighth axial slice.
Beside each figure stands the one that the source states, and their ratio: on another processor than the
reference (`fusebench.method_info.REFERENCE`) ratios are alike, not 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fusebench.engine.fusing import (  # noqa: E402
    Here,
    fuse,
    warm_up,
)
from fusebench.engine.hardware import describe_hardware  # noqa: E402
from fusebench.method import SliceMethod  # noqa: E402
from fusebench.plugins import create_dataset, create_method, find_plugins  # noqa: E402

EVERY = 8  # of the slices, for 2D methods


def measure(name: str, repeats: int) -> float:
    """Processor seconds per million voxels."""
    pair = create_dataset("phantom").cases("test")[0].pair
    a, b = pair.a.data, pair.b.data
    method = create_method(name)
    if isinstance(method, SliceMethod):
        a, b = a[EVERY // 2 :: EVERY].copy(), b[EVERY // 2 :: EVERY].copy()
    method.setup("cpu")
    warm_up(Here(method), a, b)
    took = []
    for _ in range(repeats):
        begin = time.process_time()
        fuse(method, a, b)
        took.append(time.process_time() - begin)
    return min(took) / (a.size / 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("methods", nargs="*", default=["all"])
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    hardware = describe_hardware()
    print(f"{hardware['processor']}, {hardware['instructions']}, one thread; seconds per million voxels")
    methods = find_plugins().methods
    for name in methods.select(args.methods):
        found = measure(name, args.repeats)
        stated = methods.facts(name).info.cost
        ratio = f"{stated:>10.2g}  x {found / stated:.2f}" if stated else f"{'not stated':>10}"
        print(f"{name:<20} cost={found:<10.2g} {ratio}", flush=True)


if __name__ == "__main__":
    main()
