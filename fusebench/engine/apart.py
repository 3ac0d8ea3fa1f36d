"""Methods in processes of their own: what one changes, another never sees."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ..limits import oom_kills
from ..text import printable
from .child import live, write_all
from .fusing import Cost, Fuser, Image, Killed, TaskEnded, in_range
from .link import Garbled
from .memory import give_back_memory
from .nursery import Nursery
from .worker import KILLED, how_it_ended, stage_seconds

if TYPE_CHECKING:
    from ..store.rows import Status
    from .spec import Task

POLL_SECONDS = 0.1
_READ_LIMIT = 30.0  # seconds for a message that has been announced
_PAIRS = 3  # in shared memory
_LAST_BREATH = 2.0  # seconds in which a child that closed its link says how it ended
_WORDS = {"import": "importing the plugin", "setup": "setting up the method", "fuse": "fusing"}


@dataclass(frozen=True)
class Limits:
    """Limits of a child.

    Attributes
    ----------
    fuse, other : float or None
        Seconds for one fuse, and for every other stage.
    memory_mb : float or None
        Resident memory of the child and its parent together.
    """

    fuse: float | None = None
    other: float | None = None
    memory_mb: float | None = None


class Apart:
    """Makes children for the tasks of one worker.

    Parameters
    ----------
    inherited : sequence of int
        File descriptors that no child may have.
    threads : int
        Of every child.
    """

    def __init__(self, inherited: Sequence[int] = (), threads: int = 1) -> None:
        self._nursery = Nursery(live, inherited)
        self._threads = threads
        self._base_mb = rss_mb(self._nursery.pid)
        self._plugins: set[tuple[str, ...]] = set()
        self._modules: set[str] = set()
        self._inputs: list[tuple[Image, Image, tuple[int, int]]] = []

    def close(self) -> None:
        """End every process."""
        self._nursery.close()

    def ask(self, question: bytes, seconds: float | None = None) -> bytes:
        """Pickled answer to a pickled question, found out in a child.

        Raises
        ------
        TaskEnded
            The child died of it or took over `seconds`.
        """
        with self._child(Limits(other=seconds)) as child:
            found = child.do("import", ("ask", question))
            content = child.rest()
        new = [name for name in found["modules"] if name not in self._modules]
        if new:
            self._modules.update(new)
            self._nursery.prepare([], new)
        return content

    @contextlib.contextmanager
    def _child(self, limits: Limits) -> Iterator[Child]:
        child = Child(self._nursery, limits, self._base_mb)
        try:
            yield child
        finally:
            child.forget()

    @contextlib.contextmanager
    def method(self, task: Task, memory_mb: float | None = None) -> Iterator[Fuser]:
        """The task's method, set up in a child that ends with the context."""
        limits = Limits(task.timeout, stage_seconds(task.timeout), memory_mb)
        if task.plugins not in self._plugins:
            self._plugins.add(task.plugins)
            self._nursery.prepare(task.plugins)
        spec = task.method
        with self._child(limits) as child:
            answer = child.do("import", ("make", task.plugins, spec, task.device, self._threads))
            yield _Method(spec.name, child, bool(answer["by_slice"]), self)

    def inputs(self, a: Image, b: Image) -> tuple[int, int]:
        """Descriptors of the pair in shared memory; the last pairs are kept, a case and its variants."""
        for held in self._inputs:
            if held[0] is a and held[1] is b:
                return held[2]
        while len(self._inputs) >= _PAIRS:
            for fd in self._inputs.pop(0)[2]:
                os.close(fd)
        self._inputs.append((a, b, (_shared(a), _shared(b))))
        return self._inputs[-1][2]


