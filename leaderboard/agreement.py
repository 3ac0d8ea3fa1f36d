"""Agreement: which likeness to the sources predicts what can be read in a fused image?

Kendall's tau between the order of methods by a similarity metric and their order by a reading, with a
bootstrap interval over subjects.  Controls take part: a metric that places a copy first should be seen to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .board import Board
from .coverage import find_common
from .escape import markdown_text
from .intervals import bootstrap_mean
from .scores import Floats

# Fewer methods than this have no order to speak of.
LEAST_METHODS = 4
RESAMPLES = 999


@dataclass(frozen=True, eq=False)
class Agreement:
    """Kendall's tau-b over methods of every similarity metric with every reading.

    Attributes
    ----------
    readings, similarities : tuple of str
        Metric ids.
    tau, low, high : DataFrame, shape (similarities, readings)
        In [-1, 1]; the interval is NaN for one subject.
    methods, subjects : int
        How many of them tau rests on.
    """

    readings: tuple[str, ...]
    similarities: tuple[str, ...]
    tau: pd.DataFrame
    low: pd.DataFrame
    high: pd.DataFrame
    methods: int
    subjects: int

    def table(self) -> pd.DataFrame:
        """One row per pair: ``similarity reading tau low high methods subjects``."""
        rows = [
            (s, r, self.tau.loc[s, r], self.low.loc[s, r], self.high.loc[s, r], self.methods, self.subjects)
            for s in self.similarities
            for r in self.readings
        ]
        return pd.DataFrame(
            rows, columns=["similarity", "reading", "tau", "low", "high", "methods", "subjects"]
        )

    def to_markdown(self) -> str:
        """Tau with its interval, one line per similarity metric."""
        head = ["", *(markdown_text(r) for r in self.readings)]
        lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * len(self.readings)]
        for s in self.similarities:
            cells = [self.text(s, r) for r in self.readings]
            lines.append(f"| {markdown_text(s)} | " + " | ".join(map(markdown_text, cells)) + " |")
        over = (
            f"with its bootstrap 95 % interval over {self.subjects} subjects"
            if self.subjects > 1
            else "of one subject, so without interval"
        )
        note = f"Kendall's tau over {self.methods} methods and controls, {over}."
        return "\n".join([*lines, "", note, ""])

    def text(self, similarity: str, reading: str) -> str:
        """``0.42 [0.10, 0.60]``; a dash where tau is not defined."""
        i, j = self.similarities.index(similarity), self.readings.index(reading)
        tau, low, high = (float(t.to_numpy()[i, j]) for t in (self.tau, self.low, self.high))
        if np.isnan(tau):
            return "–"
        return f"{tau:.2f}" + (f" [{low:.2f}, {high:.2f}]" if np.isfinite(low) else "")


def agreement(board: Board, *, resamples: int = RESAMPLES, seed: int = 0) -> Agreement | None:
    """Measure the agreement on a board; None where it has no readings, no likenesses or few methods.

    Methods and controls take part that have no failure among the cases and metrics that were run for all, so
    that all taus are over the same ones.  Draws of subjects are the same for all metrics.
    """
    shown = [c for c in board.columns if c.direction != "none" and (c.ranked or c.default)]
    readings = [c.id for c in shown if c.kind == "reading"]
    likenesses = [c.id for c in shown if c.kind == "similarity"]
    if not (readings and likenesses):
        return None
    scores = board.scores.take(metrics=[*likenesses, *readings])
    common = find_common(scores, readings)
    scores = scores.only(common.cells).take(common.methods, common.metrics)
    readings = [m for m in readings if m in common.metrics]
    likenesses = [m for m in likenesses if m in common.metrics]
    if not (readings and likenesses):
        return None
    finite = np.where(np.isinf(scores.goodness), np.sign(scores.goodness) * 1e9, scores.goodness)
    present = ~np.isnan(finite)
    # A metric that some case does not have is averaged over those that do.
    good = np.moveaxis(np.where(present, finite, 0.0), 2, 1) @ scores.membership  # (M, K, G)
    count = np.moveaxis(present.astype(float), 2, 1) @ scores.membership
    complete = np.asarray(present | ~scores.asked).all(axis=(1, 2))
    whole = np.logical_and(complete, (count.sum(axis=2) > 0).all(axis=1))
    if whole.sum() < LEAST_METHODS:
        return None
    good, count = good[whole], count[whole]
    with np.errstate(invalid="ignore"):
        mean = good.sum(axis=2) / count.sum(axis=2)
    n = len(likenesses)
    tau = _taus(mean[:, :n, None], mean[:, n:, None])[..., 0]
    low = high = np.full_like(tau, np.nan)
    subjects = int((count.sum(axis=(0, 1)) > 0).sum())
    if subjects > 1:
        draws = bootstrap_mean(good, count, resamples=resamples, seed=seed)[2]
        drawn = _taus(draws[:, :n], draws[:, n:])
        low, high = np.nanquantile(drawn, [0.025, 0.975], axis=2)

    def frame(x: Floats) -> pd.DataFrame:
        return pd.DataFrame(x, likenesses, readings)

    return Agreement(
        tuple(readings), tuple(likenesses), frame(tau), frame(low), frame(high), int(whole.sum()), subjects
    )


def _taus(x: Floats, y: Floats) -> Floats:
    """Kendall's tau-b over methods of means (M, S, B) and (M, R, B); shape (S, R, B); NaN where all tie."""
    i, j = np.triu_indices(len(x), 1)
    a, b = (np.sign(np.round(v[i] - v[j], 12)) for v in (x, y))
    agree = np.einsum("psb,prb->srb", a, b)
    size = np.sqrt(np.abs(a).sum(axis=0)[:, None] * np.abs(b).sum(axis=0)[None])
    return np.asarray(np.divide(agree, size, out=np.full_like(agree, np.nan), where=size > 0))
