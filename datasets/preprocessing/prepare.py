"""Prepare the cases of a dataset, in this process or in several; one bad case is one row."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fusebench.case import Case
from fusebench.errors import FuseBenchError, InputError

from . import pipeline, quality

Result = dict[str, Any]
_FIGURES = (
    *("overlap", "overlap_dataset", "overlap_registered", "information_before", "information_after"),
    *("information_registered", "moved_mm", "mask_share", "pet_frames"),
)


def prepare_case(case: Case, images: Path | None, *, radiological: bool = False) -> Result:
    """Prepare one case: status (prepared, cached, ready as it is, error), reason, flags, seconds and figures.

    Parameters
    ----------
    case : Case
    images : Path, optional
        Folder for its quality PNG.
    radiological : bool
        The PNG has the patient's right on the left, and a name of its own.
    """
    start = time.perf_counter()
    png = None if images is None else images / f"{case.id}{'-radiological' * radiological}.png"
    cached = pipeline.is_prepared(case.fingerprint)
    try:
        if not cached or (png is not None and not png.exists()):
            pair = case.loader()
            if png is not None:
                report = pipeline.stored_report(case)
                notes = "; ".join(quality.flags(report)) or "no flags"
                numbers = report.get("numbers", {})
                title = f"{case.dataset} {case.id}   {notes}"
                if "moved_mm" in numbers:
                    title = f"{title}   moved by {numbers['moved_mm']:.1f} mm"
                found = numbers.get("to_pet")
                to_pet = None if found is None else np.asarray(found)
                quality.quality_png(pair, png, title, to_pet, radiological=radiological)
    # One case of many: whatever is wrong with it is its row, not the end of the others.
    except Exception as error:
        text = " ".join(str(error).split())
        reason = text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"
        return {"status": "error", "reason": reason, "seconds": round(time.perf_counter() - start, 2)}
    # Pictures, phantoms and recipe "none" have nothing in the cache of prepared pairs.
    status = "cached" if cached else "prepared" if pipeline.is_prepared(case.fingerprint) else "ready"
    report = pipeline.stored_report(case)
    numbers = report.get("numbers", {})
    return {
        "status": status,
        "reason": "",
        "flags": "; ".join(quality.flags(report)),
        "seconds": round(time.perf_counter() - start, 2),
        **{n: round(float(numbers[n]), 3) for n in _FIGURES if n in numbers},
    }


def prepare_cases(
    cases: Sequence[Case],
    images: Path | None,
    jobs: int,
    done: Callable[[Case, Result], None],
    *,
    radiological: bool = False,
) -> None:
    """Prepare `cases` on `jobs` processes of one thread each; `done` hears of each as it ends.

    Raises
    ------
    FuseBenchError
        A worker process died; what is finished stays in the cache.
    """
    one = partial(prepare_case, images=images, radiological=radiological)
    if jobs <= 1 or len(cases) <= 1:
        for case in cases:
            done(case, one(case))
        return
    # Spawned: torch and SimpleITK threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        with ProcessPoolExecutor(min(jobs, len(cases)), mp_context=context) as pool:
            try:
                _feed(pool, list(reversed(cases)), one, 2 * jobs, done)
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)  # what waits is for the next run
                raise
    except BrokenProcessPool:
        raise FuseBenchError(
            "a worker died (out of memory?); what is finished is kept: repeat with fewer --jobs"
        ) from None
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _feed(
    pool: ProcessPoolExecutor,
    todo: list[Case],
    one: Callable[[Case], Result],
    most: int,
    done: Callable[[Case, Result], None],
) -> None:
    """Keep `most` cases in flight, so that an interruption loses little."""
    futures: dict[Future[Result], Case] = {}
    while todo or futures:
        while todo and len(futures) < most:
            case = todo.pop()
            futures[pool.submit(one, case)] = case
        finished, _ = wait(futures, return_when=FIRST_COMPLETED)
        for future in finished:
            done(futures.pop(future), future.result())
