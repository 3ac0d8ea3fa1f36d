"""``robustness``: scores against the aligned sources as the PET arrives more and more misaligned."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from ._options import (
    add_device_option,
    add_plugin_option,
    at_least,
    device_of,
    literal,
    parameters_of,
    plugins_of,
    split_commas,
)
from .run import chosen_metrics


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "robustness",
        help="misaligned phantoms scored against the aligned sources, with a chart",
        description="Fuse phantoms whose PET is displaced by a known amount; score against the aligned "
        "sources, recover lesions where they are, and measure consistency from slice to slice.",
    )
    parser.add_argument(
        "--methods", action="append", metavar="NAMES", help="names or wildcards (default dcfb,average)"
    )
    parser.add_argument(
        "--with",
        dest="extra",
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
    parser.add_argument("--out", type=Path, default=Path("runs/robustness"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    add_device_option(parser)
    add_plugin_option(parser)
    parser.set_defaults(run=run)


def _amounts(text: str) -> list[float]:
    try:
        out = [float(t) for t in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers in mm, e.g. 0,4,8") from None
    if any(not 0 <= mm <= 20 for mm in out):
        raise argparse.ArgumentTypeError(f"{text!r}: each is between 0 and 20 mm")
    return out


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from ..errors import InputError
    from ..parameters import create

    robustness = importlib.import_module("fusebench.leaderboard.robustness")
    console = Console()
    plugins = plugins_of(args)
    names = plugins.methods.select(split_commas(args.methods or ["dcfb,average"]))
    methods = {n: plugins.methods.load(n)() for n in names}
    for item in args.extra:
        label, equals, rest = item.partition("=")
        name, *pairs = rest.split(",")
        given = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if not (equals and label and name and len(given) == len(pairs)):
            raise InputError(f"--with {item}: the form is LABEL=METHOD,PARAM=VALUE,...")
        methods[label] = create(name, plugins.methods.load(name), {k: literal(v) for k, v in given.items()})
    for method in methods.values():
        method.setup(device_of(args))
    options = {} if args.misalign is None else {"misalign": args.misalign}
    phantom = parameters_of(args.data_option, "--data-option")
    if "misalign" in phantom:
        raise InputError("--data-option misalign: give the amounts with --misalign MM,MM")
    create("phantom", plugins.datasets.load("phantom"), phantom)
    rows = robustness.measure(
        methods,
        **options,
        split=args.split,
        cases=args.cases,
        phantom=phantom,
        metrics=chosen_metrics(plugins, args.metrics) if args.metrics else robustness.METRICS,
        seed=args.seed,
        progress=lambda line: console.print(line, highlight=False),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(args.out / "robustness.csv", index=False)
    table = robustness.table(rows)
    table.round(5).to_csv(args.out / "robustness_means.csv")
    figures = robustness.chart(rows, args.out / "robustness")
    console.print(table.round(4).to_string(), highlight=False, soft_wrap=True)
    for path in (args.out / "robustness.csv", args.out / "robustness_means.csv", *figures):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0
