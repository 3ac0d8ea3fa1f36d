"""A fresh process that makes a plugin anew, as the workers of a run do."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from ..store.keys import path_of
from ._kit import CheckFailed


@lru_cache(maxsize=1)
def _pool() -> ProcessPoolExecutor:
    # One child for the whole session: starting it costs the import of torch.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=partial(torch.set_num_threads, 1))


def reference(cls: type) -> Any:
    """The address of a plugin's class for a child: itself, or its file where that was given by path."""
    if cls.__module__.startswith("fusebench_plugin_"):
        return str(path_of(cls)), getattr(cls, "info").name  # noqa: B009
    return cls


def resolve(found: Any) -> Any:
    """The class that `reference` stands for."""
    if not isinstance(found, tuple):
        return found
    from ..plugins import find_plugins

    path, name = found
    plugins = find_plugins((str(Path(path)),))
    return next(r.load(name) for r in (plugins.methods, plugins.datasets) if name in r)


def in_child(function: Any, *arguments: Any, what: str) -> Any:
    """Result of a top-level function in a fresh process.

    Raises
    ------
    CheckFailed
        The arguments cannot be pickled, or the child died.
    """
    try:
        pickle.dumps(arguments)
    except Exception as error:  # __reduce__ and __getstate__ may raise anything
        raise CheckFailed(
            f"{what} cannot be pickled ({' '.join(str(error).split())[:200]}); define it at the top level of "
            "its module and keep open files, lambdas and locks out of its attributes"
        ) from error
    try:
        return _pool().submit(function, *arguments).result()
    except BrokenProcessPool as error:
        _pool.cache_clear()
        raise CheckFailed(
            f"a fresh process died making {what}; run it alone there (python -X faulthandler) to see where"
        ) from error
