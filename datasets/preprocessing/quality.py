"""Quality of a prepared pair: figures, flags, and one PNG in which a bad registration is seen at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.case import Pair
from fusebench.files import atomic_path
from fusebench.images.sheet import NEUROLOGICAL, RADIOLOGICAL

from .grid import Image, resample

# Beyond these a person should look; the case stays in.
MIN_OVERLAP = 0.7
MIN_INFORMATION = 0.15
MAX_MOVED_MM = 40.0


def doubts(report: Mapping[str, Any]) -> list[str]:
    """Reasons to doubt a case: figures beyond the limits, and what its voxels and headers say."""
    numbers = report.get("numbers", {})
    out = []
    if numbers.get("overlap", 1.0) < MIN_OVERLAP:
        out.append(f"overlap {numbers['overlap']:.0%}")
    if numbers.get("information_after", 1.0) < MIN_INFORMATION:
        out.append(f"mutual information {numbers['information_after']:.2f} bits")
    if numbers.get("moved_mm", 0.0) > MAX_MOVED_MM:
        out.append(f"registration moved it by {numbers['moved_mm']:.0f} mm")
    return out + list(report.get("doubts", []))


def flags(report: Mapping[str, Any]) -> list[str]:
    """Reasons to look at a case: its `doubts`, and every note of its preparation."""
    return list(dict.fromkeys([*doubts(report), *report.get("notes", [])]))


def checkerboard(a: NDArray[Any], b: NDArray[Any], tiles: int = 8) -> NDArray[Any]:
    """Alternate tiles of two slices."""
    y, x = np.indices(a.shape)
    size = max(2, max(a.shape) // tiles)
    return np.where(((y // size) + (x // size)) % 2 == 0, a, b)


def quality_png(
    pair: Pair, path: Path, title: str, to_pet: NDArray[Any] | None = None, *, radiological: bool = False
) -> None:
    """Write MRI, PET, overlay with the mask's outline, and checkerboard in three planes (one for 2D).

    Left and right are marked in volumes; of a picture they are not known.

    Parameters
    ----------
    to_pet : ndarray, shape (4, 4), optional
        What the registration found: world of the MRI to world of the PET.  Overlay and checkerboard by the
        headers alone then stand beside those after registration.
    radiological : bool
        The patient's right is on the left.
    """
    from matplotlib.figure import Figure  # no pyplot: nothing global

    d, h, w = pair.a.shape
    planes = [("axial", 0, d // 2), ("coronal", 1, h // 2), ("sagittal", 2, w // 2)]
    if d == 1:
        planes = planes[:1]
    views = [("", pair.b.data)]
    if to_pet is not None:
        views = [(" before", before(pair, to_pet)), (" after", pair.b.data)]
    columns = 2 + 2 * len(views)
    figure = Figure(figsize=(3 * columns, 3.1 * len(planes) + 0.4), layout="constrained")
    axes = figure.subplots(len(planes), columns, squeeze=False)
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
        titles = ["MRI", "PET"]
        for k, (when, data) in enumerate(views):
            seen = np.take(data, index, axis)
            overlay, board = row[2 + k], row[2 + len(views) + k]
            overlay.imshow(a, cmap="gray", **look)
            overlay.imshow(seen, cmap="inferno", alpha=0.45 * (seen > 0.1), **look)
            if m.any() and not m.all():
                overlay.contour(m, levels=[0.5], colors="cyan", linewidths=0.6)
            board.imshow(checkerboard(a, seen), cmap="gray", **look)
            titles.insert(2 + k, f"overlay, mask{when}")
            titles.append(f"checkerboard{when}")
        for ax, what in zip(row, titles, strict=True):
            ax.set_title(f"{what}, {name}", fontsize=8)
            ax.set_axis_off()
            if d > 1 and axis != 2:
                if radiological:
                    ax.invert_xaxis()
                _mark_sides(ax, "RL" if radiological else "LR")
    if d > 1:
        title = f"{title}   {RADIOLOGICAL if radiological else NEUROLOGICAL}"
    figure.suptitle(title, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        figure.savefig(stream, dpi=90, format="png")


def before(pair: Pair, to_pet: NDArray[Any]) -> NDArray[np.float32]:
    """The PET of a registered pair where its header put it, as far as it is in view."""
    image = Image(pair.b.data, pair.b.affine)
    back = np.asarray(np.linalg.inv(to_pet), np.float64)
    return resample(image, image.shape, image.affine, to_image=back)


def _mark_sides(ax: Any, sides: str) -> None:
    """Write which side of the patient is where."""
    from matplotlib.patheffects import withStroke

    edge = [withStroke(linewidth=1.5, foreground="black")]
    for x, end, side in zip((0.02, 0.98), ("left", "right"), sides, strict=True):
        ax.text(x, 0.5, side, color="white", fontsize=8, va="center", transform=ax.transAxes,
                ha=end, path_effects=edge)  # fmt: skip
