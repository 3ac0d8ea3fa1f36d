"""Runs tasks on Dask: a local cluster, or any scheduler (dask-jobqueue, Kubernetes, `dask worker`).

Tasks carry paths and parameters, not volumes.  Every thread of a Dask worker runs its tasks in a
child process of its own (`IsolatedWorker`), so that time-outs, crashes and memory limits give the same rows
as on one machine.
"""

from __future__ import annotations

import logging
import threading
from asyncio import CancelledError as AsyncCancelled
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..store.rows import Row
from ..text import describe
from .pace import Pace
from .parcel import Parcel, pack, unpack
from .pool import Result
from .spec import Task
from .worker import IsolatedWorker, complete

if TYPE_CHECKING:
    from distributed import Client

# Tasks sent ahead per worker thread: enough to hide the round trip, few enough to keep memory flat.
AHEAD = 3
CONNECT_SECONDS = 30


def run_dask(
    tasks: Sequence[Task],
    scheduler: str | None = None,
    jobs: int = 1,
    threads: int = 1,
    memory_mb: float | None = None,
    pace: Pace | None = None,
) -> Iterator[Result]:
    """Run tasks on Dask workers; yields (task, rows) in order of completion.

    Parameters
    ----------
    scheduler : str, optional
        ``tcp://host:port`` of a running scheduler; None starts a local cluster of `jobs` workers.
    threads, memory_mb
        As of `LocalPool`, per child process.
    pace : Pace, optional
        As of `LocalPool.run`; tasks go out in the order in which they are given.

    Raises
    ------
    InputError
        Dask is not installed, or the scheduler does not answer.
    """
    try:
        with _silent():
            yield from _run(tasks, scheduler, jobs, threads, memory_mb, pace or Pace())
    except (OSError, CancelledError, AsyncCancelled) as error:
        raise InputError(
            f"the Dask scheduler went away ({type(error).__name__}); what was stored is kept: "
            "run the same command to go on"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep to itself what Dask logs of a lost connection, with tracebacks: one line of ours says it."""
    with suppress(ImportError):  # said below
        import distributed  # noqa: F401 - sets the levels of its loggers when it is imported
    loggers = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n.startswith("distributed")]
    before = [(logger, logger.level) for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in before:
            logger.setLevel(level)


def _run(
    tasks: Sequence[Task],
    scheduler: str | None,
    jobs: int,
    threads: int,
    memory_mb: float | None,
    pace: Pace,
) -> Iterator[Result]:
    with _client(scheduler, jobs) as client:
        from distributed import as_completed

        waiting = deque(tasks)
        submitted: dict[Any, Task] = {}

        def submit() -> Any:
            task = waiting.popleft()
            # pure=False: a resumed client must not be handed a result that a broken run left behind.
            future = client.submit(run_isolated, pack(pace.limited(task)), threads, memory_mb, pure=False)
            submitted[future.key] = task
            return future

        pace.workers = max(1, sum(client.nthreads().values()))
        slots = pace.workers * AHEAD
        completed = as_completed([submit() for _ in range(min(slots, len(waiting)))])
        for future in completed:
            task = submitted.pop(future.key)
            if future.status in ("lost", "cancelled"):  # with the scheduler that knew it
                raise CancelledError
            rows = complete(task, _rows(future, task))
            future.release()
            pace.took(task, None, rows)  # when it was begun only the scheduler knows
            if waiting:
                completed.add(submit())
            yield task, rows


def _rows(future: Any, task: Task) -> list[Row]:
    if future.status == "finished":
        rows: list[Row] = future.result()
        return rows
    return task.failed("error", f"Dask gave the task up: {describe(future.exception())}")


@contextmanager
def _client(scheduler: str | None, jobs: int) -> Iterator[Client]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise InputError("--executor dask needs Dask: pip install 'fusebench[dask]'") from None
    if scheduler is None:
        with (
            LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no scheduler with workers answers in {CONNECT_SECONDS} s ({error})"
        ) from None
    with client:
        yield client


# A Dask worker runs a task on each of its threads at once; a child takes one at a time.
_mine = threading.local()


def run_isolated(parcel: Parcel, threads: int, memory_mb: float | None) -> list[Row]:
    """Run one task in the child process of this thread of a Dask worker, which is started once and kept."""
    if not hasattr(_mine, "child"):
        _mine.child = IsolatedWorker(threads, memory_mb)
    rows: list[Row] = _mine.child.run(unpack(parcel)[0])
    return rows
