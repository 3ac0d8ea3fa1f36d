"""Settings of the whole process that Python alone keeps: how each is read, and how it is put back.

Those of numpy and torch are in `fusebench.engine.settings`, which takes a second to import.
"""

from __future__ import annotations

import contextlib
import decimal
import gc
import locale
import logging
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

Settings = dict[str, Any]
# How a setting is read, and how it is put back.
Entry = tuple[Callable[[], Any], Callable[[Any], object]]
Table = dict[str, Entry]
# In place of a value that cannot be read.
UNREADABLE = object()

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = tuple(getattr(resource, n) for n in dir(resource) if n.startswith("RLIMIT_"))


def _put_environment(kept: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(kept)
    time.tzset()  # which Python reads from there


def _put_list(target: list[Any]) -> Callable[[list[Any]], None]:
    def put(kept: list[Any]) -> None:
        target[:] = kept

    return put


def _umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _put_signals(kept: dict[int, Any]) -> None:
    for number, handler in kept.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _limits() -> dict[int, tuple[int, int]]:
    return {which: resource.getrlimit(which) for which in _LIMITS}


def _put_limits(kept: dict[int, tuple[int, int]]) -> None:
    for which, limit in kept.items():
        if resource.getrlimit(which) != limit:
            resource.setrlimit(which, limit)


def _decimal() -> tuple[Any, ...]:
    context = decimal.getcontext()
    return context.prec, context.rounding, context.Emin, context.Emax, context.clamp


def _put_decimal(kept: tuple[Any, ...]) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding, context.Emin, context.Emax, context.clamp = kept


def _put_tracing(kept: bool) -> None:
    (tracemalloc.start if kept else tracemalloc.stop)()


def attribute(owner: Any, name: str) -> Entry:
    """An entry of the table for ``owner.name``."""
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


PLAIN: Table = {
    "working folder": (os.getcwd, os.chdir),
    "umask": (_umask, os.umask),
    "environment": (lambda: dict(os.environ), _put_environment),
    "sys.path": (lambda: list(sys.path), _put_list(sys.path)),
    "sys.stdout": attribute(sys, "stdout"),
    "sys.stderr": attribute(sys, "stderr"),
    "sys.excepthook": attribute(sys, "excepthook"),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "trace": (sys.gettrace, sys.settrace),
    "profile": (sys.getprofile, sys.setprofile),
    "warnings": (lambda: list(warnings.filters), lambda kept: _put_list(warnings.filters)(kept)),  # type: ignore[arg-type]
    "logging": (lambda: logging.root.level, logging.root.setLevel),
    "log handlers": (lambda: list(logging.root.handlers), _put_list(logging.root.handlers)),
    "logging.disable": (lambda: logging.root.manager.disable, logging.disable),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda kept: locale.setlocale(locale.LC_ALL, kept)),
    "warnings.showwarning": attribute(warnings, "showwarning"),
    "sys.stdin": attribute(sys, "stdin"),
    "sys.argv": (lambda: list(sys.argv), _put_list(sys.argv)),
    "sys.meta_path": (lambda: list(sys.meta_path), _put_list(sys.meta_path)),
    "sys.path_hooks": (lambda: list(sys.path_hooks), _put_list(sys.path_hooks)),
    "switch interval": (sys.getswitchinterval, sys.setswitchinterval),
    "tracemalloc": (tracemalloc.is_tracing, _put_tracing),
    "random numbers": (random.getstate, random.setstate),
    "decimal": (_decimal, _put_decimal),
    "socket time-out": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "resource limits": (_limits, _put_limits),
    "garbage collection": (gc.isenabled, lambda kept: gc.enable() if kept else gc.disable()),
    "gc.threshold": (gc.get_threshold, lambda kept: gc.set_threshold(*kept)),
    "gc.callbacks": (lambda: list(gc.callbacks), _put_list(gc.callbacks)),
}
if hasattr(os, "sched_setaffinity"):
    PLAIN["cores"] = (lambda: os.sched_getaffinity(0), lambda kept: os.sched_setaffinity(0, kept))
if threading.current_thread() is threading.main_thread():
    PLAIN["signal handlers"] = (_signals, _put_signals)


def timers() -> set[int]:
    """Timers that run; one that has run out meanwhile was not anybody's to stop."""
    return {which for which in _TIMERS if signal.getitimer(which)[0]}


def attempt(get: Callable[[], Any]) -> Any:
    """The present value of a setting; `UNREADABLE` where there is none: the working folder may be gone."""
    try:
        return get()
    except Exception:
        return UNREADABLE


def read(table: Table) -> Settings:
    """The present value of every setting of a table."""
    return {name: attempt(get) for name, (get, _) in table.items()}


def write(table: Table, settings: Settings) -> tuple[Settings, list[str]]:
    """Set those of `settings` that differ from the present ones, in the order of the table.

    One is read when those before it are set: a mode of torch would change what is read behind it.  One that
    refuses does not keep the others from being set.

    Returns
    -------
    found : dict
        The values that were replaced.
    lost : list of str
        What could not be set.  It is looked at at once: other threads may change it as well.
    """
    found: Settings = {}
    lost = []
    for name, (get, put) in table.items():
        wanted = settings.get(name, UNREADABLE)
        if wanted is UNREADABLE or (now := attempt(get)) == wanted:
            continue
        found[name] = now
        with contextlib.suppress(Exception):
            put(wanted)
        if attempt(get) != wanted:
            lost.append(name)
    return found, lost
