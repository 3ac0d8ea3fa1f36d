"""How every metric judges a fair fusion as it is distorted, for the pages of the metrics.

    python benchmarks/metric_trends.py            # all, into docs/trends.csv and docs/distortions.png
    python benchmarks/metric_trends.py psnr q_s   # these only, printed

A small head (72 x 64), or a small phantom where a metric needs ground truth; the fair fusion is the mean of
both sources.  Equal on every machine to about five digits, as the metrics are.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fusebench.errors import FuseBenchError
from fusebench.plugins import find_plugins
from fusebench.testing import MetricSubject
from fusebench.testing.degradations import DEGRADATIONS
from fusebench.testing.images import head
from fusebench.testing.metric_subject import SIZE

DOCS = Path(__file__).resolve().parents[1] / "docs"
GRADES = (0.25, 0.5, 1.0)


def _stretch(a: Any, b: Any, f: Any, grade: float) -> Any:
    return f + grade * 0.8 * (f - f.mean())


def _towards(source: int, a: Any, b: Any, f: Any, grade: float) -> Any:
    return (1 - grade) * f + grade * (a, b)[source]


def _of_fused(degrade: Any, a: Any, b: Any, f: Any, grade: float) -> Any:
    return degrade(f, grade)


DISTORTIONS: Mapping[str, Any] = {
    **{name: partial(_of_fused, degrade) for name, degrade in DEGRADATIONS.items()},
    "more contrast": _stretch,
    "only A": partial(_towards, 0),
    "only B": partial(_towards, 1),
}


def distorted(name: str, grade: float, a: Any, b: Any, f: Any) -> Any:
    """The fused image `f` of `a` and `b` with a distortion of strength 0 to 1, clipped to [0, 1]."""
    return np.asarray(np.clip(DISTORTIONS[name](a, b, f, grade), 0, 1), np.float32)


def trends(metric: str) -> Iterator[tuple[str, float, float]]:
    """Distortion, strength and value of a metric; what is not defined is left out."""
    subject = MetricSubject(find_plugins().metrics.load(metric))
    start = subject.judged(lambda a, b, f: f)
    for name in DISTORTIONS:
        yield name, 0.0, start
        for grade in GRADES:
            try:
                value = subject.judged(partial(distorted, name, grade))
            except FuseBenchError:
                continue
            if math.isfinite(value):
                yield name, grade, value


def thumbnails(path: Path) -> None:
    """Draw the fair fusion and each distortion at full strength."""
    from PIL import Image

    a, b, _ = head(SIZE)
    fair = (a + b) / 2
    images = [fair, *(distorted(name, 1.0, a, b, fair) for name in DISTORTIONS)]
    levels = [np.rint(255 * np.pad(x, 2, constant_values=1)).astype(np.uint8) for x in images]
    sheet = Image.fromarray(np.concatenate(levels, axis=1))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(path, optimize=True)


def main(names: list[str]) -> None:
    """Print or write the trends."""
    out = sys.stdout if names else (DOCS / "trends.csv").open("w", newline="", encoding="utf-8")
    with out as handle:
        rows = csv.writer(handle, lineterminator="\n")
        rows.writerow(["metric", "distortion", "strength", "value"])
        for metric in names or find_plugins().metrics.names():
            for name, grade, value in trends(metric):
                rows.writerow([metric, name, f"{grade:g}", f"{value:.5g}"])
            print(metric, file=sys.stderr)
    if not names:
        thumbnails(DOCS / "distortions.png")


if __name__ == "__main__":
    main(sys.argv[1:])
