"""``prepare``: look at real data, pair it, preprocess it once into the cache; resumable and parallel."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..case import Case
from ..dataset import Dataset
from ..engine.data import check_split, open_dataset, split_cases
from ..engine.deadline import asking_dataset
from ..files import atomic_path, refuse_foreign, refuse_links, write_text
from ..limits import usable_cores
from ..text import printable
from ._options import (
    add_plugin_option,
    add_radiological_option,
    at_least,
    parameters_of,
    plugins_of,
    writing,
)
from .run import console_of

MARKER = ".fusebench-prepare"
_MADE = ("report.csv", "splits.csv", "quality")  # in the folder of --out
_FIRST = ("subject", "case", "status", "split", "reason")


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "prepare",
        help="pair and preprocess a dataset once into the cache, and report what was found",
        description="Pair and preprocess a dataset once into the cache.  An interrupted run resumes.",
    )
    parser.add_argument("--dataset", required=True, metavar="NAME")
    parser.add_argument("--data-dir", type=Path, metavar="PATH", help="where the data lies")
    parser.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="a parameter of the dataset, e.g. recipe=paper or visits=all (repeatable)",
    )
    parser.add_argument("--split", default="all", help="train, val, test or all (default)")
    parser.add_argument("--cases", type=at_least(1), metavar="N", help="the first N cases only")
    parser.add_argument(
        "--report",
        action="store_true",
        help="only say what was found, paired and left out, and why, as a table and a CSV",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="first fetch what is missing, where the dataset can be fetched by a program",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), metavar="N", help="worker processes (default: one per core)"
    )
    add_radiological_option(parser)
    parser.add_argument("--no-images", action="store_true", help="no quality PNG per case")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the report (default prepared/<dataset>)"
    )
    add_plugin_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    console = console_of()
    options = parameters_of(args.data_option, "--data-option")
    out = args.out or Path("prepared") / args.dataset
    _check_ours(out)
    if args.download and args.data_dir is not None:
        with writing(args.data_dir):
            args.data_dir.mkdir(parents=True, exist_ok=True)
    dataset = open_dataset(plugins_of(args), args.dataset, args.data_dir, options)
    check_split(dataset, args.split)
    if args.download:
        with asking_dataset(args.dataset, "downloading it"):
            dataset.download(
                lambda line: console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
            )
    with asking_dataset(args.dataset, "reporting its cases"):
        rows, summary = _report_rows(dataset, args.split), dataset.summary()
    with writing(out):  # before anything else, so that what is interrupted can go on
        write_text(out / MARKER, "Made by prepare of FuseBench; the next one replaces its files here.\n")
    for line in summary:
        console.print(printable(line), markup=False, highlight=False)
    failed = 0
    if not args.report:
        cases = split_cases(dataset, args.split)[: args.cases]
        images = None if args.no_images else out / "quality"
        results = _prepare_all(
            cases, images, args.jobs or usable_cores(), console, radiological=args.radiological
        )
        by_case = {row["case"]: row for row in rows if row["case"]}
        for case in cases:
            by_case.setdefault(case.id, {"subject": case.group, "case": case.id}).update(results[case.id])
        rows = [*by_case.values(), *(row for row in rows if not row["case"])]
        failed = sum(r["status"] == "error" for r in results.values())
    _print_table(rows, console)
    path = _write_csv(rows, out / "report.csv")
    splits = _write_splits(rows, out / "splits.csv")
    for made in (path, splits):
        console.print(str(made), markup=False, highlight=False, soft_wrap=True)
    return int(failed > 0)


def _report_rows(dataset: Dataset, split: str) -> list[dict[str, Any]]:
    rows = [r for r in dataset.report() if split == "all" or not r["case"] or r["split"] == split]
    if not rows:
        split_cases(dataset, split)  # its error says what is expected
    return rows


def _prepare_all(
    cases: list[Case], images: Path | None, jobs: int, console: Console, *, radiological: bool
) -> dict[str, dict[str, Any]]:
    from ..datasets.preprocessing.prepare import prepare_cases

    results: dict[str, dict[str, Any]] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("prepare", total=len(cases))

        def done(case: Case, result: dict[str, Any]) -> None:
            results[case.id] = result
            progress.advance(bar)
            if not console.is_terminal:
                text = f"[{len(results)}/{len(cases)}] {case.id}: {result['status']} {result['reason']}"
                moved = f", moved by {result['moved_mm']:.1f} mm" if "moved_mm" in result else ""
                console.print(text.rstrip() + moved, markup=False, highlight=False, soft_wrap=True)

        prepare_cases(cases, images, jobs, done, radiological=radiological)
    return results


# -- output --------------------------------------------------------------------------------------


def _print_table(rows: list[dict[str, Any]], console: Console, most: int = 60) -> None:
    table = Table(box=None, header_style="bold")
    for name in ("subject", "case", "status", "split", "why"):
        table.add_column(name, overflow="fold")
    # Rows that need attention come first where the table is cut; the CSV holds everything.
    order = {"error": 0, "left out": 1}
    shown = sorted(rows, key=lambda r: order.get(str(r["status"]), 2)) if len(rows) > most else rows
    for row in shown[:most]:
        why = row.get("reason") or row.get("flags") or row.get("note") or ""
        if "moved_mm" in row:
            why = f"moved by {row['moved_mm']:.1f} mm" + (f"; {why}" if why else "")
        where = f" [{row['file']}]" if row.get("file") else ""
        table.add_row(
            *(_plain(row.get(k, "")) for k in ("subject", "case", "status", "split")), _plain(f"{why}{where}")
        )
    console.print(table)
    if len(rows) > most:
        console.print(f"... and {len(rows) - most} more rows in the CSV", highlight=False)
    counts: dict[str, int] = {}
    for row in rows:
        counts[str(row["status"])] = counts.get(str(row["status"]), 0) + 1
    console.print(", ".join(f"{n} {s}" for s, n in sorted(counts.items())), highlight=False)


def _plain(value: object) -> str:
    from rich.markup import escape

    return escape(printable(str(value)))


def _check_ours(out: Path) -> None:
    """Raise `InputError` where files would be replaced that no `prepare` made, or written through a link."""
    refuse_links(out, ["quality"])
    if not (out / MARKER).is_file():
        refuse_foreign(out, _MADE, "prepare")


def _write_csv(rows: list[dict[str, Any]], path: Path) -> Path:
    from ..text import csv_value

    first = _FIRST if any("status" in row for row in rows) else ("subject", "split")
    names = list(dict.fromkeys([*first, *(k for row in rows for k in row)]))
    with (
        writing(path.parent),
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as handle,
    ):
        writer = csv.DictWriter(handle, names, restval="")
        writer.writeheader()
        writer.writerows({k: csv_value(v) for k, v in row.items()} for row in rows)
    return path


def _write_splits(rows: list[dict[str, Any]], path: Path) -> Path:
    """Subject and split, in the form that ``--data-option split=FILE`` takes."""
    splits = {r["subject"]: r["split"] for r in rows if r.get("split") and r["subject"]}
    return _write_csv([{"subject": s, "split": splits[s]} for s in sorted(splits)], path)
