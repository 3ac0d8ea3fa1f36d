"""``submit``: make an entry for the public board from a run, and check one as the board's machine does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import InputError
from ._options import refuse_sources, write_named, writing


def add(subparsers: Any) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "submit",
        help="make an entry for the public board from a run, or check one",
        description="Make one folder from one method of a run with --save-fused: who and what (entry.toml), "
        "rows, manifest, and the fused volumes of two cases. --check reads it as the board's machine does.",
    )
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--out", type=Path, metavar="ENTRY", help="folder to write, new or empty")
    parser.add_argument("--check", type=Path, metavar="ENTRY", help="check this entry")
    parser.add_argument(
        "--verdict", type=Path, metavar="FILE", help="with --check: write what was found as JSON"
    )
    about = parser.add_argument_group("entry")
    about.add_argument("--method", help="which method of the run (default: its only one)")
    about.add_argument("--name", help="its name on the board (default: the method's)")
    about.add_argument("--authors", action="append", default=[], metavar="NAME", help="repeatable")
    about.add_argument("--paper", default="", help="title, DOI or address")
    about.add_argument("--code", default="", help="https:// address of the code")
    about.add_argument("--commit", default="", help="which version of it")
    about.add_argument("--training-data", default="", help="what it was trained on, or none")
    about.add_argument("--licence", default="", help="of code and weights")
    about.add_argument("--notes", default="")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Make or check an entry; 1 where the check refuses it."""
    from ._console import make_console

    console = make_console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if args.check is not None:
        if args.run_dir is not None or args.out is not None:
            raise InputError("--check reads an entry; leave out RUN and --out")
        return _check(args, say)
    if args.run_dir is None or args.out is None:
        raise InputError("give a run folder and --out ENTRY, or --check ENTRY")
    from ..leaderboard.submission import make_entry

    with writing(args.out):
        entry = make_entry(
            args.run_dir,
            args.out,
            method=args.method or "",
            name=args.name or "",
            authors=tuple(args.authors),
            paper=args.paper,
            code=args.code,
            commit=args.commit,
            training_data=args.training_data,
            licence=args.licence,
            notes=args.notes,
        )
    volumes = ", ".join(sorted(entry.volumes))
    say(f"{args.out}: {len(entry.rows)} rows of {entry.about.method}, volumes of {volumes}")
    say(f"next: submit --check {args.out}")
    return 0


def _check(args: argparse.Namespace, say: Any) -> int:
    from ..leaderboard.entries import read_entry
    from ..leaderboard.rescore import check, verdict_text

    refuse_sources("--verdict", args.verdict, [args.check])
    verdict = check(read_entry(args.check))
    for line in verdict.lines():
        say(line)
    if args.verdict is not None:
        write_named(args.verdict, verdict_text(verdict))
    return int(verdict.badge == "refused")
