"""Signals that end a command as Ctrl-C does: what is there is kept and shown, and a line says so."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

# A job that is over its time or cancelled, and a terminal that is closed.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
CTRL_C = 128 + signal.SIGINT


@contextlib.contextmanager
def like_ctrl_c() -> Iterator[Callable[[int], int]]:
    """Take SIGTERM and SIGHUP for Ctrl-C, where nobody has another wish (``nohup``).

    Yields
    ------
    callable
        The exit code for one: of the signal that came, where it is that of Ctrl-C.
    """
    came = list[int]()

    def end(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [s for s in _ENDING if signal.getsignal(s) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield lambda code: 128 + came[0] if came and code == CTRL_C else code
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
