"""Slices of a pair in three planes, fused by several methods: ``python benchmarks/fusion_sheet.py``.

By default the first phantom with a lesion in the val split; a pair of files with ``--mri`` and ``--pet``.
Only sheets of phantoms belong in this repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fusebench
from fusebench.imageio import read_pair

Array = NDArray[np.float32]


def planes(image: Array, at: tuple[int, int, int]) -> list[Array]:
    """The axial, coronal and sagittal slice through `at`, top up."""
    return [np.take(image, at[axis], axis=axis)[::-1] for axis in range(3)]


def content(image: Array, margin: int = 3) -> tuple[slice, ...]:
    """The box around what is not air."""
    lit = image > 0.05
    found = (np.flatnonzero(lit.any(axis=1 - axis)) for axis in (0, 1))
    return tuple(slice(max(int(i[0]) - margin, 0), int(i[-1]) + margin + 1) for i in found)


def fuse(name: str, a: Array, b: Array, at: tuple[int, int, int]) -> list[Array]:
    """The three slices as `name` fuses them; a 2D method fuses each slice in its own plane."""
    method = fusebench.create_method(name)
    method.setup("cpu")
    if method.info.dims == 3:
        return planes(method.fuse(torch.from_numpy(a), torch.from_numpy(b)).numpy(), at)
    pairs = zip(planes(a, at), planes(b, at), strict=True)
    return [
        method.fuse(*(torch.from_numpy(np.ascontiguousarray(x)[None]) for x in pair)).numpy()[0]
        for pair in pairs
    ]


def lesion_case() -> tuple[Array, Array, tuple[int, int, int]]:
    """A val phantom with a lesion, and the place where it is deepest."""
    case = next(c for c in fusebench.create_dataset("phantom").cases("val") if c.meta["lesion"])
    assert case.truth is not None
    depth = case.truth["lesion_depth"] * case.truth["gm"]
    at: Any = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return case.a.data, case.b.data, tuple(int(i) for i in at)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default="average,conditional@1,swinfuse,matr,dcfb")
    parser.add_argument("--mri", type=Path)
    parser.add_argument("--pet", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/dcfb_sheet.png"))
    options = parser.parse_args()
    if options.mri:
        pair = read_pair(options.mri, options.pet)
        a, b, spacing = pair.a.data, pair.b.data, pair.a.spacing
        at: Any = tuple(int(np.median(i)) for i in np.nonzero(a > 0.1))
    else:
        a, b, at = lesion_case()
        spacing = (1.0,) * 3  # of any size, but cubes
    columns = {"MRI": planes(a, at), "PET": planes(b, at)}
    columns |= {name: fuse(name, a, b, at) for name in options.methods.split(",")}
    # Air around the head is cut off, the same in all columns.
    boxes = [content(np.maximum(*pair)) for pair in zip(columns["MRI"], columns["PET"], strict=True)]
    shapes = [spacing[row] / spacing[column] for row, column in ((1, 2), (0, 2), (0, 1))]
    sizes = [[side.stop - side.start for side in box] for box in boxes]
    heights = [rows / columns * shape for (rows, columns), shape in zip(sizes, shapes, strict=True)]
    size = (2.2 * len(columns), 2.3 * sum(heights) + 0.3)
    figure = Figure(figsize=size, layout="constrained", facecolor="black")
    axes = figure.subplots(3, len(columns), height_ratios=heights)
    for place, (name, slices) in enumerate(columns.items()):
        for row, (image, box) in enumerate(zip(slices, boxes, strict=True)):
            axes[row, place].imshow(image[box], cmap="gray", vmin=0, vmax=1, aspect=shapes[row])
            axes[row, place].set_axis_off()
        axes[0, place].set_title(name, color="white", fontsize=10)
    figure.savefig(options.out, dpi=70)


if __name__ == "__main__":
    main()
