"""Worker process: runs tasks one after the other, so that a crash, hang or leak costs one task.

`IsolatedWorker` is the parent's side; the worker's own is `fusebench.engine.serve`.  A worker loads cases,
scores and stores; questions and methods are for children of its own (`fusebench.engine.apart`).
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import psutil

from ..errors import FuseBenchError, WorkerDied
from ..limits import oom_kills
from ..text import describe, printable
from .link import Garbled, Link
from .note import Note
from .parcel import pack

if TYPE_CHECKING:
    from ..case import Case
    from ..store.rows import Row, Status
    from .spec import Score, Task

POLL_SECONDS = 0.1
START_SECONDS = 300.0  # for a worker to import torch, on a busy machine with a slow disk
END_SECONDS = 2.0  # for what a worker started to end with it
STOP_SECONDS = 5.0  # for the processes of a worker to end with it
LEAST_SECONDS = 10.0  # for a stage that is not a fuse, however short --timeout is
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# glibc gives every large array back to the system, and the page faults of the next one take as long as the
# arithmetic on it; a worker ends soon.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),  # the most that glibc takes
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
KILLED = "the worker was killed (SIGKILL) by another process"  # where memory was not what lacked
LEFT_OUT = 3  # of a task, metrics that end the worker one after the other
# Stages, and what a row says of those that take too long.  A child ("apart") is timed by its worker; the
# parent's limit is for a worker that does not get to it.
_STAGES = {
    "clear": "clearing up after the task before",
    "unpack": "importing the plugin of the dataset",
    "load": "loading the case",
    "fuse": "fusing",
    "apart": "the work of a child",
    "score": "scoring",
    "store": "storing the volume",
}


class _Lost(Exception):
    """A worker gave no rows: status and reason.

    `deadly` where it may give them when it is asked again.
    """

    def __init__(self, status: Status, reason: str, *, deadly: bool = True) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason, self.deadly = reason, deadly


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
        self._note: Note
        self._said: threading.Thread
        self._ready = False
        self._patience: float | None = None
        self._asked = 0  # messages sent, by which answers are known
        self._kills = 0

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

        A metric that hangs or ends the worker costs its own row only.  A worker that ends in another way may
        have been ended by a stranger (a method in another worker, a system without memory): once, the task is
        run again.

        Parameters
        ----------
        upcoming : Case, optional
            Loaded in the background while this task fuses.
        """
        made: list[Row] = []
        left, guilty, again = task, 0, True
        while left.scores:
            self._blamed: Score | None = None
            try:
                return complete(task, [*made, *self._attempt(left, upcoming)])
            except _Lost as lost:
                if self._blamed is not None and guilty < LEFT_OUT:
                    guilty += 1
                    made.append(task.row(self._blamed, status=lost.status, reason=lost.reason))
                    left = replace(left, scores=tuple(s for s in left.scores if s != self._blamed))
                elif lost.deadly and again:
                    again = False
                else:
                    return complete(task, [*made, *left.failed(lost.status, lost.reason)])
        return complete(task, made)

    def _attempt(self, task: Task, upcoming: Case | None) -> list[Row]:
        try:
            parcel = pack(task, upcoming)
        except Exception as error:  # of the next case it is said when that is due
            if upcoming is not None:
                return self._attempt(task, None)
            reason = f"the task cannot be sent to a worker: {describe(error)}"
            raise _Lost("error", reason, deadly=False) from None
        try:
            self._send("task", parcel, self.memory_mb)
            return self._wait(task)
        except Garbled:
            self.stop()
            raise _Lost("error", "the worker's answer is no message: something wrote to its pipe") from None
        except (EOFError, OSError):
            self._blamed = self._at(task)
            raise _Lost(*self._post_mortem()) from None

    def _at(self, task: Task) -> Score | None:
        """The score that the worker was at."""
        text = self._note.read()
        return next((s for s in task.scores if not s.skip and f"{s.protocol} {s.metric}" == text), None)

    def _send(self, *message: Any) -> None:
        self.start()
        self._kills = oom_kills()
        self._asked += 1
        # A worker that is dead already says so when it is listened to.
        with contextlib.suppress(OSError):
            self._link.send(pickle.dumps((self._asked, *message)))

    def _wait(self, task: Task) -> list[Row]:
        assert self._process is not None
        watched = psutil.Process(self._process.pid)
        stage, since, at = "clear", time.monotonic(), ""
        limits = _limits(task)
        while True:
            message = self._link.receive(POLL_SECONDS)
            if message is not None:
                kind, *content = pickle.loads(message)
                if kind == "ready":
                    self._ready, since = True, time.monotonic()
                elif kind == "stage":
                    stage, since = content[0], time.monotonic()
                elif kind == "unread" and content[0] == self._asked:
                    raise _Lost("error", content[1], deadly=False)
                elif kind == "rows" and content[0] == self._asked:
                    rows: list[Row] = content[1]
                    return rows
                continue
            if self._process.poll() is not None:
                raise EOFError
            if stage in ("score", "apart") and at != (at := self._note.read()):
                since = time.monotonic()  # each metric has the whole limit
            limit = limits.get(stage) if self._ready else START_SECONDS
            if limit and time.monotonic() - since > limit:
                what = _STAGES[stage] if self._ready else "starting a worker"
                self._end(task, "timeout", f"{what} took over {limit:g} s (--timeout)")
            if _rss_mb(watched) > (self.memory_mb or math.inf):
                self._end(task, "oom", f"the worker exceeded {self.memory_mb:.0f} MB (--memory); stopped")

    def _end(self, task: Task, status: Status, reason: str) -> NoReturn:
        """Stop the worker at `task`, which has gone over a limit."""
        self._blamed = self._at(task)
        self.stop()
        raise _Lost(status, reason, deadly=False)

    def _post_mortem(self) -> tuple[Status, str]:
        assert self._process is not None
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.stop()
            return "error", "the worker closed its pipe and hung"
        self.stop()
        return how_it_ended(code, self._kills)

    def start(self) -> None:
        """Start the worker, unless it runs."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._link, theirs = Link.pair()
        self._note = Note()
        fds = (theirs.fileno(), self._note.fd)
        environment = {**ALLOCATOR, **os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.threads))}
        environment.setdefault("PYTHONHASHSEED", "0")  # the order of a set may be in a number
        # An empty entry is the working folder, whose files are not to stand for the standard library's.
        paths = [path for path in environment.pop("PYTHONPATH", "").split(os.pathsep) if path]
        if paths:
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        script = Path(__file__).with_name("start_worker.py")
        self._process = subprocess.Popen(
            # -P: nor are those beside the script.
            [sys.executable, "-P", str(script), *map(str, fds), str(self.threads)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            process_group=0,  # what a plugin does to its process group does not reach the run
        )
        theirs.close()
        self._ready = False
        assert self._process.stderr is not None
        self._said = threading.Thread(target=_pass_on, args=(self._process.stderr,), daemon=True)
        self._said.start()

    def stop(self) -> None:
        """Kill the worker, if there is one, and wait until all that it started has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        link, note, said = self._link, self._note, self._said  # another thread may start the next worker now
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        link.close()
        note.close()
        # The nursery ends its own; what a metric or a loader has started does not.
        for left in psutil.wait_procs(family, timeout=END_SECONDS)[1]:
            with contextlib.suppress(psutil.Error):
                left.kill()
        said.join(STOP_SECONDS)  # they all hold the other end of what it listens to


def _limits(task: Task) -> dict[str, float]:
    """Seconds for each stage of a task; none where its fuse has no limit."""
    other = stage_seconds(task.timeout)
    if not other or not task.timeout:
        return {}
    fuse = task.timeout * max(1, task.repeats)
    # A child is forked, which may wait behind imports, makes the method, sets it up, and fuses.
    return {**dict.fromkeys(_STAGES, other), "fuse": fuse, "apart": START_SECONDS + 2 * other + fuse}


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


def how_it_ended(code: int, kills: int) -> tuple[Status, str]:
    """Status and reason of the rows of a process that ended with `code`.

    Parameters
    ----------
    kills : int
        `oom_kills` before.
    """
    if code == -signal.SIGKILL:
        if oom_kills() == kills:  # anybody can have done it
            return "error", KILLED
        return (
            "oom",
            "the worker was killed (SIGKILL), most likely for lack of memory: the system ran out of it",
        )
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


def _rss_mb(process: psutil.Process) -> float:
    """Resident memory of a worker, which goes on where it was stopped: by a method, say."""
    try:
        if process.status() == psutil.STATUS_STOPPED:
            process.resume()
        return float(process.memory_info().rss) / 2**20
    except psutil.Error:
        return 0.0
