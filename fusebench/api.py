"""The public functions: `run`, `load_run`, `fuse`, `load_case`, and `Run`, what a run leaves behind.

They lie above the core and the leaderboard, beside the command line, which calls them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .engine.manifest import protocol_order, read_manifest
from .engine.pool import LocalPool
from .engine.request import Observer, Request
from .engine.run import Outcome, Planned, execute, first_workers, plan_run
from .errors import InputError
from .method_info import DEFAULT_SET
from .parameters import as_list, create
from .store.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from .case import Case
    from .leaderboard.board import Board


class Run:
    """A run folder: rows, boards, failures.

    Parameters
    ----------
    folder : path
    outcome : Outcome, optional
        Of the run that was just made; else everything is read from the folder.

    Attributes
    ----------
    folder : Path
    """

    def __init__(self, folder: str | os.PathLike[str], outcome: Outcome | None = None) -> None:
        self.folder = Path(folder)
        self._outcome = outcome

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Newest row of every method, case, protocol and metric."""
        if self._outcome is not None:
            return self._outcome.table
        from .store.read_rows import read_rows

        return read_rows(self.folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Versions, options, hardware and plugins behind the rows."""
        manifest: dict[str, Any] = read_manifest(self.folder)
        return manifest

    @property
    def protocols(self) -> list[str]:
        """Protocols with rows, in the order in which they were asked for."""
        return protocol_order(self.rows["protocol"], self.manifest)

    @cached_property
    def failures(self) -> pd.DataFrame:
        """Rows without a value that have a failure as their reason; a skip is none."""
        if self._outcome is not None:
            return self._outcome.failures()
        return self.rows[~self.rows["status"].isin(["ok", "skip"])]

    @property
    def unfinished(self) -> int:
        """Fusions that were left when the run that was just made was interrupted."""
        return self._outcome.unfinished if self._outcome is not None else 0

    @cached_property
    def boards(self) -> dict[str, Board]:
        """The leaderboard of every protocol; the readings are on that of ``volume``."""
        from .leaderboard import publish

        outcome = self._outcome
        asked = outcome.planned.request.metrics if outcome else ()
        found: dict[str, Board] = publish.boards(
            RunFolder(self.folder),
            self.rows,
            outcome.planned.found.metrics if outcome and asked else (),
            outcome.notes if outcome else (),
            rank_by=outcome.planned.request.rank_by if outcome else "",
        )
        return found

    def board(
        self, protocol: str | None = None, metrics: str | Sequence[str] | None = None, *, rank_by: str = ""
    ) -> Board:
        """The leaderboard of one protocol.

        Parameters
        ----------
        protocol : str, optional
            Default: the first.
        metrics : sequence of str, optional
            Ids to show and rank on; default: as the run asked.
        rank_by : {"", "reading", "similarity", "all"}
            What gives the places; default: as the run asked.

        Raises
        ------
        InputError
            No rows of that protocol.
        """
        from .leaderboard import publish

        protocols = self.protocols
        own = publish.boards_of(protocols)
        name = own[0] if protocol is None else protocol
        if name not in protocols:
            raise InputError(f"{self.folder}: no rows of protocol {name!r}; there are {', '.join(protocols)}")
        name = name if name in own else own[0]  # the readings, on the board that they joined
        if metrics is None and not rank_by:
            return self.boards[name]
        return publish.boards(RunFolder(self.folder), self.rows, as_list(metrics or ()), rank_by=rank_by)[
            name
        ]

    def publish(self) -> list[Path]:
        """Write the boards and the contact sheet into the folder; returns the paths of all its files."""
        from .leaderboard import publish

        radiological = self._outcome is not None and self._outcome.planned.request.radiological
        paths: list[Path] = publish.write(RunFolder(self.folder), self.boards, radiological=radiological)
        return paths

    def __repr__(self) -> str:
        rows = self.rows
        return (
            f"Run({str(self.folder)!r}: {rows['method'].nunique()} methods, {rows['case'].nunique()} cases, "
            f"{len(rows)} rows, {len(self.failures)} failed)"
        )

    def _repr_html_(self) -> str:
        return "".join(f"<h4>{name}</h4>{board._repr_html_()}" for name, board in self.boards.items())


def run(
    methods: str | Sequence[str] = DEFAULT_SET,
    *,
    dataset: Any = "phantom",
    cases: int | None = None,
    protocols: str | Sequence[str] = (),
    metrics: str | Sequence[str] = (),
    data_dir: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Observer | Callable[[str], None] | None = None,
    **options: Any,
) -> Run:
    """Run methods on a dataset, store the rows, write the boards: what ``run_bench.py`` does.

    Parameters
    ----------
    methods : str or sequence of str
        Names, ``name@variant``, shell wildcards, ``standard``, ``all`` or ``fast``; commas separate them.
    dataset : str or Dataset
    cases : int, optional
        The first so many of the split.
    protocols, metrics : str or sequence of str
        As ``--protocol`` and ``--metrics``.
    data_dir, out : path, optional
        Where the data lies; the run folder (default ``runs/<dataset>-<split>``).
    progress : callable or Observer, optional
        Called with a line after each fusion; an `Observer` hears more.
    **options
        The other fields of `fusebench.engine.request.Request`: ``split``, ``jobs``, ``device``, ``settings``,
        ``results_dir`` and so on.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        Something that was asked for is not there or does not fit.

    Examples
    --------
    >>> import fusebench
    >>> fusebench.run(["average", "dwt"], cases=2).board().to_markdown()  # doctest: +SKIP
    """
    given = {
        "methods": as_list(methods),
        "dataset": dataset,
        "cases": cases,
        "protocols": as_list(protocols),
        "metrics": as_list(metrics),
        "data_dir": None if data_dir is None else Path(data_dir),
        "out": None if out is None else Path(out),
        **options,
    }
    given |= {name: as_list(options[name]) for name in ("exclude", "plugins") if name in options}
    request = create("run", Request, given)
    observer = progress if isinstance(progress, Observer) else _Lines(progress)
    return run_request(request, observer)


def run_request(request: Request, observer: Observer | None = None) -> Run:
    """`run` with its options as one object; after Ctrl-C the boards of what is there are written first."""
    # First of all: workers import torch while this process, which never does, finds out what to run.
    with LocalPool(first_workers(request), request.threads) as pool:
        result = finish(plan_run(request, pool, observer), pool, observer)
    if result.unfinished:
        raise KeyboardInterrupt
    return result


def finish(planned: Planned, pool: LocalPool, observer: Observer | None = None) -> Run:
    """Execute a planned run and write its boards."""
    with ThreadPoolExecutor(1) as aside:
        if planned.jobs:  # the leaderboard takes a second to import, in which this process has nothing to do
            for module in ("fusebench.leaderboard.publish", "pyarrow.parquet"):
                aside.submit(import_module, module)
        outcome = execute(planned, pool, observer, aside.shutdown)
    result = Run(planned.folder.path, outcome)
    result.publish()
    return result


def load_run(folder: str | os.PathLike[str]) -> Run:
    """The `Run` of a run folder.

    Raises
    ------
    InputError
        The folder has no rows.
    """
    found = Run(folder)
    _ = found.rows, found.manifest
    return found


def fuse(a: Any, b: Any = None, method: Any = "average", *, device: str = "cpu", **parameters: Any) -> Any:
    """Fuse one pair.

    Parameters
    ----------
    a, b : array, tensor or Volume, shape (D, H, W) or (H, W), values in [0, 1]
        Structural and functional image; or `a` a `Case` and `b` left out.
    method : str or Method
        Name or ``name@variant``, or what `create_method` made; behind a case it may stand second:
        ``fuse(case, "dwt")``.
    **parameters
        Of the method called by name.

    Returns
    -------
    ndarray
        Of the shape of `a`, float32 in [0, 1].

    Raises
    ------
    InputError
        Images that do not fit each other or [0, 1], an unknown method or parameter.
    """
    import numpy as np

    from .arrays import plain
    from .case import Case, Pair, Volume
    from .engine.fusing import fuse as fuse_pair
    from .method import Method
    from .plugins import find_plugins, make_method

    if isinstance(a, (Case, Pair)):
        if isinstance(b, (str, Method)):
            method, b = b, None
        a, b = a.a.data, a.b.data
    if b is None:
        raise InputError("fuse needs two images, or a case")
    if any(isinstance(x, (str, os.PathLike)) for x in (a, b)):
        raise InputError("fuse takes images, not the names of files: fuse(load_case(mri, pet), method)")
    images = [x.data if isinstance(x, Volume) else x for x in (a, b)]
    first, second = (np.asarray(plain(x, n), np.float32) for x, n in zip(images, "ab", strict=True))
    if first.shape != second.shape or first.ndim not in (2, 3):
        raise InputError(
            f"two images (D, H, W) or (H, W) of one shape are needed, got {first.shape} and {second.shape}"
        )
    for name, image in (("a", first), ("b", second)):
        if not np.isfinite(image).all():
            raise InputError(f"image {name} has values that are NaN or infinite; replace them first")
        if not (image.min() >= 0 and image.max() <= 1):
            raise InputError(f"image {name} has values outside [0, 1]; scale it first")
    if isinstance(method, Method):
        if parameters:
            raise InputError("parameters belong to a method called by name; this one is made already")
        made = method
    else:
        made = make_method(find_plugins(), method, parameters)
    made.setup(device)
    shape = first.shape if first.ndim == 3 else (1, *first.shape)
    fused, _ = fuse_pair(made, first.reshape(shape), second.reshape(shape))
    return fused.reshape(first.shape)


def load_case(
    mri: str | os.PathLike[str],
    pet: str | os.PathLike[str],
    *,
    id: str | None = None,
    **options: Any,
) -> Case:
    """A case from two files, prepared as ``--dataset pairs`` does.

    Parameters
    ----------
    mri, pet : path
        Structural and functional image.
    id : str, optional
        Default: from the name of `mri`.
    **options
        Of the dataset ``pairs``: ``recipe="native"`` and so on.

    Raises
    ------
    InputError
        A file that cannot be read, or two that do not fit.
    """
    from dataclasses import replace

    from .plugins import create_dataset

    found: Case = create_dataset("pairs", mri=Path(mri), pet=Path(pet), **options).every_case()[0]
    case = found if id is None else replace(found, id=id)
    _ = case.pair  # read now, so that what is wrong is said here
    return case


class _Lines(Observer):
    """Hands a line per task to a callable."""

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self.tell = tell or (lambda text: None)

    def note(self, text: str) -> None:
        self.tell(text)

    def finished(self, task: Any, rows: Sequence[Any]) -> None:
        bad = dict.fromkeys(f"{r.status}: {r.reason}" for r in rows if r.status not in ("ok", "skip"))
        self.tell("; ".join([task.label, *bad]))
