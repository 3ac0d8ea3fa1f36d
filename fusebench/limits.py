"""Limits of this process: cores and memory of its container or job, not of the machine."""

from __future__ import annotations

import contextlib
import math
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

from .errors import OutOfMemory

_CGROUP = Path("/sys/fs/cgroup")
_ALWAYS = 64 << 20  # bytes that are taken without asking, which costs half a millisecond
SMALLER = "crop or downsample it, or allow more memory"


def usable_cores(root: Path = _CGROUP) -> int:
    """Cores that this process may run on: by affinity, the quota of its cgroup, and no hyperthreads twice."""
    allowed = psutil.cpu_count(logical=True) or 1
    with contextlib.suppress(AttributeError, OSError):  # Linux
        allowed = len(os.sched_getaffinity(0))
    physical = psutil.cpu_count(logical=False) or allowed
    return max(1, min(allowed, physical, *(math.ceil(q) for q in _quotas(root))))


def usable_memory_mb(root: Path = _CGROUP) -> float:
    """Memory that this process and its children may take: of the machine, its cgroup, and ``ulimit -v``."""
    limits = [float(psutil.virtual_memory().total)]
    for folder in _groups(root, "memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limits += [value for value in _numbers(folder / name)[:1] if value > 0]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(float(soft))
    return min(limits) / 2**20


def spare_memory(root: Path = _CGROUP) -> int:
    """Bytes that this process may still take: of the machine, its cgroup, and ``ulimit -v``."""
    spare: list[int] = [psutil.virtual_memory().available]
    for folder in _groups(root, "memory"):
        for most, used in (("max", "current"), ("limit_in_bytes", "usage_in_bytes")):
            limit, now = (_numbers(folder / f"memory.{name}")[:1] for name in (most, used))
            if limit and now and limit[0] > 0:
                spare.append(int(limit[0] - now[0] + _page_cache(folder)))
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        spare.append(soft - psutil.Process().memory_info().vms)
    return max(0, min(spare))


def check_memory(path: Path, needed: int, remedy: str = SMALLER) -> None:
    """Refuse a file that would take more memory than there is, before anything is taken.

    Parameters
    ----------
    path : Path
    needed : int
        Bytes that reading it takes, by what its header declares.
    remedy : str
        What a user can do.

    Raises
    ------
    OutOfMemory
    """
    if needed <= _ALWAYS:
        return
    spare = spare_memory()
    if needed > spare:
        raise OutOfMemory(
            f"{path}: reading it takes about {needed / 2**30:.1f} GiB of memory and {spare / 2**30:.1f} GiB "
            f"are left; {remedy}"
        )


@contextlib.contextmanager
def naming_file(path: Path, remedy: str = SMALLER) -> Iterator[None]:
    """Where memory ends while a file is read, raise `OutOfMemory`, which names the file."""
    try:
        yield
    except OutOfMemory:
        raise
    except MemoryError:
        raise OutOfMemory(f"{path}: there is too little memory to read it; {remedy}") from None


def oom_kills(root: Path = _CGROUP, system: Path = Path("/proc/vmstat")) -> int:
    """How many processes Linux has killed so far for lack of memory, here or in this process's cgroups."""
    files = [
        folder / n for folder in _groups(root, "memory") for n in ("memory.events", "memory.oom_control")
    ]
    count = 0
    for file in (*files, system):
        with contextlib.suppress(OSError, ValueError):
            for line in file.read_text().splitlines():
                if line.startswith("oom_kill "):
                    count += int(line.split()[1])
    return count


def _quotas(root: Path) -> Iterator[float]:
    for folder in _groups(root, "cpu"):
        found = _numbers(folder / "cpu.max")  # version 2: quota and period, or "max" and period
        if len(found) == 2 and min(found) > 0:
            yield found[0] / found[1]
        quota, period = (_numbers(folder / f"cpu.cfs_{n}_us") for n in ("quota", "period"))
        if quota and period and min(quota[0], period[0]) > 0:
            yield quota[0] / period[0]


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the process's cgroup and those above it, whose limits hold as well; either version."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, f"0:{controller}:/", "0::/"]:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        top = root / controller if names else root
        folder = top / path.lstrip("/")
        while True:
            yield folder
            if folder == top or top not in folder.parents:
                break
            folder = folder.parent


def _page_cache(folder: Path) -> int:
    """Bytes of a cgroup that hold files, which Linux drops when memory is needed."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = dict(line.split()[:2] for line in (folder / "memory.stat").read_text().splitlines())
        return sum(int(lines.get(name, 0)) for name in ("inactive_file", "active_file"))
    return 0


def _numbers(path: Path) -> list[float]:
    """Numbers in a file; none where it is not there or sets no limit (``max``)."""
    try:
        found = [float(word) for word in path.read_text().split()]
    except (OSError, ValueError):
        return []
    return found if all(map(math.isfinite, found)) else []
