"""``compare``: did a new run get worse than a base run?"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..store.folder import RunFolder
from ._options import at_least, refuse_sources, write_named


def add(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "compare",
        help="paired comparison of two runs; exit code 1 on a loss",
        description="Pair the rows of two runs by case and say what got worse. Exit code 0: nothing, 1: a "
        "loss, 2: the runs cannot be compared. Time and memory only warn unless --gate-costs is given.",
    )
    parser.add_argument(
        "base", type=Path, metavar="BASE", help="run folder, or a history store (its newest commit counts)"
    )
    parser.add_argument("new", type=Path, metavar="NEW", help="run folder")
    parser.add_argument(
        "--baseline", action="append", default=[], type=Path, metavar="RUN",
        help="another run of the base; the noise of time and memory is learned from them (repeatable). With "
        "a history store as BASE its last 10 commits are used.",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=("auto", "exact", "test"), default="auto",
        help="exact: any mean loss above --tolerance; test: significant by subject and above --min-effect; "
        "auto: exact for what ran on a CPU (default)",
    )  # fmt: skip
    parser.add_argument(
        "--tolerance",
        type=at_least(0, float),
        metavar="X",
        help="default: what each metric declares, 1e-6 for nearly all",
    )
    parser.add_argument("--alpha", type=float, default=0.05, metavar="P", help="default 0.05")
    parser.add_argument(
        "--min-effect", type=float, default=0.05, metavar="SD",
        help="smallest loss that counts in a test, in standard deviations over cases (default 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--gate-costs",
        action="store_true",
        help="time or memory beyond the noise band is a loss, not a warning",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the summary there too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every compared series there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, print the summary (in Markdown where no person reads it), and return 1 on a loss."""
    from rich.markdown import Markdown

    from ..leaderboard import regression, runs
    from ._console import make_console

    for option in ("markdown", "json"):
        refuse_sources(f"--{option}", getattr(args, option), (args.base, args.new, *args.baseline))
    baselines = [runs.load([p]) for p in args.baseline]
    stored = sorted(args.base.glob("*.parquet")) if not RunFolder(args.base).manifest.exists() else []
    if stored:
        base = runs.load([stored[-1]])
        baselines += [runs.load([p]) for p in stored[-10:-1]]
    else:
        base = runs.load([args.base])
    result = regression.compare(
        base,
        runs.load([args.new]),
        baselines=baselines,
        mode=args.mode,
        tolerance=args.tolerance,
        alpha=args.alpha,
        min_effect=args.min_effect,
        gate_costs=args.gate_costs,
    )
    text = result.to_markdown()
    for path, content in ((args.markdown, text), (args.json, result.to_json())):
        if path is not None:
            write_named(path, content)
    if sys.stdout.isatty():
        make_console().print(Markdown(text))
    else:
        sys.stdout.write(text)
    return int(result.lost)
