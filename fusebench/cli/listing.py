"""``list``: what is registered; a plugin that cannot be loaded is a row with the reason.

Bundled plugins are read, not imported, but for the parameters of those that are named.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..errors import PluginError
from ..method_info import REFERENCE
from ..metric import ARROWS
from ..parameters import signature
from ..registry import Registry
from ..text import plural, printable
from ._console import make_console
from ._options import add_plugin_option, plugins_of, split_commas

Cells = Callable[[Any], list[str]]

_ROOM = 110
"""Columns of a terminal that hold what a method was trained on beside its summary."""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("list", help="list methods, datasets or metrics")
    parser.add_argument("what", choices=["methods", "datasets", "metrics"])
    several = parser.add_argument(
        "patterns", nargs="*", default=["all"], help="names or wildcards; their parameters are listed too"
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="names only, one per line")
    form.add_argument("--json", action="store_true", help="all facts, as JSON")
    add_plugin_option(parser)
    parser.set_defaults(run=run, several=several)


def run(args: argparse.Namespace) -> int:
    registry: Registry[Any] = getattr(plugins_of(args), args.what)
    names = registry.select(split_commas(args.patterns) or ["all"], split_commas(args.exclude))
    if args.names:
        print(*names, sep="\n")
        return 0
    if args.json:
        print(json.dumps([_record(registry, name) for name in names], indent=2, ensure_ascii=False))
        return 0
    headers, cells = _COLUMNS[args.what]
    console = make_console()
    # A column that would leave the summary no room is left out; ``--json`` has it.
    shown = [i for i, header in enumerate(headers) if header != "trained on" or console.width >= _ROOM]
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("name", *(headers[i] for i in shown)):
        right = header == "s/Mvoxel"
        table.add_column(
            header, no_wrap=header == "name", overflow="fold", justify="right" if right else "left"
        )
    broken = 0
    for name in names:
        try:
            found = registry.facts(name)
            *row, summary = (cells(found.info)[i] for i in shown)
            setting = ", ".join(f"{key}={value}" for key, value in found.setting.items())
            table.add_row(name, *map(_cell, [*row, f"{summary} ({setting})" if setting else summary]))
        except PluginError as error:
            broken += 1
            place = f"cannot be loaded: {error.reason} ({error.origin})"
            table.add_row(f"[red]{name}[/red]", *[""] * (len(shown) - 1), f"[red]{_cell(place)}[/red]")
    console.print(table)
    note = f", {broken} cannot be loaded" if broken else ""
    console.print(f"{plural(len(names), args.what[:-1])}{note}")
    if args.what == "methods":
        console.print(
            f"s/Mvoxel: seconds to fuse a million voxels, {REFERENCE}", markup=False, highlight=False
        )
    apart = [n for n in registry.unlisted() if args.patterns == ["all"]]
    if apart:
        console.print(f"only where they are named: {', '.join(apart)}", markup=False, highlight=False)
    for name in names if set(args.patterns).isdisjoint({"all", *registry.sets}) else []:
        if args.what == "metrics":
            _print_definition(name, registry, console)
        else:
            _print_parameters(name, registry, args.what, console)
    return 0


def _cell(text: str) -> str:
    """A plugin's text for a table of the terminal: no markup, and nothing that steers it."""
    return escape(printable(text, keep="\n"))


def _print_line(text: str, console: Console) -> None:
    console.print(f"  {printable(text)}", markup=False, highlight=False, soft_wrap=True)


def _record(registry: Registry[Any], name: str) -> dict[str, Any]:
    """Facts of an entry as JSON has them; ``error`` holds the reason where it cannot be loaded."""
    try:
        found = registry.facts(name)
    except PluginError as error:
        return {"name": name, "origin": error.origin, "error": error.reason}
    facts = {k: None if v in (math.inf, -math.inf) else v for k, v in asdict(found.info).items()}
    return {**facts, "name": name, "origin": registry.entry(name).origin, "setting": dict(found.setting)}


def _print_parameters(name: str, registry: Registry[Any], what: str, console: Console) -> None:
    """The options that set a plugin's parameters, each with its default, as they are typed."""
    try:
        plugin, variant = registry.load(name), registry.entry(name).variant
    except PluginError:
        return
    given = plugin.variants[variant] if variant else {}
    option = f"--set {name}." if what == "methods" else "--data-option "
    known = signature(plugin)[0].values()
    for p in known:
        if p.name == "data_dir":
            typed = "--data-dir PATH"
        else:
            typed = f"{option}{p.name}={'...' if p.required else given.get(p.name, p.default)}"
        words = "" if p.name == "data_dir" else p.words
        _print_line(f"{typed:<40} {words}".rstrip(), console)
    if not known:
        console.print(f"  {name} has no parameters", markup=False, highlight=False)
    if what == "methods" and not variant:
        for other, setting in plugin.variants.items():
            typed = ", ".join(f"{key}={value}" for key, value in setting.items())
            _print_line(f"variant {name}@{other}: {typed}", console)


def _print_definition(name: str, registry: Registry[Any], console: Console) -> None:
    """What a metric is, and how its variants differ."""
    try:
        info = registry.facts(name).info
    except PluginError:
        return
    said = {name: info.formula, "paper": info.paper, "notes": info.notes}
    lines = [f"{key}: {text}" for key, text in said.items() if text]
    for line in [*lines, *(f"{name}@{key}: {text}" for key, text in info.variants.items())]:
        _print_line(line, console)


def _method(info: Any) -> list[str]:
    kind = "control" if info.control else f"{info.dims}D"
    cost = "" if info.cost is None else f"{info.cost:.2g}"
    return [kind, f"{info.params:,}" if info.params else "", cost, info.trained_on, info.summary]


def _dataset(info: Any) -> list[str]:
    return [info.modalities, ", ".join(info.splits), info.summary]


def _metric(info: Any) -> list[str]:
    several = " ".join([*(f".{p}" for p in info.parts), *(f"@{v}" for v in info.variants)])
    return [
        ARROWS[info.direction] or "–",
        f"{info.low:g} … {info.high:g}{' ' + info.unit if info.unit else ''}",
        "yes" if info.ranked else "",
        f"{info.title}\n  {several}" if several else info.title,
    ]


_COLUMNS: dict[str, tuple[tuple[str, ...], Cells]] = {
    "methods": (("kind", "params", "s/Mvoxel", "trained on", "summary"), _method),
    "datasets": (("modalities", "splits", "summary"), _dataset),
    "metrics": (("better", "range", "ranked", "full name, parts and variants"), _metric),
}
