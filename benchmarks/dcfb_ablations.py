"""Parts of `dcfb`, each left out and trained anew: readings by seed, aligned and misaligned, on val phantoms.

    python benchmarks/dcfb_ablations.py train [--forms NAMES] [--seeds NUMBERS] [--steps N]
    python benchmarks/dcfb_ablations.py read [--moved MM]
    python benchmarks/dcfb_ablations.py table

All three go on where they were stopped.  Every form has the same steps, samples and settings; those with
`START` begin with as much of the shipped `dcfb@paper` as fits their shapes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

import fusebench
from fusebench.engine.spec import Choice

ROOT = Path(__file__).resolve().parent.parent
START = ROOT / "methods/weights/dcfb_paper.safetensors"
# Name, option `without` of the recipe, whether it begins with `START`.  "start" is what "whole" begins as.
# The 2D blocks ("flat") have other shapes than the 3D ones of `START`: they are to be compared with "random".
FORMS = {
    "start": ("none", True),
    "whole": ("none", True),
    "attention": ("attention", True),
    "deform": ("deform", True),
    "expectation": ("expectation", True),
    "random": ("none", False),
    "flat": ("flat", False),
}
MOVED = (0, 4, 8)
SHOWN = ("reading", "cho_auc.b", "cho_auc.a", "outline")


def train(out: Path, form: str, seed: int, steps: int) -> None:
    """One training on one CPU thread."""
    without, start = FORMS[form]
    # Few cases: each has a regression to wait for.
    steps = 1 if form == "start" else steps
    options = {"steps": steps, "warmup": 20, "seed": seed, "threads": 1, "cases": 12, "val-split": ""}
    command = [sys.executable, str(ROOT / "run_bench.py"), "train", "dcfb", "--device", "cpu", "--resume"]
    command += [f"--{name}={value}" for name, value in options.items()]
    command += [f"--out={out / f'{form}-{seed}'}", f"--set=without={without}"]
    command += [f"--weights={START}"] if start else []
    subprocess.run(command, check=True)


def trained(out: Path) -> dict[str, Path]:
    """Weights by ``form-seed``, of those that are trained to the end."""
    found = {path.parent.name: path for path in sorted(out.glob("*-*/dcfb.safetensors"))}
    return {name: path for name, path in found.items() if name.rpartition("-")[0] in FORMS}


def read(out: Path, moved: int, cases: int, size: int, jobs: int) -> None:
    """Readings of all that is trained, of `size` cubed voxels, the functional image `moved` mm."""
    choices = [Choice(name, "dcfb", {"weights": str(path)}) for name, path in trained(out).items()]
    fusebench.run(
        "dcfb",
        choices=choices,
        protocols="readers",
        split="val",
        cases=cases,
        data_options={"misalign": float(moved), "size": size},
        jobs=jobs,
        timeout=None,
        save="none",
        out=out / f"read-{moved}",
        progress=print,
    )


def table(out: Path) -> pd.DataFrame:
    """By displacement and form: mean over seeds of the mean over subjects, and its deviation over seeds.

    The form "dcfb" is the shipped network.
    """
    lines = []
    for moved in MOVED:
        folder = out / f"read-{moved}"
        if not folder.is_dir():
            continue
        rows = fusebench.load_run(folder).rows
        seeds = rows.pivot_table("value", "method", "metric")[list(SHOWN)]  # mean over subjects
        for form in ("dcfb", *FORMS):
            own = seeds[seeds.index.str.rpartition("-").get_level_values(0) == form]
            own = seeds.loc[["dcfb"]] if form == "dcfb" else own
            line = {"moved": moved, "form": form, "seeds": len(own)}
            for metric in SHOWN if len(own) else ():
                spread = f" ± {own[metric].std():.3f}" if len(own) > 1 else ""
                line[metric] = f"{own[metric].mean():.3f}{spread}"
            lines.append(line)
    return pd.DataFrame(lines)


def main() -> None:
    """Train, read, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("do", choices=["train", "read", "table"])
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--moved", type=int, choices=MOVED, help="mm; default: all")
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--size", type=int, default=96, help="voxels per axis")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/dcfb-ablations"))
    options = parser.parse_args()
    if options.do == "train":
        for seed in options.seeds.split(","):
            for form in options.forms.split(","):
                train(options.out, form, int(seed), options.steps)
    elif options.do == "read":
        for moved in MOVED if options.moved is None else [options.moved]:
            read(options.out, moved, options.cases, options.size, options.jobs)
    else:
        print(table(options.out).to_string(index=False))


if __name__ == "__main__":
    main()
