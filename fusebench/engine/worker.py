"""Worker process: runs tasks one after the other, so that a crash, hang or leak costs one task.

`IsolatedWorker` is the parent's side; ``python -m fusebench.engine.worker`` is the child's.  They speak
pickles over two pipes.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from ..errors import FuseBenchError, WorkerDied
from ..files import ROOT
from ..registry import module_from_path, module_name

if TYPE_CHECKING:
    from ..case import Case
    from ..store.rows import Row, Status
    from .spec import Task

POLL_SECONDS = 0.1
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class IsolatedWorker:
    """A child process that runs one task at a time; started on first use and again after a death.

    Parameters
    ----------
    threads : int
        Threads for torch and BLAS.
    memory_mb : float, optional
        Resident memory above which the child is stopped.
    """

    def __init__(self, threads: int = 1, memory_mb: float | None = None) -> None:
        self.threads, self.memory_mb = threads, memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0  # answers that the child has not been heard to give

    def ask(self, question: Callable[[], Any]) -> Connection:
        """Have the child call `question`; `answer` is due when the connection returned is readable."""
        self.start()
        # A child that is dead already says so in `answer`.
        with contextlib.suppress(OSError):
            self._writer.send(question)
        self._due += 1
        return self._reader

    def answer(self) -> Any:
        """What the question asked last returned.

        Raises
        ------
        FuseBenchError
            As the question raised it.
        WorkerDied
            The child died of it.
        """
        content = None
        try:
            while self._due:
                _, content = self._reader.recv()
                self._due -= 1
        except (EOFError, OSError):
            _, reason = self._post_mortem()
            raise WorkerDied(reason) from None
        if isinstance(content, FuseBenchError):
            raise content
        return content

    def run(self, task: Task, upcoming: Case | None = None) -> list[Row]:
        """Rows of `task`; a dead, hanging or oversized child gives rows that say so.

        Parameters
        ----------
        upcoming : Case, optional
            Loaded in the background while this task fuses.
        """
        self.start()
        try:
            self._writer.send(pack(task, upcoming))
            return self._wait(task)
        except (EOFError, OSError):
            return task.failed(*self._post_mortem())

    def _wait(self, task: Task) -> list[Row]:
        assert self._process is not None
        watched = psutil.Process(self._process.pid)
        fusing_since: float | None = None
        while True:
            if self._reader.poll(POLL_SECONDS):
                kind, content = self._reader.recv()
                if kind == "rows":
                    rows: list[Row] = content
                    return rows
                if kind == "answer":  # another worker gave it first
                    self._due -= 1
                else:
                    fusing_since = time.monotonic() if content == "fuse" else None
            elif self._process.poll() is not None:
                raise EOFError
            limit = task.timeout * max(1, task.repeats) if task.timeout else None
            if limit and fusing_since and time.monotonic() - fusing_since > limit:
                self.stop()
                return task.failed("timeout", f"fusing took over {limit:g} s (--timeout)")
            if self.memory_mb and _rss_mb(watched) > self.memory_mb:
                self.stop()
                return task.failed("oom", f"the worker exceeded {self.memory_mb:.0f} MB (--memory); stopped")

    def _post_mortem(self) -> tuple[Status, str]:
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.stop()
            return "error", "the worker closed its pipe and hung"
        self._process = None
        if code == -signal.SIGKILL:
            return "oom", "the worker was killed (SIGKILL), most likely for lack of memory"
        if code < 0:
            return "error", f"the worker died of {signal.Signals(-code).name}"
        return "error", f"the worker exited with code {code}"

    def start(self) -> None:
        """Start the child, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        child_reads, self_writes = os.pipe()
        self_reads, child_writes = os.pipe()
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(self.threads))}
        # Images come and go by the megabyte: huge pages spare thousands of page faults each (glibc only).
        environment.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
        root = str(ROOT)
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (root, environment.get("PYTHONPATH", "")) if p)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",  # not the modules of the folder this was started in: a random.py is the user's
                "-m",
                "fusebench.engine.worker",
                str(child_reads),
                str(child_writes),
                str(self.threads),
            ],
            pass_fds=(child_reads, child_writes),
            stdin=subprocess.DEVNULL,
            env=environment,
        )
        os.close(child_reads)
        os.close(child_writes)
        self._due = 0
        self._writer = Connection(self_writes, readable=False)
        self._reader = Connection(self_reads, writable=False)

    def stop(self) -> None:
        """Kill the child, if there is one."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._writer.close()
        self._reader.close()


Parcel = tuple[tuple[str, ...], bytes]


def pack(task: Task, upcoming: Case | None = None) -> Parcel:
    """Pickle for another process, with the plugin files that its objects may come from."""
    return task.plugins, pickle.dumps((task, upcoming))


def unpack(parcel: Parcel) -> tuple[Task, Case | None]:
    """Undo `pack`."""
    task, upcoming = _Unpickler(*parcel).load()
    return task, upcoming


class _Unpickler(pickle.Unpickler):
    """Imports a plugin file when an object of it comes along; what is not needed cannot get in the way."""

    def __init__(self, plugins: Iterable[str], content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self._files = {module_name(Path(path)): Path(path) for path in plugins}

    def find_class(self, module: str, name: str) -> Any:
        if module in self._files:
            module_from_path(self._files[module])
        return super().find_class(module, name)


def _rss_mb(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0


# -- the child's side ----------------------------------------------------------------------------


class _Cases:
    """Keeps the current case and loads the next one in the background."""

    def __init__(self) -> None:
        self._loads: dict[tuple[str, str], Future[tuple[Case, float]]] = {}
        self._pool = ThreadPoolExecutor(1)

    def get(self, case: Case) -> tuple[Case, float]:
        """Return the loaded case and the seconds that loading took."""
        return self.prefetch(case).result()

    def prefetch(self, case: Case) -> Future[tuple[Case, float]]:
        key = (case.dataset, case.id)
        if key not in self._loads:
            self._loads = dict(list(self._loads.items())[-1:])
            self._loads[key] = self._pool.submit(_load, case)
        return self._loads[key]


def _load(case: Case) -> tuple[Case, float]:
    begin = time.perf_counter()
    # The task says what is wrong with an unreadable case; here it only has to not be loaded.
    with contextlib.suppress(Exception):
        _ = case.pair
    return case, time.perf_counter() - begin


class _Settling:
    """Spares the search for garbage before every fuse what has been imported, which stays."""

    def __init__(self) -> None:
        self._modules = 0

    def __call__(self) -> None:
        """After a job: freeze what is alive, if the job imported anything."""
        if len(sys.modules) != self._modules:
            gc.collect()
            gc.freeze()
            self._modules = len(sys.modules)


def _attempt(question: Callable[[], Any]) -> Any:
    """The answer, or the error that the user is to read."""
    try:
        return question()
    except FuseBenchError as error:
        return error


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed run leaves no hanging fuse."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def main(arguments: list[str]) -> None:
    """Run tasks from one pipe, answer on the other, until the parent closes it."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    reader = Connection(int(arguments[0]), writable=False)
    writer = Connection(int(arguments[1]), readable=False)
    os.dup2(2, 1)  # what a plugin prints must not mix with the parent's output

    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a tenth of the time
    import torch

    from .memory import give_back_memory
    from .task import TaskRunner

    gc.freeze()
    gc.enable()
    torch.set_num_threads(int(arguments[2]))
    cases, settle = _Cases(), _Settling()

    def stage(name: str) -> None:
        writer.send(("stage", name))

    runner = TaskRunner(stage)
    while True:
        try:
            received = reader.recv()
        except EOFError:
            return
        if callable(received):
            writer.send(("answer", _attempt(received)))
            settle()
            continue
        task, upcoming = unpack(received)
        if upcoming is not None:
            cases.get(task.case)
            cases.prefetch(upcoming)
        case, load_seconds = cases.get(task.case)
        writer.send(("rows", runner.run(replace(task, case=case), load_seconds)))
        settle()
        give_back_memory()  # while the parent finds the next task; then there is less to do before its fuse


if __name__ == "__main__":
    main(sys.argv[1:])
