"""Settings that are one for the whole process: how each is read, and how it is put back."""

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

import numpy as np
import torch

Settings = dict[str, Any]

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


def _random() -> tuple[Any, ...]:
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    numpy = (kind, np.asarray(keys).tobytes(), *rest)
    return random.getstate(), numpy, torch.get_rng_state().numpy().tobytes()


def _put_random(kept: tuple[Any, ...]) -> None:
    python, (kind, keys, *rest), tensors = kept
    random.setstate(python)
    np.random.set_state((kind, np.frombuffer(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.frombuffer(bytearray(tensors), dtype=torch.uint8))


def _decimal() -> tuple[Any, ...]:
    context = decimal.getcontext()
    return context.prec, context.rounding, context.Emin, context.Emax, context.clamp


def _put_decimal(kept: tuple[Any, ...]) -> None:
    context = decimal.getcontext()
    context.prec, context.rounding, context.Emin, context.Emax, context.clamp = kept


def _modes() -> int:
    return int(torch._C._len_torch_function_stack())


def _put_modes(kept: int) -> None:
    while _modes() > kept:
        torch._C._pop_torch_function_stack()


def _put_tracing(kept: bool) -> None:
    (tracemalloc.start if kept else tracemalloc.stop)()


def _flushes() -> bool:
    return bool((torch.tensor([1e-40]) * 1).item() == 0)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _attribute(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


# Name: how it is read, and how it is put back.
_SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "working folder": (os.getcwd, os.chdir),
    "umask": (_umask, os.umask),
    "environment": (lambda: dict(os.environ), _put_environment),
    "sys.path": (lambda: list(sys.path), _put_list(sys.path)),
    "sys.stdout": _attribute(sys, "stdout"),
    "sys.stderr": _attribute(sys, "stderr"),
    "sys.excepthook": _attribute(sys, "excepthook"),
    "recursion limit": (sys.getrecursionlimit, sys.setrecursionlimit),
    "trace": (sys.gettrace, sys.settrace),
    "profile": (sys.getprofile, sys.setprofile),
    "warnings": (lambda: list(warnings.filters), lambda kept: _put_list(warnings.filters)(kept)),  # type: ignore[arg-type]
    "logging": (lambda: logging.root.level, logging.root.setLevel),
    "log handlers": (lambda: list(logging.root.handlers), _put_list(logging.root.handlers)),
    "logging.disable": (lambda: logging.root.manager.disable, logging.disable),
    "locale": (lambda: locale.setlocale(locale.LC_ALL), lambda kept: locale.setlocale(locale.LC_ALL, kept)),
    "warnings.showwarning": _attribute(warnings, "showwarning"),
    "sys.stdin": _attribute(sys, "stdin"),
    "sys.argv": (lambda: list(sys.argv), _put_list(sys.argv)),
    "sys.meta_path": (lambda: list(sys.meta_path), _put_list(sys.meta_path)),
    "sys.path_hooks": (lambda: list(sys.path_hooks), _put_list(sys.path_hooks)),
    "switch interval": (sys.getswitchinterval, sys.setswitchinterval),
    "tracemalloc": (tracemalloc.is_tracing, _put_tracing),
    "random numbers": (_random, _put_random),
    "decimal": (_decimal, _put_decimal),
    "socket time-out": (socket.getdefaulttimeout, socket.setdefaulttimeout),
    "resource limits": (_limits, _put_limits),
    "garbage collection": (gc.isenabled, lambda kept: gc.enable() if kept else gc.disable()),
    "gc.threshold": (gc.get_threshold, lambda kept: gc.set_threshold(*kept)),
    "gc.callbacks": (lambda: list(gc.callbacks), _put_list(gc.callbacks)),
    "numpy.seterrcall": (np.geterrcall, np.seterrcall),
    "numpy.bufsize": (np.getbufsize, np.setbufsize),
    "numpy.seterr": (np.geterr, lambda kept: np.seterr(**kept)),
    "numpy.printoptions": (np.get_printoptions, lambda kept: np.set_printoptions(**kept)),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch.printoptions": (
        lambda: vars(torch._tensor_str.PRINT_OPTS).copy(),
        lambda kept: vars(torch._tensor_str.PRINT_OPTS).update(kept),
    ),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch warnings": (torch.is_warn_always_enabled, torch.set_warn_always),
    "function modes": (_modes, _put_modes),
    "autocast": (
        lambda: torch.is_autocast_enabled("cpu"),
        lambda kept: torch.set_autocast_enabled("cpu", kept),
    ),
    "default device": (torch.get_default_device, lambda kept: torch.set_default_device(_plain(kept))),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms": (
        _deterministic,
        lambda kept: torch.use_deterministic_algorithms(kept[0], warn_only=kept[1]),
    ),
    "denormal numbers": (_flushes, torch.set_flush_denormal),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.backends.cudnn.enabled": _attribute(torch.backends.cudnn, "enabled"),
    "torch.backends.cudnn.benchmark": _attribute(torch.backends.cudnn, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "torch.backends.mkldnn.enabled": _attribute(torch.backends.mkldnn, "enabled"),
}
# torch refuses to read the older switch of TF32 where anybody has set the newer one.
if hasattr(torch.backends.cudnn, "conv"):
    _SETTINGS["TF32 of convolutions"] = _attribute(torch.backends.cudnn.conv, "fp32_precision")
else:
    _SETTINGS["TF32 of convolutions"] = _attribute(torch.backends.cudnn, "allow_tf32")
if hasattr(os, "sched_setaffinity"):
    _SETTINGS["cores"] = (lambda: os.sched_getaffinity(0), lambda kept: os.sched_setaffinity(0, kept))
if threading.current_thread() is threading.main_thread():
    _SETTINGS["signal handlers"] = (_signals, _put_signals)


def _plain(device: torch.device) -> torch.device | None:
    """Unset, where it is the CPU: a default that is set slows every call down."""
    return None if device.type == "cpu" else device


def timers() -> set[int]:
    """Timers that run; one that has run out meanwhile was not anybody's to stop."""
    return {which for which in _TIMERS if signal.getitimer(which)[0]}


def read_settings() -> Settings:
    """The present value of every setting; None for one that cannot be read."""
    found: Settings = {}
    for name, (read, _) in _SETTINGS.items():
        try:
            found[name] = read()
        except OSError:  # the working folder is gone
            found[name] = None
    return found


def write_settings(settings: Settings, now: Settings) -> None:
    """Set those of `settings` that differ from `now`."""
    for name, value in settings.items():
        if value != now[name]:
            with contextlib.suppress(OSError, ValueError):
                _SETTINGS[name][1](value)
