"""Runs tasks on this machine's cores and hands back rows as they come."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import psutil

from .case import Case
from .plan import Task
from .results import Row
from .worker import IsolatedWorker

Result = tuple[Task, list[Row]]


class CaseQueue:
    """Tasks grouped by case: a worker stays with its case, so that each case is loaded once."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._cases: dict[tuple[str, str], deque[Task]] = {}
        for task in tasks:
            self._cases.setdefault((task.case.dataset, task.case.id), deque()).append(task)
        self._taken: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def take(self, current: Case | None) -> tuple[Task, Case | None] | None:
        """Next task for a worker whose last case was `current`, and the case it will need after it."""
        with self._lock:
            key = (current.dataset, current.id) if current else None
            if key not in self._cases:
                fresh = [k for k in self._cases if k not in self._taken]
                # Nothing untouched is left: help with the case that has most left to do.
                key = fresh[0] if fresh else max(self._cases, key=lambda k: len(self._cases[k]), default=None)
            if key is None:
                return None
            self._taken.add(key)
            tasks = self._cases[key]
            task = tasks.popleft()
            upcoming = None
            if not tasks:
                del self._cases[key]
                ahead = next((k for k in self._cases if k not in self._taken), None)
                upcoming = self._cases[ahead][0].case if ahead else None
            return task, upcoming


def run_local(
    tasks: Sequence[Task], jobs: int, threads: int = 1, memory_mb: float | None = None
) -> Iterator[Result]:
    """Run tasks in `jobs` worker processes; yields (task, rows) in order of completion.

    Parameters
    ----------
    threads : int
        Threads per worker.  Values do not depend on `jobs`; they may differ in the last bits between
        thread counts.
    memory_mb : float, optional
        Resident memory limit per worker.
    """
    waiting = CaseQueue(tasks)
    results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
    workers = [IsolatedWorker(threads, memory_mb) for _ in range(max(1, min(jobs, len(tasks))))]
    stopped = threading.Event()

    def serve(worker: IsolatedWorker) -> None:
        current: Case | None = None
        try:
            while not stopped.is_set() and (taken := waiting.take(current)) is not None:
                task, upcoming = taken
                current = task.case
                results.put((task, worker.run(task, upcoming)))
        # A fault of the engine itself must reach the caller, not die with its thread.
        except BaseException as error:
            results.put(error)

    servers = [threading.Thread(target=serve, args=(w,), daemon=True) for w in workers]
    for server in servers:
        server.start()
    try:
        for _ in tasks:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        stopped.set()
        for worker in workers:
            worker.stop()


def run_here(tasks: Iterable[Task]) -> Iterator[Result]:
    """Run tasks in this process, one after the other: for a debugger, without isolation or time-outs."""
    from .task import TaskRunner

    runner = TaskRunner()
    for task in tasks:
        yield task, runner.run(task)


def default_jobs(device: str) -> int:
    """One worker per core; one per accelerator."""
    return 1 if device.startswith("cuda") else psutil.cpu_count(logical=False) or 1


def default_memory_mb(jobs: int) -> float:
    """Nine tenths of the machine's memory, shared by the workers."""
    return 0.9 * float(psutil.virtual_memory().total) / 2**20 / jobs
