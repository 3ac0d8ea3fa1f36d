"""How much the phantom is like a real pair, in numbers: ``python -m fusebench.datasets.phantom.check``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from .anatomy import FOV
from .fields import jacobian
from .phantom import read_split
from .subject import Subject, make_subject, subject_displacement


def measure(subject: Subject, seed: int) -> dict[str, float]:
    """One row of the table."""
    truth, mask, pet = subject.truth, subject.mask, subject.b
    voxel = FOV / mask.shape[0]
    low, high = np.percentile(pet[mask], [5, 95])
    white = ndimage.binary_erosion((truth["wm"] > 0.9) & mask)
    noise = (pet - truth["pet_clean"])[mask & (pet < 1)].std() / pet[mask].mean()
    row = {
        "seed": seed,
        "brain_ml": mask.sum() * voxel**3 / 1000,
        "brain_share": mask.mean(),
        "pet_p95_p5": high / low,
        "pet_wm_cv": pet[white].std() / pet[white].mean(),
        "pet_noise": noise,
        "min_jacobian": jacobian(subject_displacement(seed, mask.shape[0]), voxel)[mask].min(),
    }
    if subject.lesion:
        lesion, depth = truth["lesion"], truth["lesion_depth"]
        healthy = truth["uptake"] / (1 - depth)
        row["lesion_ml"] = lesion.sum() * voxel**3 / 1000
        row["lesion_true"] = 1 - truth["uptake"][lesion].sum() / healthy[lesion].sum()
        row["lesion_pet"] = 1 - pet[lesion].sum() / truth["pet_twin"][lesion].sum()
    return row


def draw(subject: Subject, path: Path) -> None:
    """MRI, PET, uptake and the effect of the lesion, through the middle of the brain."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    effect = subject.truth["pet_twin"] - subject.b
    middle = [int(np.median(index)) for index in np.nonzero(subject.mask)]
    figure, axes = plt.subplots(3, 4, figsize=(12, 9))
    for row, (axis, where) in enumerate(zip(axes, middle, strict=True)):
        images = (subject.a, subject.b, subject.truth["uptake"], effect)
        for place, image, name in zip(axis, images, ("MRI", "PET", "uptake", "lost to lesion"), strict=True):
            top = 0.3 if image is effect else 1.0
            place.imshow(np.take(image, where, axis=row), origin="lower", cmap="gray", vmin=0, vmax=top)
            place.set_axis_off()
            if row == 0:
                place.set_title(name)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--subjects", type=int, default=8, help="of the test split")
    parser.add_argument("--fwhm", type=float, default=7.0)
    parser.add_argument("--counts", type=float, default=240.0)
    parser.add_argument("--figure", type=Path, help="PNG of the last subject")
    options = parser.parse_args()
    rows = []
    for _, seed, lesion in read_split("test")[: options.subjects]:
        start = time.process_time()
        subject = make_subject(seed, lesion=lesion, fwhm=options.fwhm, counts=options.counts)
        rows.append({"cpu_s": time.process_time() - start, **measure(subject, seed)})
    table = pd.DataFrame(rows).set_index("seed")
    print(table.round(3).to_string(na_rep="-"))
    print(table.mean().round(3).to_frame("mean").T.to_string())
    if options.figure:
        draw(subject, options.figure)


if __name__ == "__main__":
    main()
