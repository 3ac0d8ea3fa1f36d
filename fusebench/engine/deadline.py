"""A time limit for what a dataset's plugin does in the process that plans a run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import psutil

from ..errors import FuseBenchError, InputError
from ..staying import leave, standard_streams, staying
from ..text import describe, printable
from .keeper import Unrestored
from .main_process import keeping_main_process

_SIGN_OF_LIFE = 1 << 14  # bytes read; to find out how many takes a few hundred
LEAST_SECONDS = 30.0  # for a listing, which a cold disk makes slow, however short --timeout is
_LAST_ALARM = 3  # what holds the errors of two alarms back never ends
_write = os.write  # as it is before any plugin


class _Overdue(BaseException):
    """Raised in what takes too long; no plugin's ``except Exception`` keeps it."""


def listing_seconds(timeout: float | None) -> float | None:
    """Limit for a stage of a dataset, by the limit for a fuse; None for none."""
    return max(timeout, LEAST_SECONDS) if timeout else None


@contextlib.contextmanager
def asking_dataset(name: str, what: str, seconds: float | None = None) -> Iterator[None]:
    """Have a plugin do `what`: a fault of it is one line, it may not hang, and it leaves nothing changed.

    What it imports stays, and what it adds to ``sys.path``; all else that it changes in this process is put
    back.  Time in which files are read does not count: large data are listed for as long as it takes.
    Outside the main thread there is no limit.  Where a plugin holds the error back that is to end it, the
    whole process ends, with code 2.

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
        It took over `seconds`, raised what is no `FuseBenchError` or `OSError`, or has changed what cannot be
        put back.
    """
    try:
        with (
            standard_streams(),
            keeping_main_process(),
            staying(),
            _limit(seconds, f"dataset {name}: {what}"),
        ):
            yield
    except _Overdue:
        if seconds is None:  # the limit of who asked for this
            raise
        raise InputError(f"dataset {name}: {what} took over {seconds:g} s (--timeout)") from None
    except Unrestored as error:
        raise InputError(f"dataset {name}: {what} failed: {error}") from error
    except (FuseBenchError, OSError):  # a line as they are
        raise
    except (Exception, SystemExit, GeneratorExit) as error:
        raise InputError(f"dataset {name}: {what} failed: {describe(error)}") from error


@contextlib.contextmanager
def _limit(seconds: float | None, who: str) -> Iterator[None]:
    here = threading.current_thread() is threading.main_thread()
    if not (seconds and here and hasattr(signal, "setitimer")):
        yield
        return
    read, alarms = _bytes_read(), 0

    def look(number: int, frame: FrameType | None) -> None:
        nonlocal read, alarms
        before, read = read, _bytes_read()
        if read - before < _SIGN_OF_LIFE:
            alarms += 1
            if alarms == _LAST_ALARM:
                _give_up(f"{who} took over {seconds:g} s (--timeout), and does not end")
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


def _give_up(why: str) -> NoReturn:
    """End the process with a line, past all that the plugin may have replaced."""
    with contextlib.suppress(OSError):
        _write(2, f"run_bench.py: error: {printable(why)}\n".encode(errors="replace"))
    leave(2)


def _bytes_read() -> int:
    """By this process so far; always 0 where the system does not tell."""
    try:
        return int(psutil.Process().io_counters().read_chars)
    except (AttributeError, psutil.Error):  # another system, or a container that hides them
        return 0
