"""One fuse: seeds, timing, and the contract that a method's answer must keep."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..case import Case
from ..errors import FuseBenchError, Undefined
from ..method import Method, SliceMethod
from ..store.rows import Status
from ..text import message_of
from .memory import PeakMemory

RANGE_TOLERANCE = 1e-3

Image = NDArray[np.float32]
# Held from the start, so that a plugin that replaces the module's function changes no time.
_clock = time.perf_counter


class MethodFault(FuseBenchError):
    """A method broke its contract; the message says how."""


class TaskEnded(FuseBenchError):
    """A task was ended from outside its process; `status` is that of its rows."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status: Status = status

    def __reduce__(self) -> tuple[type[TaskEnded], tuple[Status, str]]:
        return type(self), (self.status, str(self))


class Killed(TaskEnded):
    """Another process killed the one of the task, which may be no fault of the method."""


@dataclass(frozen=True)
class Cost:
    """Time and memory that fusing took.

    Attributes
    ----------
    seconds : sequence of float
        Wall time of each fuse, device synchronised.
    memory_mb, gpu_memory_mb : float or None
        Peaks of resident and of device memory.
    """

    seconds: Sequence[float]
    memory_mb: float = 0.0
    gpu_memory_mb: float | None = None


class Fuser(Protocol):
    """A method that is set up, wherever it runs."""

    @property
    def by_axial_slice(self) -> bool:
        """Each axial slice of its answer is made from that slice of the inputs alone."""

    def fuse(self, a: Image, b: Image, seed: int = 0, repeats: int = 1) -> tuple[Image, Cost]:
        """Fuse one pair `repeats` times; the first answer counts, as it does without repeats.

        Parameters
        ----------
        a, b : ndarray, shape (D, H, W), float32 in [0, 1]

        Raises
        ------
        MethodFault
            As of `fuse`.
        """


class Here:
    """A `Fuser` in this process.

    Parameters
    ----------
    method : Method
        Set up.
    given : CopiedPair, optional
        Shared with other methods of this process.
    alone : bool
        No other method has run in this process, and none will; its parent looks at the values (`in_range`).
    """

    def __init__(self, method: Method, given: CopiedPair | None = None, *, alone: bool = False) -> None:
        self.method, self._given, self._alone = method, given or CopiedPair(), alone

    @property
    def by_axial_slice(self) -> bool:
        return isinstance(self.method, SliceMethod) and self.method.by_axial_slice

    def fuse(self, a: Image, b: Image, seed: int = 0, repeats: int = 1) -> tuple[Image, Cost]:
        seconds = []
        once = answer_of if self._alone else fuse
        with PeakMemory(str(self.method.device), fresh=self._alone) as peak:
            fused, elapsed = once(self.method, a, b, seed, self._given)
            seconds.append(elapsed)
            if repeats > 1:
                fused = fused.copy()  # from memory that the method may use again
            for _ in range(1, repeats):
                seconds.append(once(self.method, a, b, seed, self._given)[1])
        return fused, Cost(seconds, peak.memory_mb, peak.gpu_memory_mb)


class CopiedPair:
    """Pairs as tensors on a method's device, kept from one method to the next while none writes to them."""

    def __init__(self) -> None:
        self._held: list[tuple[Image, Image, Tensor, Tensor]] = []  # the last is in use

    def take(self, a: Image, b: Image, device: torch.device) -> tuple[Tensor, Tensor]:
        """Copies of `a` and `b`."""
        held = [h for h in self._held if h[0] is a and h[1] is b and h[2].device == device]
        if not held:
            ta, tb = (torch.from_numpy(self.copy(x)).to(device) for x in (a, b))
            held = [(a, b, ta, tb)]
        # A case and the same with findings.
        self._held = [*(h for h in self._held if h is not held[0])][-1:] + held
        return held[0][2], held[0][3]

    def copy(self, x: Image) -> Image:
        """An array to write to."""
        return np.array(x, dtype=np.float32)

    def forget(self) -> None:
        """Copy anew for the next method: this one may have written to the copies."""
        self._held = self._held[:-1]

    def check(self, method: str) -> None:
        """Raise `MethodFault` if a copy differs from its source."""
        a, b, ta, tb = self._held[-1]
        for tensor, source, label in ((ta, a, "a (structural)"), (tb, b, "b (functional)")):
            # float32 on both sides: what rounding the source changed is not the method's doing.
            given = np.asarray(source, dtype=np.float32)
            # By bits: NaN does not equal itself.
            if not np.array_equal(tensor.cpu().numpy().view(np.int32), given.view(np.int32)):
                self.forget()
                raise MethodFault(f"{method} changed its input {label}; work on a copy")


def fuse(
    method: Method, a: Image, b: Image, seed: int = 0, given: CopiedPair | None = None
) -> tuple[Image, float]:
    """Fuse one pair and check the method's contract.

    Parameters
    ----------
    method : Method
        Set up.
    a, b : ndarray, shape (D, H, W), float32 in [0, 1]
    seed : int
        Seeds torch, numpy and random before fusing.
    given : CopiedPair, optional
        Spares copying the same pair for several methods.

    Returns
    -------
    fused : ndarray, shape (D, H, W), float32 in [0, 1]
    seconds : float
        Wall time of ``method.fuse``, device synchronised.

    Raises
    ------
    MethodFault
        Not a tensor, wrong shape, NaN, out of range, or an input was changed.
    """
    fused, seconds = answer_of(method, a, b, seed, given)
    return in_range(method.info.name, fused), seconds


