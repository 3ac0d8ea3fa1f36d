"""Quality of a prepared pair: figures, flags, and one PNG in which a bad registration is seen at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.case import Pair
from fusebench.files import atomic_path

# Beyond these a person should look; the case stays in.
MIN_OVERLAP = 0.7
MIN_INFORMATION = 0.15
MAX_MOVED_MM = 40.0


def flags(report: Mapping[str, Any]) -> list[str]:
    """Reasons to look at a case: figures beyond the limits, and every note of its preparation."""
    numbers = report.get("numbers", {})
    out = []
    if numbers.get("overlap", 1.0) < MIN_OVERLAP:
        out.append(f"overlap {numbers['overlap']:.0%}")
    if numbers.get("information_after", 1.0) < MIN_INFORMATION:
        out.append(f"mutual information {numbers['information_after']:.2f} bits")
    if numbers.get("moved_mm", 0.0) > MAX_MOVED_MM:
        out.append(f"moved by {numbers['moved_mm']:.0f} mm")
    return out + list(report.get("notes", []))


def checkerboard(a: NDArray[Any], b: NDArray[Any], tiles: int = 8) -> NDArray[Any]:
    """Alternate tiles of two slices."""
    y, x = np.indices(a.shape)
    size = max(2, max(a.shape) // tiles)
    return np.where(((y // size) + (x // size)) % 2 == 0, a, b)


def quality_png(pair: Pair, path: Path, title: str) -> None:
    """Write MRI, PET, overlay with the mask's outline, and checkerboard in three planes (one for 2D).

    Left and right are marked in volumes; of a picture they are not known.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=1.5, foreground="black")]
    d, h, w = pair.a.shape
    planes = [("axial", 0, d // 2), ("coronal", 1, h // 2), ("sagittal", 2, w // 2)]
    if d == 1:
        planes = planes[:1]
    figure = Figure(figsize=(12, 3.1 * len(planes) + 0.4), layout="constrained")
    axes = figure.subplots(len(planes), 4, squeeze=False)
    for row, (name, axis, index) in zip(axes, planes, strict=True):
        a, b, m = (np.take(x, index, axis) for x in (pair.a.data, pair.b.data, pair.mask))
        spacing = [s for k, s in enumerate(pair.a.spacing) if k != axis]
        # Pictures hold the top row first, RAS+ volumes the lowest.
        look = {
            "origin": "upper" if d == 1 else "lower",
            "aspect": spacing[0] / spacing[1],
            "interpolation": "nearest",
        }
        row[0].imshow(a, cmap="gray", **look)
        row[1].imshow(b, cmap="inferno", **look)
        row[2].imshow(a, cmap="gray", **look)
        row[2].imshow(b, cmap="inferno", alpha=0.45 * (b > 0.1), **look)
        if m.any() and not m.all():
            row[2].contour(m, levels=[0.5], colors="cyan", linewidths=0.6)
        row[3].imshow(checkerboard(a, b), cmap="gray", **look)
        for ax, what in zip(row, ("MRI", "PET", "overlay, mask", "checkerboard"), strict=True):
            ax.set_title(f"{what}, {name}", fontsize=8)
            ax.set_axis_off()
            if d > 1 and axis != 2:  # RAS+: the first column is the patient's left
                for x, side in ((0.02, "L"), (0.98, "R")):
                    ax.text(x, 0.5, side, color="white", fontsize=8, va="center", transform=ax.transAxes,
                            ha="left" if side == "L" else "right", path_effects=edge)  # fmt: skip
    figure.suptitle(title, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        figure.savefig(stream, dpi=90, format="png")
