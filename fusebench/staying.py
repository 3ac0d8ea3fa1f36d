"""Foreign code in this process: it may not end the process without a word, nor go on in a copy of it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import NoReturn

leave = os._exit  # ends the process also where `staying` has replaced that


def is_ctrl_c(error: BaseException) -> bool:
    """True for an interruption by the user; where this process passes Ctrl-C over, a plugin raised it."""
    return isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Open numbers 0, 1 and 2 again that the block closes or replaces, as they were.

    Else the next file that is opened gets the number, and what is printed lands among its rows.
    """
    kept: dict[int, int] = {}
    for number in range(3):
        with contextlib.suppress(OSError):  # closed by whoever started this
            kept[number] = os.dup(number)
    try:
        yield
    finally:
        for number, copy in kept.items():
            if not _is_same_file(number, copy):
                os.dup2(copy, number)
            os.close(copy)


def _is_same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Have ``os._exit`` raise `SystemExit` here, and end a child process that comes out at the other end.

    Without it, a dataset that calls ``os._exit(0)`` while its cases are listed ends the command as if all
    were well.
    """
    real, mine = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != mine:  # children may end as they like
            real(status)
        raise SystemExit(f"os._exit({status})")

    outermost = getattr(real, "__module__", "") != __name__
    if outermost:
        os._exit = refuse
    try:
        yield
    except SystemExit as error:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_next is not None and trace.tb_next.tb_frame.f_code is refuse.__code__:
                trace.tb_next = None  # its place is that of the call
            trace = trace.tb_next
        raise
    finally:
        if os.getpid() != mine:
            real(0)
        if outermost:
            os._exit = real
