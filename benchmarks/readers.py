"""The readers' results: the table and the picture of docs/readers.md, on the phantom's val split.

PYTHONPATH=. python benchmarks/readers.py docs [--cases N] [--methods NAMES]
PYTHONPATH=. python benchmarks/readers.py docs --pooled AANLIB [--methods NAMES]

The second reads all MRI-PET pictures of one head as one: the observer learns in some and reads the others.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fusebench
from fusebench.scoring.protocol import READINGS

# Half of the edge of a picture in mm.
HALF = 28.0


def table(run: fusebench.api.Run) -> pd.DataFrame:
    """Mean of every reading by method, and the standard deviation of `reading` over subjects."""
    rows = run.rows[run.rows["protocol"] == "readers"]
    wide = rows.pivot_table("value", ["method", "group"], "metric").groupby("method")
    out = wide.mean()[list(READINGS)]
    out.insert(1, "reading_sd", wide["reading"].std())
    return out.sort_values("reading", ascending=False)


def pooled(folder: Path, names: list[str]) -> pd.DataFrame:
    """AUC of each method over the pictures of one head: mean of the pictures' own, and of all as one."""
    reading, observer = (import_module(f"fusebench.metrics.readers.{n}") for n in ("reading", "observer"))
    own: dict[tuple[str, str], list[float]] = {}
    seen: dict[tuple[str, str, int], list[Any]] = {}
    cases = fusebench.create_dataset("aanlib", data_dir=folder, modality="MRI-PET").cases("test")
    methods = {name: fusebench.create_method(name) for name in names}
    for number, case in enumerate(cases):
        game = reading.game_of(case)
        for name, method in methods.items():
            method.setup("cpu")
            pairs = (case.a.data, case.b.data), (game.a_with, game.b_with)
            with torch.inference_mode():
                both = [method.fuse(*(torch.from_numpy(np.array(x)) for x in pair)).numpy() for pair in pairs]
            for key, value in game.look(*both).values.items():
                own.setdefault((name, key), []).append(value)
            for key, sites in (("cho_auc.a", game.findings.a), ("cho_auc.b", game.findings.b)):
                for sign in reading.SIGNS:
                    parts = game.seen(*both, sites, sign)
                    # Whole pictures are left out in turn.
                    folds = [np.full(len(x), number % observer.FOLDS) for x in parts[1:]]
                    seen.setdefault((name, key, sign), []).append((*parts, *folds))
    rows = []
    for name in names:
        row: dict[str, Any] = {"method": name}
        for key in ("cho_auc.a", "cho_auc.b"):
            answers = [
                observer.observe(*map(np.concatenate, zip(*seen[name, key, sign], strict=True)))
                for sign in reading.SIGNS
            ]
            row[key] = np.mean(own[name, key])
            row[f"{key}, pictures as one"] = np.mean([a.auc() for a in answers])
            row[f"{key}, findings"] = sum(len(a.present) for a in answers)
        rows.append(row)
    return pd.DataFrame(rows).set_index("method")


def clearest(game: Any) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The dark structural and the dark functional finding with the most even surroundings in their source."""
    places = []
    for image, sites, radius in ((game.a, game.findings.a, 4), (game.b, game.findings.b, 6)):
        dark = sites.places[sites.signs < 0]
        boxes = [image[tuple(slice(p - radius, p + radius + 1) for p in place)] for place in dark]
        places.append(dark[int(np.argmin([box.std() / box.mean() for box in boxes]))])
    return places[0], places[1]


def picture(case: fusebench.Case, names: list[str]) -> Figure:
    """Both findings in the sources and in fused images, without and with, in the axial plane."""
    game = import_module("fusebench.metrics.readers.reading").game_of(case)
    images = {
        "MRI": (case.a.data, game.a_with),
        "PET": (case.b.data, game.b_with),
    }
    for name in names:
        method = fusebench.create_method(name)
        method.setup("cpu")
        pairs = (case.a.data, case.b.data), (game.a_with, game.b_with)
        with torch.inference_mode():
            plain, with_ = (method.fuse(*(torch.from_numpy(np.array(x)) for x in pair)) for pair in pairs)
        images[name] = plain.numpy(), with_.numpy()
    rows = [(kind, place, k) for kind, place in zip("ab", clearest(game), strict=True) for k in (0, 1)]
    figure = Figure(figsize=(2 * len(images), 8.4))
    axes = figure.subplots(len(rows), len(images))
    for number, (kind, place, index) in enumerate(rows):
        line = axes[number]
        z, *centre = place
        half = [round(HALF / s) for s in case.a.spacing[1:]]
        box = tuple(slice(max(0, c - h), c + h + 1) for c, h in zip(centre, half, strict=True))
        for axis, (title, pair) in zip(line, images.items(), strict=True):
            axis.imshow(pair[index][z][box], cmap="gray", vmin=0, vmax=1, origin="lower")
            axis.set_xticks([])
            axis.set_yticks([])
            if not number:
                axis.set_title(title)
            if index:
                axis.plot(half[1], half[0], "o", ms=26, mfc="none", mec="tab:orange", mew=0.8, alpha=0.7)
        what = "structural" if kind == "a" else "functional"
        line[0].set_ylabel(f"{what}, {'with' if index else 'without'}")
    figure.tight_layout(pad=0.4)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("docs", type=Path)
    parser.add_argument("--cases", type=int)
    parser.add_argument("--methods", default="all", help="of the table")
    parser.add_argument("--shown", default="average,max", help="of the picture")
    parser.add_argument("--plugin", action="append", default=[])
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--out", type=Path, default=Path("runs/readers-val"))
    parser.add_argument("--pooled", type=Path, help="folder of AANLIB")
    args = parser.parse_args()
    if args.pooled:
        print(pooled(args.pooled, fusebench.list_methods(args.methods.split(","))).round(3).to_string())
        return
    run = fusebench.run(
        args.methods,
        protocols="readers",
        split="val",
        cases=args.cases,
        plugins=args.plugin,
        jobs=args.jobs,
        save="none",
        out=args.out,
        progress=print,
    )
    found = table(run)
    found.round(3).to_csv(args.docs / "readers.csv")
    print(found.round(3).to_string())
    case = fusebench.create_dataset("phantom").cases("val")[0]
    picture(case, args.shown.split(",")).savefig(args.docs / "readers.png", dpi=70)


if __name__ == "__main__":
    main()
