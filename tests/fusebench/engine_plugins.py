"""Plugins for the engine's tests: a tiny dataset, healthy methods, and every way to misbehave."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo
from fusebench.method import Method, MethodInfo


def load(seed: int, size: int, vanish: str) -> Pair:
    if vanish and not Path(vanish).exists():
        raise FileNotFoundError(2, "No such file or directory", vanish)
    a, b = np.random.default_rng(seed).random((2, size, size, size), dtype=np.float32)
    return Pair(Volume(a), Volume(b), np.ones(a.shape, bool))


class Tiny(Dataset):
    info = DatasetInfo(name="tiny", summary="random cubes")

    def __init__(self, *, count: int = 3, size: int = 8, salt: int = 0, vanish: str = "") -> None:
        self.count, self.size, self.salt, self.vanish = count, size, salt, vanish

    def cases(self, split: str = "test") -> Sequence[Case]:
        return [
            Case(
                id=f"case{i:04d}",
                dataset="tiny",
                group=f"subject{i}",
                fingerprint=f"{self.size}-{self.salt}-{i}",
                loader=partial(load, i + 1000 * self.salt, self.size, self.vanish if i == 1 else ""),
            )
            for i in range(self.count)
        ]


def log(name: str) -> None:
    """Count fuses across processes, where a test asks for it."""
    if "ENGINE_TEST_LOG" in os.environ:
        with open(os.environ["ENGINE_TEST_LOG"], "a") as handle:
            handle.write(name + "\n")


class Healthy(Method):
    info = MethodInfo(name="healthy", summary="average")

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        log(f"healthy {float(a.sum()):.4f}")
        if self.pause:
            time.sleep(self.pause)
        return (a + b) / 2


class Other(Method):
    info = MethodInfo(name="other", summary="maximum")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        log(f"other {float(a.sum()):.4f}")
        return torch.maximum(a, b)


class Noisy(Method):
    info = MethodInfo(name="noisy", summary="average plus global random numbers")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a + b) / 2 + 0.1 * torch.rand_like(a)).clamp(0, 1)


class Crash(Method):
    info = MethodInfo(name="crash", summary="ends its process")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        os._exit(7)


class Segfault(Method):
    info = MethodInfo(name="segfault", summary="reads address 0")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        import ctypes

        ctypes.string_at(0)
        return a


class Hang(Method):
    info = MethodInfo(name="hang", summary="never returns")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        while True:
            time.sleep(1)


class Hog(Method):
    info = MethodInfo(name="hog", summary="takes all memory")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        taken = []
        while True:
            taken.append(torch.ones(5_000_000))


class RaisesOnce(Method):
    info = MethodInfo(name="raises-once", summary="fails on the second case")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        if abs(float(a.sum()) - float(load(1, a.shape[0], "").a.data.sum())) < 1e-3:
            raise ValueError("cannot do\nthis one")
        return a.clone()


class Nan(Method):
    info = MethodInfo(name="nan", summary="returns NaN")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return a * float("nan")


class Shape(Method):
    info = MethodInfo(name="shape", summary="returns another shape")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return a[1:]


class Mutates(Method):
    info = MethodInfo(name="mutates", summary="changes its input")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return b.mul_(0.5)


class MutatesAndRaises(Method):
    info = MethodInfo(name="mutates-and-raises", summary="changes its input, then fails")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        a.mul_(0)
        raise ValueError("half-way")


class OutOfRange(Method):
    info = MethodInfo(name="out-of-range", summary="adds")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class NotATensor(Method):
    info = MethodInfo(name="not-a-tensor", summary="returns an array")

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return a.numpy()  # type: ignore[return-value]
