"""``check``: does a method, metric or dataset keep its contract?  A readable report; exit code 1 if not."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from ._console import make_console
from ._options import add_device_option, add_plugin_option, device_of, parameters_of, plugins_of, weights_path

if TYPE_CHECKING:
    from ..testing import Outcome

_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "xpass": "bold red",
    "xfail": "yellow",
    "skip": "dim",
}
_STATUS_WORDS = {"skip": "n/a", "xfail": "expected", "xpass": "no longer fails"}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("check", help="check that a method, metric or dataset keeps its contract")
    parser.add_argument("kind", choices=["method", "metric", "dataset"])
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="a parameter of the method or dataset",
    )
    parser.add_argument("--weights", metavar="FILE", help="weights of a learned method")
    parser.add_argument("--data-dir", type=Path, metavar="PATH", help="where the dataset lies")
    parser.add_argument("--verbose", action="store_true", help="say what each check demands")
    add_device_option(parser)
    add_plugin_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..testing import check_plugin

    subject = _subject(args)
    outcomes = check_plugin(subject, on_fail="keep")
    rules = {check.name: check.rule for check in subject.checks}
    table = Table(box=box.SIMPLE_HEAD)
    for header in (f"{args.kind} {args.name}", "", ""):
        table.add_column(header, no_wrap=bool(header), overflow="fold")
    tried = [o for o in outcomes if o.status != "blocked"]
    for outcome in tried:
        text = outcome.message or (rules[outcome.check] if args.verbose else "")
        word = _STATUS_WORDS.get(outcome.status, outcome.status)
        table.add_row(outcome.check, f"[{_STYLES[outcome.status]}]{word}[/]", escape(text))
    for reason, checks in _not_tried(outcomes).items():
        table.add_row(f"{len(checks)} not tried", "", escape(f"{reason}: {', '.join(checks)}"), style="dim")
    console = make_console()
    console.print(table)
    failed = sum(not o.ok for o in outcomes)
    passed = sum(o.status == "pass" for o in outcomes)
    seconds = sum(o.seconds for o in outcomes)
    verdict = f"{failed} failed" if failed else "conforms"
    console.print(
        f"{args.name}: {verdict}; {passed} of {len(outcomes)} passed, {seconds:.1f} s", highlight=False
    )
    return int(failed > 0)


def _not_tried(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Checks that were not tried, by the reason."""
    found: dict[str, list[str]] = {}
    for outcome in outcomes:
        if outcome.status == "blocked":
            found.setdefault(outcome.message.removeprefix("not tried, "), []).append(outcome.check)
    return found


def _subject(args: argparse.Namespace) -> Any:
    from ..errors import InputError
    from ..parameters import create
    from ..testing import DatasetSubject, MethodSubject, MetricSubject

    plugin: Any = getattr(plugins_of(args), f"{args.kind}s").load(args.name)
    parameters = parameters_of(args.set, "--set")
    if args.weights is not None:
        parameters["weights"] = str(weights_path(args.weights, args.name).resolve())
    if args.data_dir is not None:
        parameters["data_dir"] = args.data_dir.resolve()
    if args.kind == "metric":
        if parameters:
            raise InputError(
                f"metric {args.name} has no parameter {next(iter(parameters))!r}; metrics have none"
            )
        return MetricSubject(plugin)
    if args.kind == "dataset" and plugin.info.needs_dir and not parameters:
        raise InputError(f"dataset {args.name} needs --data-dir PATH. {plugin.info.obtain}".strip())
    made = create(args.name, plugin, parameters) if parameters else plugin
    if args.kind == "method":
        return MethodSubject(made, device=device_of(args))
    return DatasetSubject(made, again=create(args.name, plugin, parameters))
