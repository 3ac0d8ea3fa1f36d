"""A child at work, as its parent sees it: what it says, its time, its memory, its end."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..limits import oom_kills
from ..text import printable
from .fusing import Killed, TaskEnded
from .link import Garbled
from .memory import give_back_memory
from .nursery import Nursery
from .worker import KILLED, how_it_ended

if TYPE_CHECKING:
    from ..store.rows import Status

POLL_SECONDS = 0.1
_READ_LIMIT = 30.0  # seconds for a message that has been announced
_LAST_BREATH = 2.0  # seconds in which a child that closed its link says how it ended
_WORDS = {
    "import": "importing the plugin",
    "setup": "setting up the method",
    "fuse": "fusing",
    "load": "loading the case",
    "score": "scoring",
}


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
                    if "stage" in found:
                        stage, since = _next(stage, found["stage"]), time.monotonic()
                        continue
                    if "reason" in found:
                        status: Status = "oom" if found.get("status") == "oom" else "error"
                        raise TaskEnded(status, printable(str(found["reason"]))[:600])
                    return found
                self._check(stage, since, repeats)
        except Garbled:
            raise self.garbled(stage) from None
        except (EOFError, OSError):
            raise self._lost() from None

    def sent(self) -> int:
        """A descriptor that came along with an answer; the caller closes it."""
        if not self._link.fds:
            raise self.garbled("load")
        return self._link.fds.pop(0)

    def rest(self) -> bytes:
        """The message that follows what `do` returned."""
        try:
            content = self._link.receive(_READ_LIMIT)
        except (EOFError, OSError):
            content = None
        if content is None:
            raise self._lost()
        return content

    def garbled(self, stage: str) -> TaskEnded:
        """End it: what it says is not what the engine's own code does."""
        self.end()
        return TaskEnded("error", f"{_WORDS[stage]} wrote to the engine's own connection; stopped")

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


def _next(stage: str, said: object) -> str:
    """The stage that follows the import of a plugin; anything else is no message of ours."""
    if stage != "import" or said not in ("setup", "load", "score"):
        raise Garbled("no stage follows that")
    return str(said)


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
    except (ValueError, RecursionError):
        raise Garbled("not JSON") from None
    if not isinstance(found, dict):
        raise Garbled("not a message")
    return found
