"""Would OpenVINO serve the 2D networks faster?  Four slices of 128 x 128, one thread, both in turn.

    pip install openvino   # no extra of FuseBench: it was not worth one (docs/networks.md)
    PYTHONPATH=. python benchmarks/openvino_trial.py densefuse,u2fusion,ifcnn,gesenet

Ours is the network as it runs on a CPU; OpenVINO gets the plain one, in single precision.  Processor time,
least of four; largest difference from the plain network.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import fusebench

SLICES = slice(60, 64)
SETTINGS = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


class Plain(nn.Module):
    """The plain network of a method, as a module of two images."""

    def __init__(self, method: Any) -> None:
        super().__init__()
        self.network, self.run = method.network, method.run

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.run(a, b)
        return out


def seconds(*calls: Callable[[], Any]) -> list[float]:
    """Least processor time of each call, taken in turn."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(4):
        for call, own in zip(calls, times, strict=True):
            begin = time.process_time()
            call()
            own.append(time.process_time() - begin)
    return [min(own) for own in times]


@torch.inference_mode()
def main(names: str) -> None:
    torch.set_num_threads(1)
    ov = import_module("openvino")
    pair = fusebench.create_dataset("phantom").cases("val")[0].pair
    a, b = (torch.from_numpy(volume.data[SLICES, None].copy()) for volume in (pair.a, pair.b))
    for name in names.split(","):
        ours, plain = fusebench.create_method(name), fusebench.create_method(name, fast=False)
        for method in (ours, plain):
            method.setup("cpu")
        try:
            model = ov.convert_model(Plain(plain).eval(), example_input=(a, b))
        except Exception as error:
            print(f"{name}: not converted: {str(error).strip().splitlines()[-1]}")
            continue
        theirs = ov.Core().compile_model(model, "CPU", SETTINGS)
        gap = np.abs(theirs([a.numpy(), b.numpy()])[0] - plain.run(a, b).numpy()).max()
        one, two = seconds(partial(ours.run, a, b), partial(theirs, [a.numpy(), b.numpy()]))
        print(f"{name}: ours {one:.3f} s, OpenVINO {two:.3f} s, {one / two:.2f} to 1; difference {gap:.1e}")


if __name__ == "__main__":
    main(*sys.argv[1:])
