"""Which cases and metrics a ranking rests on: those that were run for every method it places.

What was never run for a method is neither a failure nor a last rank.  A metric that some method was never
asked for leaves the ranking, and so does a case; a method of which too little was run has no place, so that
one entry with a single metric, or a run that was stopped, does not take the ranking from all others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from fusebench.text import plural

from .scores import Bools, Scores

# Of what was run for most methods, the share that must have been run for a method with a place.
LEAST_METRICS = 1 / 3
LEAST_CASES = 1 / 2


@dataclass(frozen=True, eq=False)
class Common:
    """Scores that were run for every method with a place.

    Attributes
    ----------
    methods : tuple of str
        With a place, in the order of the scores.
    metrics : tuple of str
    cells : ndarray, shape (C, K), bool
        Cases and metrics that count, of the scores' own.
    cases : int
        Cases that count.
    unplaced : dict
        Methods without a place, and what was not run yet; not those that failed throughout.
    dropped : dict
        Metrics that do not count, and the methods they were not run for.
    left_cases : int
        Cases that were run for some methods with a place, but not for all.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: Bools
    cases: int
    unplaced: dict[str, str]
    dropped: dict[str, tuple[str, ...]]
    left_cases: int


def find_common(scores: Scores, required: Collection[str] = ()) -> Common:
    """Find what was run for all.

    Parameters
    ----------
    scores : Scores
        Of the methods to be ranked, without controls.
    required : collection of str
        Metrics without which a method has no place, where most methods have them.
    """
    run = scores.ran & scores.asked
    valued = np.asarray(~np.isnan(scores.values)).any(axis=(1, 2))
    has = np.asarray(run.any(axis=1), dtype=bool)  # (M, K)
    unplaced: dict[str, str] = {}
    most = _most(has[valued])
    must = most & np.isin(np.asarray(scores.metrics, dtype=object), list(required))
    enough = np.asarray((has & most).sum(axis=1) >= LEAST_METRICS * most.sum())
    kept = np.logical_and.reduce([valued, enough, (has | ~must).all(axis=1)])
    never = ~has.any(axis=1)
    for i in np.flatnonzero((valued | never) & ~kept):
        lost = [m for m, here in zip(scores.metrics, most & ~has[i], strict=True) if here]
        unplaced[scores.methods[i]] = f"not run yet: {_listed(lost)}"
    counts = np.logical_and(has[kept].all(axis=0), kept.any())
    dropped = {
        metric: tuple(scores.methods[i] for i in np.flatnonzero(kept & ~has[:, k]))
        for k, metric in enumerate(scores.metrics)
        if has[kept, k].any() and not counts[k]
    }
    asked = scores.asked[:, counts]
    done = np.logical_and((run[:, :, counts] | ~asked).all(axis=2), asked.any(axis=1))  # (M, C)
    most_cases = _most(done[kept])
    enough = np.asarray((done & most_cases).sum(axis=1) >= LEAST_CASES * most_cases.sum())
    placed = np.logical_and(kept, enough)
    for i in np.flatnonzero(kept & ~placed):
        count = int((most_cases & ~done[i]).sum())
        unplaced[scores.methods[i]] = f"not run yet: {count} of {plural(int(most_cases.sum()), 'case')}"
    shared = np.logical_and(done[placed].all(axis=0), placed.any())
    return Common(
        tuple(m for m, here in zip(scores.methods, placed, strict=True) if here),
        tuple(m for m, here in zip(scores.metrics, counts, strict=True) if here),
        scores.asked & counts & shared[:, None],
        int(shared.sum()),
        unplaced,
        dropped,
        int((done[placed].any(axis=0) & ~shared).sum()),
    )


def _most(has: Bools) -> Bools:
    """Columns that are true in more than half of the rows; in any, where there are none such."""
    most = np.asarray(2 * has.sum(axis=0) > len(has))
    return most if most.any() else np.asarray(has.any(axis=0))


def _listed(names: list[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
