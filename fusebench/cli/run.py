"""``run``: every chosen method on the same cases, scored, ranked."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..errors import InputError
from ..method_info import DEFAULT_SET
from ..parameters import user_path
from ..text import plural
from ._console import make_console
from ._options import (
    add_board_options,
    add_data_options,
    add_device_option,
    add_plugin_option,
    add_settings_option,
    at_least,
    choices_of,
    data_of,
    settings_of,
    split_commas,
)
from ._signals import CTRL_C

if TYPE_CHECKING:
    from ..api import Run
    from ..engine.request import Request
    from ..engine.run import Planned


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run methods on a dataset and print the leaderboard (the default command)",
        description="Run methods on a dataset and print the leaderboard.",
    )
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--methods",
        action="append",
        metavar="NAMES",
        help="names, wildcards, all, fast, or standard (default: all but what takes minutes a volume)",
    )
    what.add_argument("--exclude", action="append", default=[], metavar="NAMES", help="methods to leave out")
    what.add_argument(
        "--weights", action="append", default=[], metavar="METHOD=FILE", help="weights of a learned method"
    )
    add_settings_option(what, "method")
    what.add_argument(
        "--method-as",
        action="append",
        default=[],
        metavar="LABEL=METHOD,PARAM=VALUE",
        help="a further entry: a method under a label of yours, with parameters (repeatable)",
    )
    what.add_argument(
        "--metrics",
        action="append",
        metavar="IDS",
        help="metric ids, wildcards, or all (default: the ranking set)",
    )
    what.add_argument(
        "--protocol",
        action="append",
        metavar="NAMES",
        help="volume, readers (both by default), slices, paper",
    )
    add_plugin_option(parser)
    add_data_options(parser)
    how = parser.add_argument_group("how")
    add_device_option(how)
    how.add_argument(
        "--jobs",
        type=at_least(0),
        metavar="N",
        help="worker processes (default: one per core); 0 runs in this process, for a debugger",
    )
    how.add_argument(
        "--threads", type=at_least(1), default=1, metavar="N", help="threads per worker (default 1)"
    )
    how.add_argument("--executor", choices=["local", "dask"], default="local")
    how.add_argument("--scheduler", metavar="ADDR", help="address of a running Dask scheduler")
    how.add_argument(
        "--timeout",
        type=at_least(0, float),
        metavar="S",
        help="limit for one fuse, 0: none (default 900 s, and more where this machine is slow or busy)",
    )
    how.add_argument(
        "--memory",
        type=at_least(1, float),
        metavar="MB",
        help="memory limit per worker (default: 90 %% shared)",
    )
    how.add_argument("--repeats", type=at_least(1), default=1, metavar="N", help="fuse N times for timing")
    how.add_argument("--seed", type=int, default=0)
    out = parser.add_argument_group("results")
    out.add_argument("--out", type=Path, metavar="DIR", help="run folder (default runs/<dataset>-<split>)")
    out.add_argument(
        "--save-fused", action="store_true", help="keep every fused volume (default: the first case's)"
    )
    again = out.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="run what is missing or changed (default)")
    again.add_argument("--force", action="store_true", help="run everything again")
    again.add_argument("--collect", action="store_true", help="run nothing; make tables from stored rows")
    add_board_options(out)
    out.add_argument("--dry-run", action="store_true", help="show what would run and why")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..api import finish
    from ..engine.pool import LocalPool
    from ..engine.run import first_workers, plan_run
    from ._progress import Shown

    asked = request_of(args)
    console = console_of(wide=args.wide)
    observer = Shown(console)
    # First of all: workers import torch while this process, which never does, finds out what to run.
    with LocalPool(1 if args.dry_run and asked.jobs != 0 else first_workers(asked), asked.threads) as pool:
        planned = plan_run(asked, pool, observer)
        if args.dry_run:
            return dry_run(planned, console)
        return show(finish(planned, pool, observer), console, wide=args.wide)


def request_of(args: argparse.Namespace) -> Request:
    """The options of the command line as the engine takes them."""
    from ..engine.request import Request

    settings = settings_of(args.set)
    for pair in args.weights:
        name, _, path = pair.partition("=")
        if not path:
            raise InputError(f"--weights {pair}: the form is METHOD=FILE")
        settings.setdefault(name, {})["weights"] = str(user_path(path).resolve())
    choices = choices_of(args.method_as, "--method-as")
    chosen = split_commas(args.methods or [])
    return Request(
        methods=chosen or ([] if choices else [DEFAULT_SET]),
        exclude=split_commas(args.exclude),
        choices=choices,
        settings=settings,
        **data_of(args),
        protocols=split_commas(args.protocol or []),
        metrics=split_commas(args.metrics or []),
        device=args.device,
        jobs=args.jobs,
        threads=args.threads,
        executor=args.executor,
        scheduler=args.scheduler or "",
        timeout="auto" if args.timeout is None else args.timeout or None,
        memory=args.memory,
        repeats=args.repeats,
        seed=args.seed,
        out=args.out,
        save="all" if args.save_fused else "first",
        rank_by=args.rank_by or "",
        radiological=args.radiological,
        reuse="force" if args.force else "collect" if args.collect else "resume",
        command=sys.argv,
    )


def console_of(*, wide: bool = False) -> Console:
    """The console of a board: of the terminal's width; in a file 100 columns, or room for all of them."""
    return make_console(columns=250 if wide else 100)


def show(result: Run, console: Console, *, wide: bool = False) -> int:
    """Name the files of a run and print its boards, the main one last; returns the exit code."""
    for path in result.publish():
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    for board in reversed(result.boards.values()):
        board.to_terminal(console, wide=wide)
    if result.unfinished:
        left = plural(result.unfinished, "fusion")
        print(f"interrupted, {left} left; to go on: {_command()}", file=sys.stderr)
        return CTRL_C
    return int(not result.failures.empty)


def _command() -> str:
    """The command line as it was typed, for another time."""
    program = sys.argv[0]
    words = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*words, *(word for word in sys.argv[1:] if word != "--force")])  # what is there stays


def dry_run(planned: Planned, console: Console) -> int:
    """Show what would run, and why."""
    from ..engine.plan import pending

    rows = [] if planned.request.reuse == "force" else planned.stored_rows()
    todo = pending(planned.tasks, rows)
    for task, why in todo:
        console.print(f"{task.label}: {_reasons(why)}", markup=False, highlight=False)
    stored = sum(len(t.scores) for t in planned.tasks) - sum(len(t.scores) for t, _ in todo)
    total = _reasons(Counter(stored=stored) + sum((why for _, why in todo), Counter()))
    console.print(f"{len(todo)} of {len(planned.tasks)} fusions would run; results: {total}", highlight=False)
    return 0


def _reasons(why: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in why.items())
