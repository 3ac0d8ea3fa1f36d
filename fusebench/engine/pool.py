"""Runs tasks on this machine's cores and hands back rows as they come."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..limits import usable_cores, usable_memory_mb
from .order import CaseQueue
from .pace import Pace
from .worker import IsolatedWorker, complete

if TYPE_CHECKING:  # workers are to start before this process imports anything else
    from ..case import Case
    from ..store.rows import Row
    from .spec import Task

Result = tuple["Task", "list[Row]"]
T = TypeVar("T")


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
            return partial(_answer_here, question)
        asked = {worker.ask(question, seconds): worker for worker in self.workers}

        def answer() -> T:
            first: T = asked[wait(list(asked))[0]].answer()  # type: ignore[index, arg-type]
            return first

        return answer

    def run(
        self, tasks: Sequence[Task], jobs: int, memory_mb: float | None = None, pace: Pace | None = None
    ) -> Iterator[Result]:
        """Run tasks in `jobs` workers; yields (task, rows) in order of completion.

        Parameters
        ----------
        memory_mb : float, optional
            Resident memory limit per worker.
        pace : Pace, optional
            That has been told of these tasks; gives their order and their time limits.
        """
        wanted = max(1, min(jobs, len(tasks)))
        for surplus in self.workers[wanted:]:
            surplus.stop()
        self.workers = self.workers[:wanted]
        self.workers += [IsolatedWorker(self.threads) for _ in range(wanted - len(self.workers))]
        for worker in self.workers:
            worker.memory_mb = memory_mb
        if pace is None:
            pace = Pace()
            pace.plan(tasks)
        pace.workers = wanted
        waiting = CaseQueue(tasks, wanted, pace)
        results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        stopped = threading.Event()

        def serve(worker: IsolatedWorker) -> None:
            current: Case | None = None
            try:
                while not stopped.is_set() and (taken := waiting.take(current)) is not None:
                    task, upcoming = taken
                    current = task.case
                    begin = time.monotonic()
                    pace.started(task)
                    rows = worker.run(pace.limited(task), upcoming)
                    pace.took(task, time.monotonic() - begin, rows)
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


def _answer_here(question: Callable[[], T]) -> T:
    """Answer in this process, which is the user's: what the import of a plugin changes in it is put back."""
    from .world import World

    with World().kept():
        return question()


def run_here(tasks: Iterable[Task], pace: Pace, threads: int = 1) -> Iterator[Result]:
    """Run tasks in this process, one after the other: for a debugger, without isolation or time-outs."""
    import torch

    from .task import TaskRunner

    runner, mine, before = TaskRunner(), os.getpid(), torch.get_num_threads()
    for task in tasks:
        begin = time.monotonic()
        pace.started(task)
        torch.set_num_threads(threads)
        try:
            rows = complete(task, runner.run(task))
        finally:
            torch.set_num_threads(before)
        if os.getpid() != mine:  # a plugin has forked and let its child return
            os._exit(0)
        pace.took(task, time.monotonic() - begin, rows)
        yield task, rows


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
