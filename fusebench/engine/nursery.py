"""A process that does nothing but fork: every child of it begins in the same clean state.

It is forked from a worker that has imported torch and run no plugin's code, and never runs any itself: what
a plugin changes (patched functions, settings, threads, files, processes of its own) ends with its child.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from ..plugins import find_plugins
from .link import Garbled, Link

# prctl: die with the parent; adopt orphans, so that they can be ended.
_PDEATHSIG, _SUBREAPER = 1, 36
_PATIENCE = 300.0  # seconds for a fork that waits behind an import
_LOOKS = 1.0  # seconds between looks at whether it goes on
_SOON = 0.05  # seconds from one task's end to the next one's child
_ROUNDS = 1000  # of ending processes that start others


class NurseryLost(BaseException):
    """The nursery is gone or hangs: nothing more can be run from here."""


class Nursery:
    """The parent's side: starts children, ends them with all that they started.

    Parameters
    ----------
    live : callable
        What a child does with its end of the link; it never returns.
    inherited : sequence of int
        File descriptors that are this process's own.
    """

    def __init__(self, live: Callable[[Link], None], inherited: Sequence[int] = ()) -> None:
        self._link, theirs = Link.pair()
        self.pid = os.fork()
        if not self.pid:
            self._link.close()
            for fd in inherited:
                os.close(fd)
            _run(_Keeper(theirs, live).keep)
        theirs.close()

    def child(self) -> tuple[int, Link]:
        """Process id of a new child, and the link to it."""
        (pid,) = self._told("child")
        return int(pid), Link.of(self._link.fds.pop(0))

    def end(self, pid: int) -> int:
        """End a child and every process that it started; its exit code, negative for a signal."""
        (code,) = self._told("end", pid)
        return int(code)

    def forget(self, pid: int) -> None:
        """As `end`, without waiting for it."""
        self._tell("forget", pid)

    def prepare(self, plugins: Sequence[str], modules: Sequence[str] = ()) -> None:
        """Find `plugins` and import library `modules`, so that no child has to."""
        self._tell("prepare", plugins, modules)

    def close(self) -> None:
        """End all of it, and wait."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
        self._link.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _tell(self, *words: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)  # a child may have stopped it
        try:
            self._link.send(json.dumps(words).encode())
        except OSError:
            raise NurseryLost from None

    def _told(self, *words: object) -> list[Any]:
        self._tell(*words)
        answer, end = None, time.monotonic() + _PATIENCE
        while answer is None:
            if time.monotonic() > end:
                raise NurseryLost
            try:
                answer = self._link.receive(_LOOKS)
                os.kill(self.pid, signal.SIGCONT)  # a process that a child left behind may stop it again
            except (EOFError, OSError):
                raise NurseryLost from None
        found: list[Any] = json.loads(answer)
        return found


class _Keeper:
    """The nursery's own side."""

    def __init__(self, link: Link, live: Callable[[Link], None]) -> None:
        self._link, self._live = link, live
        self._spare: tuple[int, Link] | None = None  # forked while the last child was at work

    def keep(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        prctl(_PDEATHSIG, signal.SIGCONT)  # stopped by a child, it would not see that the worker has gone
        adopt_orphans()
        try:
            while True:
                operation, *given = json.loads(self._link.receive() or b"")
                getattr(self, f"_{operation}")(*given)
        finally:  # the worker has gone
            end_all()

    def _child(self) -> None:
        pid, link = self._spare or self._fork()
        self._link.send(json.dumps([pid]).encode(), [link.fileno()])
        link.close()
        end_all(spared={pid})  # what the children before have left behind
        self._spare = self._fork()

    def _end(self, pid: int) -> None:
        self._kill(pid)
        _, status = os.waitpid(pid, 0)
        self._clear()
        self._link.send(json.dumps([os.waitstatus_to_exitcode(status)]).encode())

    def _forget(self, pid: int) -> None:
        self._kill(pid)
        # What is left of it is cleared away when the next child has begun, if that is asked for now.
        if not self._link.waits(_SOON):
            self._clear()

    def _clear(self) -> None:
        """End everything but the spare child."""
        end_all(spared={self._spare[0]} if self._spare else ())

    @staticmethod
    def _kill(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)

    def _prepare(self, plugins: Sequence[str], modules: Sequence[str]) -> None:
        if self._spare is not None:
            self._spare[1].close()
            self._spare = None
            end_all()
        with contextlib.suppress(Exception):  # who needs them will say what is wrong
            find_plugins(tuple(plugins))
        for name in modules:
            if name not in sys.modules:
                with contextlib.suppress(Exception):
                    importlib.import_module(name)

    def _fork(self) -> tuple[int, Link]:
        ours, theirs = Link.pair()
        mine = os.getpid()
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            for ended in (signal.SIGTERM, signal.SIGHUP):  # only the worker passes them over
                if callable(signal.getsignal(ended)):
                    signal.signal(ended, signal.SIG_DFL)
            prctl(_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != mine:
                os._exit(1)
            ours.close()
            self._link.close()
            with contextlib.suppress(OSError):  # where memory runs out this is what is to go
                Path("/proc/self/oom_score_adj").write_text("800")
            _run(lambda: self._live(theirs))
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        theirs.close()
        return pid, ours


def _run(body: Callable[[], None]) -> None:
    """End this process when `body` does, running nothing that belongs to the process it is a copy of."""
    code = 1
    try:
        body()
        code = 0
    except (EOFError, ConnectionError, Garbled):  # the other end has gone, or is not the engine
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code & 255)


def end_all(spared: Collection[int] = ()) -> None:
    """End every child of this process but those `spared`, and theirs that come to it."""
    for _ in range(_ROUNDS):
        left = [child for child in _children() if child not in spared]
        for child in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        if not left:
            return
        for child in left:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)


def _children() -> list[int]:
    """Those of this process, ended ones that nobody has waited for as well."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:  # another system, or a kernel without the list
        import psutil

        return [child.pid for child in psutil.Process().children()]


def prctl(option: int, value: int) -> None:
    """Call Linux's `prctl`; nothing elsewhere."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def adopt_orphans() -> None:
    """Make what this process's children leave behind its own, so that it can be found and ended."""
    prctl(_SUBREAPER, 1)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed run leaves nothing behind."""
    prctl(_PDEATHSIG, signal.SIGKILL)
