"""``robustness``: scores against the aligned sources as the PET arrives more and more misaligned."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import refuse_foreign, write_text
from ._options import (
    add_device_option,
    add_plugin_option,
    at_least,
    choices_of,
    parameters_of,
    split_commas,
    writing,
)


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "robustness",
        help="misaligned phantoms scored against the aligned sources, with a chart",
        description="Fuse phantoms whose PET is displaced by a known amount; score against the aligned "
        "sources, recover lesions where they are, and measure consistency from slice to slice.  One run per "
        "displacement, below --out; an interrupted command resumes.",
    )
    parser.add_argument(
        "--methods", action="append", metavar="NAMES", help="names or wildcards (default dcfb,average)"
    )
    parser.add_argument(
        "--method-as",
        action="append",
        default=[],
        metavar="LABEL=METHOD,PARAM=VALUE",
        help="a method with parameters of its own, e.g. plain=dcfb,weights=a.safetensors (repeatable)",
    )
    parser.add_argument("--misalign", type=_amounts, default=None, metavar="MM,MM", help="default 0,2,4,6,8")
    parser.add_argument("--split", default="test", metavar="NAME")
    parser.add_argument("--cases", type=at_least(1), metavar="N", help="only the first N subjects")
    parser.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="a parameter of the phantom, e.g. size=64 (repeatable)",
    )
    parser.add_argument("--metrics", action="append", metavar="IDS", help="metric ids or wildcards")
    parser.add_argument("--protocol", action="append", metavar="NAMES", help="as for run (default volume)")
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=at_least(0), metavar="N", help="worker processes, as for run")
    add_device_option(parser)
    add_plugin_option(parser)
    parser.set_defaults(run=run)


_FILES = tuple(f"robustness{end}" for end in (".csv", "_means.csv", ".png", ".svg"))


def _amounts(text: str) -> list[float]:
    try:
        out = [float(t) for t in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers in mm, e.g. 0,4,8") from None
    if any(not 0 <= mm <= 20 for mm in out):
        raise argparse.ArgumentTypeError(f"{text!r}: each is between 0 and 20 mm")
    return out


def run(args: argparse.Namespace) -> int:
    from ..api import run_request
    from ..engine.request import Request
    from ..leaderboard import robustness
    from ._progress import Shown
    from .run import console_of

    console = console_of()
    if not any(args.out.glob("*mm/manifest.json")):
        refuse_foreign(args.out, _FILES, "robustness")
    phantom = parameters_of(args.data_option, "--data-option")
    if "misalign" in phantom:
        raise InputError("--data-option misalign: give the amounts with --misalign MM,MM")
    choices = choices_of(args.method_as, "--method-as")
    chosen = split_commas(args.methods or [])
    runs = {}
    failed = False
    for amount in args.misalign or robustness.MISALIGN:
        console.print(f"displacement {amount:g} mm", highlight=False)
        asked = Request(
            methods=chosen or ([] if choices else ["dcfb", "average"]),
            choices=choices,
            dataset="phantom",
            data_options={**phantom, "misalign": float(amount), "reference": "aligned"},
            split=args.split,
            cases=args.cases,
            protocols=split_commas(args.protocol or ["volume"]),
            metrics=split_commas(args.metrics) if args.metrics else robustness.METRICS,
            plugins=tuple(args.plugin),
            device=args.device,
            jobs=args.jobs,
            seed=args.seed,
            out=args.out / f"{amount:g}mm",
            command=sys.argv,
        )
        result = run_request(asked, Shown(console))
        runs[float(amount)] = result.rows
        failed |= not result.failures.empty
    rows = robustness.collect(runs)
    if rows.empty:
        raise InputError(f"{args.out}: no method gave a value; the lines above say why")
    table = robustness.table(rows)
    with writing(args.out):
        write_text(args.out / "robustness.csv", rows.to_csv(index=False, lineterminator="\n"))
        write_text(args.out / "robustness_means.csv", table.round(5).to_csv(lineterminator="\n"))
        figures = robustness.chart(rows, args.out / "robustness")
    console.print(table.round(4).to_string(), highlight=False, soft_wrap=True)
    for path in (args.out / "robustness.csv", args.out / "robustness_means.csv", *figures):
        console.print(str(path), highlight=False, soft_wrap=True)
    return int(failed)
