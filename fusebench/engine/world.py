"""What a plugin can change in the process that it runs in, put back behind it: where methods share one.

On a CPU every method has a child of its own (`fusebench.engine.apart`).  On a GPU, and with ``--jobs 0``,
they run in one process; `World.kept` gives the next one what the first one got.
"""

from __future__ import annotations

import contextlib
import gc
import locale
import logging
import os
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import torch

from ..errors import FuseBenchError

Settings = dict[str, Any]

# Modules whose functions and classes decide numbers, times or what is stored; with their submodules.
_WATCHED = (
    *(
        "builtins",
        "math",
        "random",
        "time",
        "os",
        "io",
        "json",
        "fusebench",
        "numpy",
        "pywt",
        "scipy.ndimage",
    ),
    *("scipy.fft", "scipy.signal", "scipy.linalg", "scipy.stats", "scipy.optimize", "skimage"),
    *("torch", "torch.functional", "torch.nn", "torch.fft", "torch.linalg", "torch.special", "torch.random"),
)
_TREES = tuple(f"{name}." for name in _WATCHED if name != "torch")
_LIMITS = tuple(getattr(resource, n) for n in dir(resource) if n.startswith("RLIMIT_"))


def _put_environment(kept: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(kept)


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
    "resource limits": (_limits, _put_limits),
    "garbage collection": (gc.isenabled, lambda kept: gc.enable() if kept else gc.disable()),
    "numpy.seterr": (np.geterr, lambda kept: np.seterr(**kept)),
    "numpy.printoptions": (np.get_printoptions, lambda kept: np.set_printoptions(**kept)),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
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
    "torch.backends.cudnn.allow_tf32": _attribute(torch.backends.cudnn, "allow_tf32"),
    "torch.backends.mkldnn.enabled": _attribute(torch.backends.mkldnn, "enabled"),
}
if hasattr(os, "sched_setaffinity"):
    _SETTINGS["cores"] = (lambda: os.sched_getaffinity(0), lambda kept: os.sched_setaffinity(0, kept))
if threading.current_thread() is threading.main_thread():
    _SETTINGS["signal handlers"] = (_signals, _put_signals)


def _plain(device: torch.device) -> torch.device | None:
    """Unset, where it is the CPU: a default that is set slows every call down."""
    return None if device.type == "cpu" else device


def _is_code(value: object) -> bool:
    return callable(value) or isinstance(value, (property, classmethod, staticmethod))


class World:
    """The settings of this process, and the functions of the libraries that everybody uses."""

    def __init__(self) -> None:
        self._modules: dict[str, ModuleType] = {}
        # Of modules and classes: their dictionary, and what is callable in it.
        self._names: list[tuple[Any, Mapping[str, Any], str, Any]] = []
        self._classes: list[tuple[type, Mapping[str, Any], int]] = []
        self._own: dict[type, frozenset[str]] = {}

    @contextlib.contextmanager
    def kept(self, settings: Settings | None = None) -> Iterator[Settings]:
        """Run a block under `settings`, and put back behind it all that it has changed.

        Yields
        ------
        dict
            Filled, when the block ends, with the settings that it leaves behind where they are others.

        Raises
        ------
        Unrestored
            Something cannot be put back; the rest is.
        """
        self._look()
        before = read_settings()
        left: Settings = {}
        try:
            _write(settings or {}, before)
            yield left
        finally:
            self._put_names()
            now = read_settings()
            left.update({name: value for name, value in now.items() if value != before[name]})
            _write({name: before[name] for name in left}, now)
            lost = [name for name, value in read_settings().items() if value != before[name]]
            if lost:
                raise Unrestored(f"it has changed for good: {', '.join(lost)}")

    def _look(self) -> None:
        """Note modules that have been imported since."""
        new = {
            name: module
            for name, module in list(sys.modules.items())
            if name not in self._modules
            and (name in _WATCHED or name.startswith(_TREES))
            # Another thread is still importing it: what it holds is not its last word.
            and not getattr(getattr(module, "__spec__", None), "_initializing", False)
        }
        self._modules.update(new)
        for name, module in new.items():
            known = {k: v for k, v in list(vars(module).items()) if callable(v)}
            self._names += [(module, vars(module), k, v) for k, v in known.items()]
            for cls in known.values():
                if isinstance(cls, type) and cls.__module__ == name and not issubclass(cls, BaseException):
                    there = vars(cls)
                    self._own[cls] = frozenset(there)
                    self._classes.append((cls, there, len(there)))
                    self._names += [(cls, there, k, v) for k, v in there.items() if _is_code(v)]

    def _put_names(self) -> None:
        for name, module in self._modules.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module
        changed = [(owner, n, v) for owner, there, n, v in self._names if there.get(n) is not v]
        added = [
            (owner, name)
            for owner, there, count in self._classes
            if len(there) != count
            for name in [n for n in there if n not in self._own[owner] and callable(there[n])]
        ]
        for owner, name, value in changed:
            with contextlib.suppress(AttributeError, TypeError):
                setattr(owner, name, value)
        for owner, name in added:
            with contextlib.suppress(AttributeError, TypeError):
                delattr(owner, name)


class Unrestored(FuseBenchError):
    """Settings that a plugin has changed for good, which the message names: nobody else may run here."""


def read_settings() -> Settings:
    """The present value of every setting; None for one that cannot be read."""
    found: Settings = {}
    for name, (read, _) in _SETTINGS.items():
        try:
            found[name] = read()
        except OSError:  # the working folder is gone
            found[name] = None
    return found


def _write(settings: Settings, now: Settings) -> None:
    for name, value in settings.items():
        if value != now[name]:
            with contextlib.suppress(OSError, ValueError):
                _SETTINGS[name][1](value)
