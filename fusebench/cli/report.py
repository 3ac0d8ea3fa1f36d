"""``report``: tables, figures and the HTML site from stored rows."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..store.folder import RunFolder
from ._options import add_radiological_option, at_least, split_commas, writing


def add(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "report",
        help="tables, figures and an HTML site from stored rows",
        description="Write tables (CSV, Markdown, LaTeX), figures (PNG, SVG) and an HTML site that opens "
        "from disk, from one or more run folders. Of equal rows the later folder's counts.",
    )
    several = parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, help="where to write (default: RUN/report of the last RUN)")
    parser.add_argument("--metrics", action="append", metavar="IDS", help="show and rank on these metric ids")
    parser.add_argument(
        "--viewer-cases",
        type=at_least(0),
        default=8,
        metavar="N",
        help="cases that get an image viewer, of those whose volumes were kept (default 8)",
    )
    parser.add_argument(
        "--rank-by",
        choices=["reading", "similarity", "all"],
        help="what gives the places (default: the readings where the run has some, else the likeness to the "
        "sources)",
    )
    parser.add_argument(
        "--test",
        choices=["permutation", "wilcoxon"],
        default="permutation",
        help="of differences between methods: sign-flip permutation with the maximum statistic (default), or "
        "Wilcoxon with Holm's correction",
    )
    add_radiological_option(parser)
    parser.add_argument(
        "--embed-volumes",
        action="store_true",
        help="put images in also where the terms of the data do not let them be passed on (ADNI): for "
        "yourself only",
    )
    parser.add_argument("--no-figures", action="store_true", help="tables and pages only; much quicker")
    parser.set_defaults(several=several, run=run)


def run(args: argparse.Namespace) -> int:
    """Write the report and print its entry page."""
    metrics = split_commas(args.metrics) if args.metrics else None
    if metrics == []:
        raise InputError("--metrics names none; leave it out for those of the run")
    out = args.out or RunFolder(args.runs[-1]).report
    from ..leaderboard import report

    with writing(out), _fewer_collections():
        paths = report.write(
            args.runs,
            out,
            metrics=metrics,
            viewer_cases=args.viewer_cases,
            figures=not args.no_figures,
            rank_by=args.rank_by or "",
            test=args.test,
            radiological=args.radiological,
            embed_volumes=args.embed_volumes,
        )
    for line in report.said_of_images(args.runs, args.embed_volumes):
        print(f"{'warning' if args.embed_volumes else 'note'}: {line}", file=sys.stderr)
    print(f"{paths[0]} ({len(paths) - 1} tables and figures beside it)")
    return 0


@contextmanager
def _fewer_collections() -> Iterator[None]:
    """Look for garbage after 50,000 new objects: after 700, as usual, it is a sixth of a report's time."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
