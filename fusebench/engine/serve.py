"""A worker's own side: loads cases, scores, stores, and answers its parent (`fusebench.engine.worker`)."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import WorkerDied
from ..text import describe
from .link import Link
from .note import Note
from .parcel import Parcel, Sealed, unpack

if TYPE_CHECKING:
    from ..case import Case
    from .apart import Apart
    from .spec import Task


class _Cases:
    """Keeps the current case and loads the next one in the background.

    A sealed one, which a plugin loads, is loaded in a child when it is wanted.
    """

    def __init__(self, apart: Apart) -> None:
        self._apart = apart
        self._loads: dict[tuple[str, str], Future[tuple[Case, float]]] = {}
        self._pool = ThreadPoolExecutor(1)

    def get(self, task: Task, memory_mb: float | None) -> tuple[Case, float]:
        """The task's case, loaded, and the seconds that it took.

        Raises
        ------
        InputError, TaskEnded
            As of `Apart.load`.
        """
        case = task.case
        if not isinstance(case.loader, Sealed):
            self.prefetch(case)
        elif (case.dataset, case.id) not in self._loads:
            begin = time.perf_counter()
            loaded = self._apart.load(task, memory_mb)
            self._hold(case, Future())
            self._loads[case.dataset, case.id].set_result((loaded, time.perf_counter() - begin))
        return self._loads[case.dataset, case.id].result()

    def prefetch(self, case: Case) -> None:
        """Begin to load a case, unless a plugin does it."""
        if (case.dataset, case.id) not in self._loads and not isinstance(case.loader, Sealed):
            self._hold(case, self._pool.submit(_load, case))

    def _hold(self, case: Case, loading: Future[tuple[Case, float]]) -> None:
        self._loads = dict(list(self._loads.items())[-1:])
        self._loads[case.dataset, case.id] = loading


def _load(case: Case) -> tuple[Case, float]:
    begin = time.perf_counter()
    # The task says what is wrong with an unreadable case; here it only has to not be loaded.
    with contextlib.suppress(BaseException):
        case.load()
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


def main(fd: int, note_fd: int, threads: int) -> None:
    """Run what comes by the link, and answer on it, until the parent closes it."""
    from .nursery import NurseryLost

    try:
        _serve(fd, note_fd, threads)
    except NurseryLost:  # a plugin has ended it: without one nothing can be run here
        os._exit(1)


def _serve(fd: int, note_fd: int, threads: int) -> None:
    from .nursery import adopt_orphans, die_with_parent

    die_with_parent()
    adopt_orphans()
    os.dup2(2, 1)  # what a plugin prints must not mix with the parent's output
    for number in (fd, note_fd):
        os.set_inheritable(number, False)
    link = Link.of(fd)

    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a tenth of the time
    import torch

    from .apart import Apart
    from .fusing import TaskEnded, status_of
    from .keeper import Unrestored
    from .memory import settle
    from .task import TaskRunner

    gc.freeze()
    gc.enable()
    apart = Apart([fd, note_fd], threads)  # before there is a thread, and before any plugin's code
    note, mine = Note(note_fd), os.getpid()
    torch.set_num_threads(threads)
    freeze = _Settling()

    def stay_one() -> None:
        if os.getpid() != mine:  # a metric or a dataset has forked and let its child return
            os._exit(0)

    def say(*message: Any) -> None:
        stay_one()
        try:
            link.send(pickle.dumps(message))
        except OSError:  # somebody has closed it
            os._exit(1)

    def take_note(text: str) -> None:
        stay_one()
        try:
            os.fstat(fd)
        except OSError:  # closed by the metric that the note still names
            os._exit(1)
        note.write(text)

    def stage(name: str) -> None:
        say("stage", name)

    def unpack_kept(parcel: Parcel) -> tuple[Task, Case | None]:
        if not parcel[0]:  # no plugin is imported
            return unpack(parcel)
        with runner.world.kept() as left:
            found = unpack(parcel)
        sys.path[:] = left.get("sys.path", sys.path)  # from where a dataset may import more
        return found

    runner = TaskRunner(stage, apart, take_note)
    cases = _Cases(apart)
    say("ready")
    while True:
        try:
            number, kind, content, limit = pickle.loads(link.receive() or b"")
        except EOFError:
            apart.close()
            return
        if kind == "ask":
            try:
                answer = apart.ask(content, limit)
            except TaskEnded as death:
                answer = pickle.dumps(WorkerDied(str(death)))
            say("answer", number, answer)
            continue
        stage("unpack")
        try:
            task, upcoming = unpack_kept(content)
        except Exception as error:
            reason = f"cannot be made in a worker: {describe(error)}; loaders are functions of a module"
            say("unread", number, f"the case {reason}")
            if isinstance(error, Unrestored):
                os._exit(0)
            continue
        stage("apart" if isinstance(task.case.loader, Sealed) else "load")
        try:
            if upcoming is not None:
                cases.prefetch(task.case)
                cases.prefetch(upcoming)
            case, load_seconds = cases.get(task, limit)
        except Exception as error:
            say("rows", number, task.failed(status_of(error), describe(error)))
            continue
        say("rows", number, runner.run(replace(task, case=case), load_seconds, limit))
        if runner.spoilt:
            os._exit(0)  # another worker takes the next task
        freeze()
        settle(limit)
