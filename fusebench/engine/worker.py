"""Worker process: runs tasks one after the other, so that a crash, hang or leak costs one task.

`IsolatedWorker` is the parent's side; ``start_worker.py`` runs `main`, the worker's.  A worker loads cases,
scores and stores; questions and methods are for children of its own (`fusebench.engine.apart`).
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
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from ..errors import FuseBenchError, WorkerDied
from ..registry import module_from_path, module_name
from ..text import printable
from .link import Garbled, Link

if TYPE_CHECKING:
    from ..case import Case
    from ..store.rows import Row, Status
    from .spec import Task

POLL_SECONDS = 0.1
START_SECONDS = 300.0  # for a worker to import torch, on a busy machine with a slow disk
STOP_SECONDS = 5.0  # for the processes of a worker to end with it
LEAST_SECONDS = 10.0  # for a stage that is not a fuse, however short --timeout is
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# Stages that the parent times, and what a row says of them.  A child is timed by its worker.
_STAGES = {
    "clear": "clearing up after the task before",
    "unpack": "importing the plugin of the dataset",
    "load": "loading the case",
    "fuse": "fusing",
    "score": "scoring",
    "store": "storing the volume",
}


def stage_seconds(timeout: float | None) -> float | None:
    """Limit for a stage that is not a fuse, by the limit for a fuse; None for none."""
    return max(timeout, LEAST_SECONDS) if timeout else None


class IsolatedWorker:
    """A worker process that runs one task at a time; started on first use and again after a death.

    Parameters
    ----------
    threads : int
        Threads for torch and BLAS.
    memory_mb : float, optional
        Resident memory above which the worker, or a method in it, is stopped.
    """

    def __init__(self, threads: int = 1, memory_mb: float | None = None) -> None:
        self.threads, self.memory_mb = threads, memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link
        self._said: threading.Thread
        self._ready = False
        self._patience: float | None = None
        self._asked = 0  # messages sent, by which answers are known

    def ask(self, question: Callable[[], Any], seconds: float | None = None) -> Link:
        """Have the worker find out what `question` returns; `answer` is due when the link is readable.

        Parameters
        ----------
        seconds : float, optional
            For the answer.
        """
        # The worker keeps the time; this is for one that does not get to it.
        self._patience = START_SECONDS + seconds if seconds else None
        self._send("ask", pickle.dumps(question), seconds)
        return self._link

    def answer(self) -> Any:
        """What the question asked last returned.

        Raises
        ------
        FuseBenchError
            As the question raised it.
        WorkerDied
            Finding it out ended the process that did, or took too long.
        """
        try:
            while True:
                message = self._link.receive(self._patience)
                if message is None:
                    self.stop()
                    raise WorkerDied(f"no answer in {self._patience:g} s (--timeout)")
                kind, *content = pickle.loads(message)
                self._ready = True  # whatever it says, it runs: its stages have their own limits from now on
                if kind == "answer" and content[0] == self._asked:
                    break
        except (EOFError, OSError):
            raise WorkerDied(self._post_mortem()[1]) from None
        try:
            answer = pickle.loads(content[1])
        except Exception as error:  # an object of a plugin's own, which this process does not import
            raise WorkerDied(f"its answer cannot be read: {type(error).__name__}: {error}") from None
        if isinstance(answer, FuseBenchError):
            raise answer
        return answer

    def run(self, task: Task, upcoming: Case | None = None) -> list[Row]:
        """Rows of `task`, one for each of its scores; what is lost on the way gives rows that say so.

        Parameters
        ----------
        upcoming : Case, optional
            Loaded in the background while this task fuses.
        """
        try:
            self._send("task", pack(task, upcoming), self.memory_mb)
            return complete(task, self._wait(task))
        except Garbled:
            self.stop()
            return task.failed("error", "the worker's answer is no message: something wrote to its pipe")
        except (EOFError, OSError):
            return task.failed(*self._post_mortem())

    def _send(self, *message: Any) -> None:
        self.start()
        self._asked += 1
        # A worker that is dead already says so when it is listened to.
        with contextlib.suppress(OSError):
            self._link.send(pickle.dumps((self._asked, *message)))

    def _wait(self, task: Task) -> list[Row]:
        assert self._process is not None
        watched = psutil.Process(self._process.pid)
        stage, since = "clear", time.monotonic()
        other = stage_seconds(task.timeout)
        fuse = task.timeout * max(1, task.repeats) if task.timeout else None
        while True:
            message = self._link.receive(POLL_SECONDS)
            if message is not None:
                kind, *content = pickle.loads(message)
                if kind == "ready":
                    self._ready, since = True, time.monotonic()
                elif kind == "stage":
                    stage, since = content[0], time.monotonic()
                elif kind == "rows" and content[0] == self._asked:
                    rows: list[Row] = content[1]
                    return rows
                continue
            if self._process.poll() is not None:
                raise EOFError
            limit = fuse if stage == "fuse" else other if stage in _STAGES else None
            if not self._ready:
                limit = START_SECONDS
            if limit and time.monotonic() - since > limit:
                self.stop()
                what = _STAGES[stage] if self._ready else "starting a worker"
                return task.failed("timeout", f"{what} took over {limit:g} s (--timeout)")
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
        self.stop()
        return how_it_ended(code)

    def start(self) -> None:
        """Start the worker, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._link, theirs = Link.pair()
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(self.threads))}
        # An empty entry is the working folder, whose files are not to stand for the standard library's.
        paths = [path for path in environment.pop("PYTHONPATH", "").split(os.pathsep) if path]
        if paths:
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        script = Path(__file__).with_name("start_worker.py")
        self._process = subprocess.Popen(
            # -P: nor are those beside the script.
            [sys.executable, "-P", str(script), str(theirs.fileno()), str(self.threads)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        theirs.close()
        self._ready = False
        assert self._process.stderr is not None
        self._said = threading.Thread(target=_pass_on, args=(self._process.stderr,), daemon=True)
        self._said.start()

    def stop(self) -> None:
        """Kill the worker, if there is one, and wait until all that it started has ended."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._link.close()
        self._said.join(STOP_SECONDS)  # they all hold the other end of what it listens to


def complete(task: Task, rows: Iterable[Row]) -> list[Row]:
    """Those of `rows` that are of `task`, one for each of its scores; a missing one is an error row."""
    made = {(row.protocol, row.metric): row for row in rows if row.key and _is_of(task, row)}
    return [
        made.get((score.protocol, score.metric)) or lost
        for score, lost in zip(
            task.scores, task.failed("error", "the worker gave no result for it"), strict=True
        )
    ]


def _is_of(task: Task, row: Row) -> bool:
    return (row.method, row.dataset, row.case) == (task.method.name, task.case.dataset, task.case.id)


def how_it_ended(code: int) -> tuple[Status, str]:
    """Status and reason of the rows of a process that ended with `code`."""
    if code == -signal.SIGKILL:
        return "oom", "the worker was killed (SIGKILL), most likely for lack of memory"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            name = f"signal {-code}"
        return "error", f"the worker died of {name}"
    return "error", f"the worker exited with code {code}"


def _pass_on(stream: IO[bytes]) -> None:
    """Pass on what a worker and its plugins print, without what would steer the terminal."""
    with stream:
        for line in iter(lambda: stream.readline(4096), b""):
            with contextlib.suppress(OSError, ValueError, AttributeError):  # where stderr is closed
                sys.stderr.write(printable(line.decode(errors="replace"), keep="\n\t"))
                sys.stderr.flush()


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


def main(fd: int, threads: int) -> None:
    """Run what comes by the link, and answer on it, until the parent closes it."""
    from .nursery import die_with_parent

    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(2, 1)  # what a plugin prints must not mix with the parent's output
    os.set_inheritable(fd, False)
    link = Link.of(fd)

    gc.disable()  # nothing that an import makes is garbage, and looking for it takes a tenth of the time
    import torch

    from .apart import Apart
    from .fusing import TaskEnded
    from .memory import give_back_memory
    from .task import TaskRunner

    gc.freeze()
    gc.enable()
    apart = Apart([fd], threads)  # before there is a thread, and before any plugin's code
    torch.set_num_threads(threads)
    cases, settle = _Cases(), _Settling()

    def say(*message: Any) -> None:
        link.send(pickle.dumps(message))

    def stage(name: str) -> None:
        say("stage", name)

    runner = TaskRunner(stage, apart)
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
        task, upcoming = unpack(content)
        stage("load")
        if upcoming is not None:
            cases.get(task.case)
            cases.prefetch(upcoming)
        case, load_seconds = cases.get(task.case)
        say("rows", number, runner.run(replace(task, case=case), load_seconds, limit))
        settle()
        give_back_memory()  # while the parent finds the next task; then there is less to do before its fuse
