"""``board``: the public board from entries that others submitted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ._options import writing


def add(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser("board", help="the public board, from submitted entries")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    merge = actions.add_parser(
        "merge",
        help="check entries and write the page of those that hold",
        description="Check every entry (as submit --check does) and write one page: places, badges, entries "
        "of older metric versions in grey, and below it those that are refused, with the reason.",
    )
    several = merge.add_argument(
        "entries", nargs="+", type=Path, metavar="ENTRY", help="an entry, or a folder of entries"
    )
    merge.add_argument("--out", type=Path, required=True, help="folder of the page")
    merge.add_argument(
        "--trusted",
        action="append",
        default=[],
        type=Path,
        metavar="RUN",
        help="a run folder of your own: a method with an entry's name confirms (re-run) or refutes it, "
        "others join as reference (repeatable)",
    )
    merge.add_argument(
        "--verdicts",
        type=Path,
        metavar="FOLDER",
        help="verdicts that your machine wrote with submit --verdict",
    )
    merge.set_defaults(several=several, run=run)


def run(args: argparse.Namespace) -> int:
    """Write the board; 1 where an entry was refused."""
    from ..leaderboard.public import merge
    from ..leaderboard.rescore import read_verdicts
    from ._console import make_console

    console = make_console()
    known = read_verdicts(args.verdicts) if args.verdicts else {}
    with writing(args.out):
        paths, refused = merge(args.entries, args.out, trusted=args.trusted, verdicts=known)
    for line in refused:
        console.print(f"refused: {line}", markup=False, highlight=False, soft_wrap=True)
    console.print(str(paths[0]), markup=False, highlight=False, soft_wrap=True)
    return int(bool(refused))
