"""Scores as the functional image arrives more and more misaligned: table and chart from the rows of runs.

The embedded phantom is simulated with a known displacement of the PET.  A method gets the displaced PET and
is scored against the *aligned* sources, which it never sees; lesions, too, are looked for where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from .charts import save

MISALIGN = (0.0, 2.0, 4.0, 6.0, 8.0)
# Drawn only where asked for.
_IN_PLANE = ("in_plane_error", "ssim_plane", "ssim_plane@coronal", "ssim_plane@sagittal")
METRICS = (
    *("psnr", "psnr.worst", "psnr.b", "ssim", "ssim.worst", "ssim.b"),
    *("lesion_contrast", "gm_wm_auc", "through_plane_error"),
    *_IN_PLANE,
)
# Told apart by marker and dash, not by colour alone.
_LOOKS = [
    (colour, marker, dash)
    for marker, dash, colour in zip(
        "osD^vPX*",
        ("-", "--", "-.", ":") * 2,
        ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#999999"),
        strict=True,
    )
]


def collect(runs: Mapping[float, pd.DataFrame]) -> pd.DataFrame:
    """Rows of one run per displacement, together.

    Parameters
    ----------
    runs : mapping
        Displacement in mm to the rows of its run.

    Returns
    -------
    DataFrame
        Columns ``method, misalign, case, metric, value``; a value that is not defined is absent.
    """
    parts = [rows[rows["status"] == "ok"].assign(misalign=amount) for amount, rows in runs.items()]
    together = pd.concat(parts, ignore_index=True)
    return together[["method", "misalign", "case", "metric", "value"]]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over subjects: one line per method and displacement, one column per metric, in order."""
    order = list(dict.fromkeys(rows["metric"]))
    wide = rows.pivot_table(index=["method", "misalign"], columns="metric", values="value", sort=False)
    return wide[order].sort_index(level="misalign", kind="stable", sort_remaining=False)


def chart(rows: pd.DataFrame, stem: Path, metrics: Sequence[str] = ()) -> list[Path]:
    """Draw each metric against the displacement, one line per method; write PNG and SVG.

    Parameters
    ----------
    rows : DataFrame
        Of `collect`.
    stem : Path
        File name without suffix.
    metrics : sequence of str
        Which to draw; default all but the in-plane ones.
    """
    names = list(metrics) or [m for m in dict.fromkeys(rows["metric"]) if m not in _IN_PLANE]
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.6 * lines + 0.5), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis, metric in zip(axes.flat, names, strict=False):
        part = rows[rows["metric"] == metric]
        for i, method in enumerate(dict.fromkeys(rows["method"])):
            colour, marker, dash = _LOOKS[i % len(_LOOKS)]
            mean = part[part["method"] == method].groupby("misalign")["value"].mean()
            axis.plot(mean.index, mean, dash, color=colour, marker=marker, markersize=4, label=method)
        axis.set_title(metric)
        axis.set_xlabel("displacement of the PET (mm)")
        axis.grid(color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    return save(figure, stem)
