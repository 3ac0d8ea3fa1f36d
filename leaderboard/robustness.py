"""What a fused image is worth when the functional image arrives misaligned, and from slice to slice.

The embedded phantom is simulated with a known displacement of the PET.  A method gets the displaced PET and
is scored against the *aligned* sources, which it never sees; lesions, too, are looked for where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fusebench.engine.task import fuse
from fusebench.method import Method
from fusebench.plugins import create_dataset
from fusebench.scoring.evaluate import evaluate, evaluate_slices

from .charts import save

Image = NDArray[np.float32]

MISALIGN = (0.0, 2.0, 4.0, 6.0, 8.0)
METRICS = (
    *("psnr", "psnr.worst", "psnr.b", "ssim", "ssim.worst", "ssim.b"),
    *("lesion_contrast", "gm_wm_auc"),
)
THROUGH = ("through_plane_error", "in_plane_error", "ssim_axial", "ssim_coronal", "ssim_sagittal")
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


def measure(
    methods: Mapping[str, Method],
    *,
    misalign: Sequence[float] = MISALIGN,
    split: str = "test",
    cases: int | None = None,
    phantom: Mapping[str, Any] = MappingProxyType({}),
    metrics: Sequence[str] = METRICS,
    through: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Fuse misaligned phantoms and score against the aligned sources.

    Parameters
    ----------
    methods : mapping
        Label to a method that was set up.
    misalign : sequence of float
        Mean displacements of the PET in mm.
    cases : int, optional
        The first so many subjects of the split; default all.
    phantom : mapping
        Parameters of the phantom besides `misalign`.
    metrics : sequence of str
        Metric ids, scored in 3D inside the foreground.  Lesion metrics use the counterfactual twin, fused
        under the same displacement.
    through : bool
        Add the numbers of `through_plane` for every result.
    progress : callable
        Called with a line after each subject.

    Returns
    -------
    DataFrame
        Columns ``method, misalign, case, metric, value``; a value that is not defined is absent.
    """
    rows: list[dict[str, Any]] = []
    for amount in misalign:
        dataset = create_dataset("phantom", **phantom, misalign=float(amount))
        for case in list(dataset.cases(split))[:cases]:
            a, b, truth = case.a.data, case.b.data, dict(case.truth or {})
            aligned = truth["pet_aligned"]
            for label, method in methods.items():
                fused, _ = fuse(method, a, b, seed)
                if truth["lesion"].any():
                    truth["fused_twin"], _ = fuse(method, truth["mri_twin"], truth["pet_twin"], seed)
                values = evaluate(
                    a, aligned, fused, list(metrics), mask=case.mask, spacing=case.a.spacing, truth=truth
                )
                if through:
                    values |= through_plane(a, aligned, fused, case.mask)
                rows += [
                    {"method": label, "misalign": amount, "case": case.id, "metric": k, "value": v}
                    for k, v in values.items()
                    if np.isfinite(v)
                ]
            progress(f"{amount:g} mm  {case.id}")
    return pd.DataFrame(rows, columns=["method", "misalign", "case", "metric", "value"])


def through_plane(a: Image, b: Image, fused: Image, mask: NDArray[np.bool_]) -> dict[str, float]:
    """Consistency from slice to slice.

    ``through_plane_error`` is the mean distance, inside the mask, of the step from one axial slice to the
    next from what the sources' steps allow (anything between the two and none): any fixed blend scores 0, a
    slice-wise method that flickers does not.  ``in_plane_error`` is the same along the two other axes, the
    price of a method's own texture.  ``ssim_axial``, ``ssim_coronal`` and ``ssim_sagittal`` are the mean over
    slices in each plane of the 2D SSIM to the two sources.
    """
    out = {
        "through_plane_error": _step_error(a, b, fused, mask, 0),
        "in_plane_error": (_step_error(a, b, fused, mask, 1) + _step_error(a, b, fused, mask, 2)) / 2,
    }
    for axis, plane in enumerate(("axial", "coronal", "sagittal")):
        held = mask.any(axis=tuple(i for i in range(3) if i != axis))
        sa, sb, sf = (np.ascontiguousarray(np.moveaxis(x, axis, 0)[held]) for x in (a, b, fused))
        out[f"ssim_{plane}"] = float(np.mean(evaluate_slices(sa, sb, sf, ["ssim"])["ssim"]))
    return out


def _step_error(a: Image, b: Image, fused: Image, mask: NDArray[np.bool_], axis: int) -> float:
    sa, sb, sf = (np.diff(x, axis=axis) for x in (a, b, fused))
    n = mask.shape[axis]
    inside = mask.take(range(1, n), axis) & mask.take(range(n - 1), axis)
    if not inside.any():
        return float("nan")
    low = np.minimum(np.minimum(sa, sb), 0)
    high = np.maximum(np.maximum(sa, sb), 0)
    error = np.maximum(low - sf, 0) + np.maximum(sf - high, 0)
    return float(error[inside].mean())


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
        Of `measure`.
    stem : Path
        File name without suffix.
    metrics : sequence of str
        Which to draw; default all but the in-plane ones.
    """
    names = list(metrics) or [m for m in dict.fromkeys(rows["metric"]) if m not in THROUGH[1:]]
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
