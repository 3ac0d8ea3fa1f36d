"""A time limit for what a dataset's plugin does in the process that plans a run."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import psutil

from ..errors import FuseBenchError, InputError
from ..staying import staying
from ..text import describe

_SIGN_OF_LIFE = 1 << 14  # bytes read; to find out how many takes a few hundred
LEAST_SECONDS = 30.0  # for a listing, which a cold disk makes slow, however short --timeout is


class _Overdue(BaseException):
    """Raised in what takes too long; no plugin's ``except Exception`` keeps it."""


def listing_seconds(timeout: float | None) -> float | None:
    """Limit for a stage of a dataset, by the limit for a fuse; None for none."""
    return max(timeout, LEAST_SECONDS) if timeout else None


@contextlib.contextmanager
def asking_dataset(name: str, what: str, seconds: float | None = None) -> Iterator[None]:
    """Have a plugin do `what`: a fault of its own is one line, and it may not hang.

    Time in which files are read does not count: large data are listed for as long as it takes.  Outside the
    main thread, and on Windows, there is no limit.

    Parameters
    ----------
    name : str
        Of the dataset.
    what : str
        For the message: "listing its cases".
    seconds : float, optional

    Raises
    ------
    InputError
        It took over `seconds`, or raised what is no `FuseBenchError` or `OSError`.
    """
    try:
        with staying(), _limit(seconds):
            yield
    except _Overdue:
        if seconds is None:  # the limit of who asked for this
            raise
        raise InputError(f"dataset {name}: {what} took over {seconds:g} s (--timeout)") from None
    except (FuseBenchError, OSError):  # a line as they are
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        raise InputError(f"dataset {name}: {what} failed: {describe(error)}") from error


@contextlib.contextmanager
def _limit(seconds: float | None) -> Iterator[None]:
    here = threading.current_thread() is threading.main_thread()
    if not (seconds and here and hasattr(signal, "setitimer")):
        yield
        return
    read = _bytes_read()

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal read
        before, read = read, _bytes_read()
        if read - before < _SIGN_OF_LIFE:
            raise _Overdue

    begin = time.monotonic()
    handler = signal.signal(signal.SIGALRM, look)
    # Again and again: what holds the first error back meets the next one.
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # of somebody else, who is not to wait for ever
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - begin)), again)


def _bytes_read() -> int:
    """By this process so far; always 0 where the system does not tell."""
    try:
        return int(psutil.Process().io_counters().read_chars)
    except (AttributeError, psutil.Error):  # another system, or a container that hides them
        return 0