class Child:
    """A child at work, watched: its time, its memory, its end."""

    def __init__(self, nursery: Nursery, limits: Limits, base_mb: float) -> None:
        self._nursery, self._limits, self._base_mb = nursery, limits, base_mb
        self._kills = oom_kills()
        self.pid, self._link = nursery.child()
        self._ended = False

    def do(
        self, stage: str, job: tuple[Any, ...], fds: Sequence[int] = (), repeats: int = 1
    ) -> dict[str, Any]:
        """Have a job done; what the child says of it.

        Raises
        ------
        TaskEnded
            The job failed, or the child died or was ended for what it took.
        """
        since = time.monotonic()
        try:
            self._link.send(pickle.dumps(job), fds)
            while True:
                message = self._link.receive(POLL_SECONDS)
                if message is not None:
                    found = _read(message)
                    if found.get("stage") == "setup" and stage == "import":
                        stage, since = "setup", time.monotonic()
                        continue
                    if "reason" in found:
                        status: Status = "oom" if found.get("status") == "oom" else "error"
                        raise TaskEnded(status, printable(str(found["reason"]))[:600])
                    return found
                self._check(stage, since, repeats)
        except Garbled:
            self.end()
            reason = f"{_WORDS[stage]} wrote to the engine's own connection; stopped"
            raise TaskEnded("error", reason) from None
        except (EOFError, OSError):
            raise self._lost() from None

    def rest(self) -> bytes:
        """The message that follows what `do` returned."""
        try:
            content = self._link.receive(_READ_LIMIT)
        except (EOFError, OSError):
            content = None
        if content is None:
            raise self._lost()
        return content

    def _lost(self) -> TaskEnded:
        end = time.monotonic() + _LAST_BREATH
        while not (died := _is_dead(self.pid)) and time.monotonic() < end:
            time.sleep(0.005)
        code = self.end()
        if not died:
            return TaskEnded("error", "the worker closed its pipe and hung")
        status, reason = how_it_ended(code, self._kills)
        return (Killed if reason == KILLED else TaskEnded)(status, reason)

    def _check(self, stage: str, since: float, repeats: int) -> None:
        limit = self._limits.fuse if stage == "fuse" else self._limits.other
        if limit and time.monotonic() - since > limit * max(1, repeats):
            self.end()
            took = f"{limit * max(1, repeats):g} s (--timeout)"
            raise TaskEnded("timeout", f"{_WORDS[stage]} took over {took}")
        bound = self._limits.memory_mb
        if bound and self._held_mb(bound) > bound:
            give_back_memory()  # what this process keeps for its next scores is not the method's
        if bound and self._held_mb(bound) > bound:
            self.end()
            raise TaskEnded("oom", f"the worker exceeded {bound:.0f} MB (--memory); stopped")
        if _is_dead(self.pid):  # while a process that it started holds the link
            raise EOFError

    def _held_mb(self, bound: float) -> float:
        """Memory of the child, of all that it started, and of this process."""
        ours, family = rss_mb(os.getpid()) - self._base_mb, [self.pid, *descendants(self.pid)]
        held = ours + sum(map(rss_mb, family))
        # Copies of a process share most of their pages; to find out how many takes a while.
        return held if held <= bound or len(family) == 1 else ours + sum(map(_pss_mb, family))

    def end(self) -> int:
        """End it with all that it started; its exit code."""
        if self._ended:
            return 0
        self._ended = True
        self._link.close()
        return self._nursery.end(self.pid)

    def forget(self) -> None:
        """As `end`, without waiting for it."""
        if not self._ended:
            self._ended = True
            self._link.close()
            self._nursery.forget(self.pid)


class _Method:
    """A `Fuser` in a child."""

    def __init__(self, name: str, child: Child, by_slice: bool, apart: Apart) -> None:
        self._name, self._child, self.by_axial_slice, self._apart = name, child, by_slice, apart

    def fuse(self, a: Image, b: Image, seed: int = 0, repeats: int = 1) -> tuple[Image, Cost]:
        size = 4 * a.size
        into = _memory(size)
        try:
            fds = [*self._apart.inputs(a, b), into]
            cost = _cost(self._child.do("fuse", ("fuse", a.shape, seed, repeats), fds, repeats))
            # Copied before it is looked at: who can still write to it may not change it behind the check.
            return in_range(self._name, _read_array(into, a.shape)), cost
        finally:
            os.close(into)


def _cost(answer: dict[str, Any]) -> Cost:
    try:
        gpu = answer["gpu_memory_mb"]
        seconds = [float(s) for s in answer["seconds"]]
        return Cost(seconds, float(answer["memory_mb"]), None if gpu is None else float(gpu))
    except (KeyError, TypeError, ValueError):
        raise TaskEnded("error", "fusing wrote to the engine's own connection") from None


def rss_mb(pid: int) -> float:
    """Resident memory of a process; 0 where it is gone."""
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those of these; none where the system does not tell."""
    found, todo = list[int](), [pid]
    while todo:
        with contextlib.suppress(OSError):
            for listed in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
                new = [int(child) for child in listed.read_text().split()]
                found += new
                todo += new
    return found


def _pss_mb(pid: int) -> float:
    """Memory of a process, with its share of what it has in common with others."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return rss_mb(pid)


def _is_dead(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.Error:
        return True


def _read(message: bytes) -> dict[str, Any]:
    try:
        found = json.loads(message)
    except ValueError:
        raise Garbled("not JSON") from None
    if not isinstance(found, dict):
        raise Garbled("not a message")
    return found


def _memory(size: int) -> int:
    """Descriptor of shared memory of a fixed size."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("fusebench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        # Nobody may make it smaller under the reader's feet.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return fd
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), size)
        return os.dup(file.fileno())


def _read_array(fd: int, shape: tuple[int, ...]) -> Image:
    """An array of shared memory."""
    array = np.empty(shape, np.float32)
    left, at = array.reshape(-1).data.cast("B"), 0
    while left:
        count = os.preadv(fd, [left], at)
        if not count:
            raise TaskEnded("error", "fusing cut the engine's own memory short")
        left, at = left[count:], at + count
    return array


def _shared(array: Image) -> int:
    """Descriptor of a copy that nobody can write to any more."""
    array = np.ascontiguousarray(array, np.float32)
    fd = _memory(array.nbytes)
    write_all(fd, array)
    if hasattr(fcntl, "F_SEAL_WRITE"):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    return fd
