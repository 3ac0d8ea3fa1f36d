"""``history``: scores and times over commits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from ._options import writing


def add(subparsers: Any) -> None:
    """Register the subcommand and its two actions."""
    parser = subparsers.add_parser(
        "history", help="keep runs by commit and chart them", description="Scores and times over commits."
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    adder = actions.add_parser("add", help="keep one run under its commit")
    adder.add_argument("source", type=Path, metavar="RUN", help="run folder, or a pytest-benchmark JSON file")
    adder.add_argument("--store", type=Path, required=True, metavar="DIR", help="folder of the history")
    adder.add_argument(
        "--benchmark", action="append", default=[], type=Path, metavar="JSON",
        help="pytest-benchmark file of the same commit (repeatable)",
    )  # fmt: skip
    adder.add_argument("--commit", metavar="SHA", help="default: what the run's manifest says")
    adder.add_argument("--time", metavar="ISO", help="when; default: what the run's manifest says")
    adder.set_defaults(run=run_add)

    charter = actions.add_parser("chart", help="draw the history, with steps marked")
    charter.add_argument("--store", type=Path, required=True, metavar="DIR", help="folder of the history")
    charter.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: STORE/chart)")
    charter.set_defaults(run=run_chart)


def run_add(args: argparse.Namespace) -> int:
    """Write one file of the store and print its path."""
    from ..leaderboard import history

    facts = {"benchmarks": args.benchmark, "commit": args.commit, "time": args.time}
    with writing(args.store):
        path = history.add(args.source, args.store, **facts)
    print(path)
    return 0


def run_chart(args: argparse.Namespace) -> int:
    """Draw, print the steps and the entry page."""
    out = args.out or args.store / "chart"
    try:
        from ..leaderboard import history

        with writing(out):
            paths, found = history.chart(args.store, out)
    except ModuleNotFoundError as error:
        if error.name != "ruptures":
            raise
        raise InputError("history chart needs ruptures: pip install 'fusebench[site]'") from None
    for step in found:
        verdict = "worse" if step.worse else "better"
        print(f"{step.commit[:12]}  {step.series.group}, {step.series.name}: {step.describe()}, {verdict}")
    print(paths[0])
    return 0