def seed_by(case: Case) -> None:
    """Seed the global generators before a plugin reads a case, which then has the same voxels everywhere."""
    _seed(int(hashlib.sha256(f"{case.dataset}/{case.id}".encode()).hexdigest()[:8], 16))


def _seed(seed: int, kind: str = "cpu") -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - plugins may use the global generator
    # torch.manual_seed also formats a stack trace for lazy CUDA calls: milliseconds, for nothing on a CPU.
    (torch.manual_seed if kind != "cpu" else torch.default_generator.manual_seed)(seed)


def answer_of(
    method: Method, a: Image, b: Image, seed: int = 0, given: CopiedPair | None = None
) -> tuple[Image, float]:
    """As `fuse`, but the values are as they come, in memory that the method may use again."""
    _seed(seed, method.device.type)
    given = given or CopiedPair()
    ta, tb = given.take(a, b, method.device)
    _synchronise(method.device)
    mine, begin = os.getpid(), _clock()
    try:
        with torch.inference_mode():
            out = method.fuse(ta, tb)
        if os.getpid() != mine:  # it has forked and let its child return
            os._exit(0)
        _synchronise(method.device)
    except BaseException:
        given.forget()  # it may have written to the copies
        raise
    seconds = _clock() - begin
    given.check(method.info.name)
    return as_image(method.info.name, out, a.shape), seconds


def fuse_twin(fuser: Fuser, case: Case, truth: Mapping[str, Image], fused: Image, seed: int = 0) -> Image:
    """Fuse a case without its lesion: ``truth["mri_twin"]`` and ``["pet_twin"]``; see `fuse_again`.

    Raises
    ------
    Undefined
        The truth has no such twin.
    """
    if missing := [name for name in ("mri_twin", "pet_twin") if name not in truth]:
        raise Undefined(f"the ground truth has no {missing[0]!r}, the case without its lesion")
    return fuse_again(fuser, case, (truth["mri_twin"], truth["pet_twin"]), fused, seed)


def fuse_again(fuser: Fuser, case: Case, pair: tuple[Image, Image], fused: Image, seed: int = 0) -> Image:
    """Fuse a changed case; of a 2D method only the slices in which the inputs differ.

    Parameters
    ----------
    fuser : Fuser
    case : Case
        As it was fused before.
    pair : tuple of ndarray
        The changed sources.
    fused : ndarray, shape (D, H, W), float32 in [0, 1]
        What `fuser` made of `case`.
    seed : int
        As for `fuse`.

    Returns
    -------
    ndarray, shape (D, H, W), float32 in [0, 1]
    """
    a, b = pair
    if not fuser.by_axial_slice:
        return fuser.fuse(a, b, seed)[0]
    differs = ((a != case.a.data) | (b != case.b.data)).any((1, 2))
    out = fused.copy()
    if differs.any():
        out[differs] = fuser.fuse(a[differs], b[differs], seed)[0]
    return out


def as_image(name: str, out: Any, shape: tuple[int, ...]) -> Image:
    """Answer of a method as an array, if it is a tensor of that shape."""
    if not isinstance(out, Tensor):
        raise MethodFault(f"{name} returned {type(out).__name__}, not a tensor")
    if tuple(out.shape) != shape:
        raise MethodFault(f"{name} returned shape {tuple(out.shape)} for input shape {shape}")
    fused: Image = out.detach().to("cpu", torch.float32).numpy()
    return fused


def in_range(name: str, fused: Image, out: Image | None = None) -> Image:
    """`fused`, clipped into `out` or a new array.

    Raises
    ------
    MethodFault
        A value is not finite, or further out than by rounding.
    """
    low, high = float(fused.min()), float(fused.max())  # NaN where there is one
    if not np.isfinite(high - low):
        bad = int(np.size(fused) - np.isfinite(fused).sum())
        raise MethodFault(f"{name} returned NaN or infinity in {bad} of {fused.size} voxels")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        raise MethodFault(f"{name} returned values in [{low:.4g}, {high:.4g}]; clip or scale to [0, 1]")
    return np.clip(fused, 0, 1, out=out)


def warm_up(fuser: Fuser, a: Image, b: Image) -> None:
    """Fuse a small corner once, so that the first timed case does not pay for lazy initialisation."""
    corner = tuple(slice(0, min(32, n)) for n in a.shape)
    try:
        fuser.fuse(a[corner].copy(), b[corner].copy())
    except Exception:
        return  # the real case will say it, with the right shape in the message


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def status_of(error: BaseException) -> Status:
    """The status of the row that an error makes."""
    if isinstance(error, TaskEnded):
        return error.status
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "allocate memory" in message_of(error)
    )
    return "oom" if out_of_memory else "error"
