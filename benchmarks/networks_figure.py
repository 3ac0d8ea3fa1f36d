"""A phantom slice (val split) through the learned methods beside DCFB, with their shipped weights.

PYTHONPATH=. python benchmarks/networks_figure.py docs/networks.png
"""

from __future__ import annotations

import sys

import torch
from matplotlib.figure import Figure

import fusebench

METHODS = ("densefuse", "u2fusion", "matr", "dilran", "swinfuse", "ifcnn")
METHODS += ("gesenet", "cddfuse", "emma", "gifnet", "swinfusion", "cnn3d")
SLICE = 70
REACH = 8  # slices on either side, which only the 3D network looks at
COLUMNS = 7


def main(path: str) -> None:
    pair = fusebench.create_dataset("phantom").cases("val")[0].pair
    a, b = (torch.from_numpy(v.data[SLICE - REACH : SLICE + REACH + 1].copy()) for v in (pair.a, pair.b))
    images = {"MRI": a[REACH], "PET": b[REACH]}
    for name in METHODS:
        method = fusebench.create_method(name)
        method.setup("cpu")
        flat = method.info.dims == 2
        part = slice(REACH, REACH + 1) if flat else slice(None)
        images[name] = method.fuse(a[part], b[part])[0 if flat else REACH]
    figure = Figure(figsize=(14, 4.6))
    for axis, (title, image) in zip(figure.subplots(2, COLUMNS).flat, images.items(), strict=True):
        axis.imshow(image, cmap="gray", vmin=0, vmax=1, origin="lower")
        axis.axis("off")
        axis.set_title(title)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main(sys.argv[1])
