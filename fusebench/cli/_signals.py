"""A request to end (``kill``, a batch system, a closed terminal) ends a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

ASKED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
CTRL_C = 128 + signal.SIGINT  # exit code
# ``timeout`` and batch systems send to the process and then to its group; the second says nothing new.
_ECHO = 1.0


@contextlib.contextmanager
def ending_like_ctrl_c() -> Iterator[list[int]]:
    """Raise `KeyboardInterrupt` where SIGTERM or SIGHUP would end this process.

    A signal that is ignored (``nohup``) or handled stays so, and so do all outside the main thread.

    Yields
    ------
    list of int
        The numbers of the signals that came.
    """
    came: list[int] = []
    last = -_ECHO

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal last
        now, before = time.monotonic(), last
        last = now
        came.append(number)
        if now - before > _ECHO:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    taken = [number for number in ASKED if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield came
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
