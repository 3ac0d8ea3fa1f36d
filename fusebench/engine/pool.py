"""Runs tasks on this machine's cores and hands back rows as they come."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..limits import usable_cores, usable_memory_mb
from .worker import IsolatedWorker, complete

if TYPE_CHECKING:  # workers are to start before this process imports anything else
    from ..case import Case
    from ..store.rows import Row
    from .spec import Task

Result = tuple["Task", "list[Row]"]
Key = tuple[str, str]
T = TypeVar("T")

# The next case is loaded while this many tasks of the current one are left.
ANNOUNCED = 3


class CaseQueue:
    """Tasks grouped by case: a worker stays with its case, so that each case is loaded once.

    Of a case the slowest method goes first, as far as is known, so that short tasks are left for the end
    and the workers finish together.  For the same reason a worker leaves its case, when little is left, for
    a task of another one that takes longer than a worker's share of it all.

    Parameters
    ----------
    tasks : iterable of Task
    workers : int
    """

    def __init__(self, tasks: Iterable[Task], workers: int = 1) -> None:
        self._workers = workers
        self._cases: dict[Key, list[Task]] = {}
        for task in tasks:
            self._cases.setdefault((task.case.dataset, task.case.id), []).append(task)
        self._taken: set[Key] = set()
        self._next: dict[Key, Key] = {}  # announced to the worker of a case, which loads it meanwhile
        self._seconds: dict[str, float] = {}  # by method, of its longest task
        self._lock = threading.Lock()

    def took(self, task: Task, seconds: float) -> None:
        """Note what a task took, for the order of later ones."""
        with self._lock:
            # The longest, since cases differ and a task that fails may end at once.
            self._seconds[task.method.name] = max(seconds, self._seconds.get(task.method.name, 0.0))

    def take(self, current: Case | None) -> tuple[Task, Case | None] | None:
        """Next task for a worker whose last case was `current`, and the case it will need after it."""
        with self._lock:
            key = (current.dataset, current.id) if current else None
            if key not in self._cases:
                key = self._next.pop(key, None) if key else None
            if key not in self._cases:
                # Nothing untouched is left: help with the case that has most left to do.
                key = self._fresh() or max(self._cases, key=lambda k: len(self._cases[k]), default=None)
            key = self._urgent() or key
            if key is None:
                return None
            self._taken.add(key)
            tasks = self._cases[key]
            slowest = max(range(len(tasks)), key=lambda i: self._seconds.get(tasks[i].method.name, math.inf))
            task = tasks.pop(slowest)
            if not tasks:
                del self._cases[key]
            if len(tasks) < ANNOUNCED and key not in self._next and (ahead := self._fresh()):
                self._taken.add(ahead)
                self._next[key] = ahead
            upcoming = self._cases.get(self._next[key]) if key in self._next else None
            return task, upcoming[0].case if upcoming else None

    def _urgent(self) -> Key | None:
        """Case of the longest task left, if all the others take the other workers less time than that."""
        if len(self._cases) > 2 * self._workers:
            return None
        left = [
            (self._seconds[task.method.name], key)
            for key, tasks in self._cases.items()
            for task in tasks
            if task.method.name in self._seconds
        ]
        longest, key = max(left, default=(0.0, None))
        return key if longest * self._workers > sum(seconds for seconds, _ in left) else None

    def _fresh(self) -> Key | None:
        return next((k for k in self._cases if k not in self._taken), None)


class LocalPool:
    """Worker processes of this machine, started at once, since torch takes seconds to import.

    Parameters
    ----------
    jobs : int
        Workers; with 0 questions and tasks are for this process.
    threads : int
        Threads per worker.  Values do not depend on `jobs`; they may differ in the last bits between
        thread counts.
    """

    def __init__(self, jobs: int, threads: int = 1) -> None:
        self.threads = threads
        self.workers = [IsolatedWorker(threads) for _ in range(jobs)]
        for worker in self.workers:
            worker.start()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the processes; what they were doing is lost."""
        for worker in self.workers:
            worker.stop()

    def ask(self, question: Callable[[], T], seconds: float | None = None) -> Callable[[], T]:
        """Ask every worker, so that each has imported what the question needs; the first answer counts.

        Parameters
        ----------
        seconds : float, optional
            For the answer.

        Returns
        -------
        callable
            Waits for the answer, and raises `FuseBenchError` where the question did, or `WorkerDied` where
            the process that was to answer died or took too long.
        """
        if not self.workers:
            return question
        asked = {worker.ask(question, seconds): worker for worker in self.workers}

        def answer() -> T:
            first: T = asked[wait(list(asked))[0]].answer()  # type: ignore[index, arg-type]
            return first

        return answer

    def run(self, tasks: Sequence[Task], jobs: int, memory_mb: float | None = None) -> Iterator[Result]:
        """Run tasks in `jobs` workers; yields (task, rows) in order of completion.

        Parameters
        ----------
        memory_mb : float, optional
            Resident memory limit per worker.
        """
        wanted = max(1, min(jobs, len(tasks)))
        for surplus in self.workers[wanted:]:
            surplus.stop()
        self.workers = self.workers[:wanted]
        self.workers += [IsolatedWorker(self.threads) for _ in range(wanted - len(self.workers))]
        for worker in self.workers:
            worker.memory_mb = memory_mb
        waiting = CaseQueue(tasks, wanted)
        results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        stopped = threading.Event()

        def serve(worker: IsolatedWorker) -> None:
            current: Case | None = None
            try:
                while not stopped.is_set() and (taken := waiting.take(current)) is not None:
                    task, upcoming = taken
                    current = task.case
                    begin = time.monotonic()
                    rows = worker.run(task, upcoming)
                    waiting.took(task, time.monotonic() - begin)
                    results.put((task, rows))
            # A fault of the engine itself must reach the caller, not die with its thread.
            except BaseException as error:
                results.put(error)

        for worker in self.workers:
            threading.Thread(target=serve, args=(worker,), daemon=True).start()
        try:
            for _ in tasks:
                result = results.get()
                if isinstance(result, BaseException):
                    raise result
                yield result
        finally:
            stopped.set()
            self.stop()


def run_here(tasks: Iterable[Task]) -> Iterator[Result]:
    """Run tasks in this process, one after the other: for a debugger, without isolation or time-outs."""
    from .task import TaskRunner

    runner, mine = TaskRunner(), os.getpid()
    for task in tasks:
        rows = runner.run(task)
        if os.getpid() != mine:  # a plugin has forked and let its child return
            os._exit(0)
        yield task, complete(task, rows)


def default_jobs(device: str) -> int:
    """One worker per core that this process may use; one per accelerator."""
    return 1 if device.startswith("cuda") else usable_cores()


def may_have_gpu() -> bool:
    """True if there are device files of a GPU: a hint at no cost, where asking torch takes seconds."""
    files = ("nvidiactl", "nvhost-gpu", "kfd", "dxg")
    return any(Path("/dev", name).exists() for name in files)


def default_memory_mb(jobs: int) -> float:
    """Nine tenths of the memory that this process may use, shared by the workers."""
    return 0.9 * usable_memory_mb() / jobs
