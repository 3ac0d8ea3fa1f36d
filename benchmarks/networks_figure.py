"""Two phantom slices (val split) through the five learned 2D methods with their shipped weights.

PYTHONPATH=. python benchmarks/networks_figure.py docs/networks.png
"""

from __future__ import annotations

import sys

import torch
from matplotlib.figure import Figure

import fusebench

METHODS = ("densefuse", "u2fusion", "matr", "dilran", "swinfuse")
SLICES = (60, 75)


def main(path: str) -> None:
    pair = fusebench.create_dataset("phantom").cases("val")[0].pair
    methods = {name: fusebench.create_method(name) for name in METHODS}
    figure = Figure(figsize=(14, 4.3))
    axes = figure.subplots(len(SLICES), 2 + len(METHODS))
    for number, z in enumerate(SLICES):
        a, b = (torch.from_numpy(volume.data[z : z + 1].copy()) for volume in (pair.a, pair.b))
        images = {"MRI": a, "PET": b}
        for name, method in methods.items():
            method.setup("cpu")
            images[name] = method.fuse(a, b)
        for axis, (title, image) in zip(axes[number], images.items(), strict=True):
            axis.imshow(image[0], cmap="gray", vmin=0, vmax=1, origin="lower")
            axis.axis("off")
            if number == 0:
                axis.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main(sys.argv[1])
