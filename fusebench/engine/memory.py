"""Peak memory of a block of code."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def give_back_memory() -> None:
    """Collect garbage, and give the allocator's free pages back to the system."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc only


def settle(limit_mb: float | None) -> None:
    """Between tasks: collect garbage, and where much of the limit is held give free pages back.

    Else they are kept: the page faults of getting them again take as long as a score's arithmetic.
    """
    if limit_mb and psutil.Process().memory_info().rss / 2**20 > limit_mb / 3:
        give_back_memory()
    else:
        gc.collect()


class PeakMemory:
    """Context that measures peak resident memory of this process, and peak memory of a CUDA device.

    On entry, what is free is given back (`give_back_memory`), so that a method does not answer for what ran
    before it; in a process where nothing did (`fresh`) that is time for nothing.  On Linux the kernel's
    high-water mark is reset then; elsewhere it is the peak of the process so far, which is an upper bound.

    Attributes
    ----------
    memory_mb : float
    gpu_memory_mb : float or None
    """

    def __init__(self, device: str, *, fresh: bool = False) -> None:
        self._fresh = fresh
        self._device = device if device.startswith("cuda") else None
        self.memory_mb = 0.0
        self.gpu_memory_mb: float | None = None

    def __enter__(self) -> PeakMemory:
        if not self._fresh:
            give_back_memory()
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")
        if self._device:
            torch.cuda.reset_peak_memory_stats(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        self.memory_mb = _peak_rss_mb()
        if self._device:
            self.gpu_memory_mb = torch.cuda.max_memory_allocated(self._device) / 2**20


def _peak_rss_mb() -> float:
    """Peak resident memory of this process in MB (2**20 bytes)."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
