"""``new``: write a method, metric or dataset to start from, with its card and its test."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from ._console import make_console
from ._options import plugins_of


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("new", help="write a new method, metric or dataset to start from")
    parser.add_argument("kind", choices=["method", "metric", "dataset"])
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--dims", type=int, choices=[2, 3], default=3, help="of a method: 3 fuses volumes")
    parser.add_argument("--learned", action="store_true", help="a PyTorch method with weights and training")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for all files (default: into the checkout)"
    )
    parser.set_defaults(run=run, plugin=[])


def run(args: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..testing.scaffold import write_plugin

    if args.kind != "method" and (args.learned or args.dims != 3):
        raise InputError(f"--dims and --learned are for methods, not for a {args.kind}")
    made = write_plugin(
        args.kind, args.name, plugins_of(args), out=args.out, dims=args.dims, learned=args.learned
    )
    say = partial(make_console().print, markup=False, highlight=False, soft_wrap=True)
    written = [(made.plugin, f"the {args.kind}: start here"), (made.test, "its test")]
    written += [(made.card, "its card: what a reader should know")]
    written += [(made.weights, "initial weights")] if made.weights else []
    width = max(len(_short(path)) for path, _ in written)
    for path, what in written:
        say(f"{_short(path):{width}}  {what}")
    option = "" if made.dropped_in else f" --plugin {_short(made.plugin)}"
    say("\nnext:")
    for line in _next(args.kind, args.name, option, made.test, args.learned):
        say(f"  {line}")
    return 0


def _next(kind: str, name: str, option: str, test: Path, learned: bool) -> list[str]:
    check = f"python run_bench.py check {kind} {name}{option}"
    lines = {
        "method": [check, f"python run_bench.py --methods {name},average --cases 1{option}"],
        "metric": [
            check,
            f"python run_bench.py --methods average,max --metrics {name},psnr --cases 1{option}",
        ],
        "dataset": [
            f"{check} --data-dir FOLDER",
            f"python run_bench.py --methods average --dataset {name} --data-dir FOLDER{option}",
        ],
    }[kind]
    if learned:
        lines += [f"python run_bench.py train {name}{option}"]
    return [*lines, f"python -m pytest {_short(test)}"]


def _short(path: Path) -> str:
    try:
        return os.path.relpath(path) if path.resolve().is_relative_to(Path.cwd()) else str(path)
    except ValueError:
        return str(path)
