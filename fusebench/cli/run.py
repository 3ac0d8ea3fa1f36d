"""``run``: every chosen method on the same cases, scored, ranked."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ..parameters import user_path
from ._options import (
    add_device_option,
    add_plugin_option,
    add_settings_option,
    at_least,
    parameters_of,
    plugins_of,
    settings_of,
    split_commas,
)

if TYPE_CHECKING:
    from ..engine.pool import LocalPool
    from ..plugins import Plugins


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run methods on a dataset and print the leaderboard (the default command)",
        description="Run methods on a dataset and print the leaderboard.",
    )
    what = parser.add_argument_group("what to run")
    what.add_argument(
        "--methods", action="append", metavar="NAMES", help="names or wildcards, or all (default)"
    )
    what.add_argument("--exclude", action="append", default=[], metavar="NAMES", help="methods to leave out")
    what.add_argument(
        "--weights", action="append", default=[], metavar="METHOD=FILE", help="weights of a learned method"
    )
    add_settings_option(what, "method")  # type: ignore[arg-type]
    what.add_argument(
        "--metrics",
        action="append",
        metavar="IDS",
        help="metric ids, wildcards, or all (default: the ranking set)",
    )
    what.add_argument("--protocol", action="append", metavar="NAMES", help="volume (default), slices, paper")
    add_plugin_option(parser)
    data = parser.add_argument_group("data")
    data.add_argument("--dataset", default="phantom", metavar="NAME")
    data.add_argument("--data-dir", type=Path, metavar="PATH", help="where the data lies")
    data.add_argument(
        "--data-option",
        action="append",
        default=[],
        metavar="PARAM=VALUE",
        help="a parameter of the dataset (repeatable)",
    )
    data.add_argument("--split", default="test")
    data.add_argument("--cases", type=at_least(1), metavar="N", help="the first N cases only")
    how = parser.add_argument_group("how")
    add_device_option(how)  # type: ignore[arg-type]
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
        default=900.0,
        metavar="S",
        help="limit for one fuse (default 900 s), 0: none",
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
    out.add_argument("--dry-run", action="store_true", help="show what would run and why")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from ..engine.pool import LocalPool

    # First of all: workers import torch while this process, which never does, finds out what to run.
    with LocalPool(_first_workers(args), args.threads) as pool:
        return _run(args, pool)


def _first_workers(args: argparse.Namespace) -> int:
    """Workers to start at once; how many it takes is known when one of them has looked for a GPU."""
    from ..engine.pool import default_jobs, may_have_gpu

    if args.executor == "dask" or args.scheduler or args.dry_run or args.collect:
        return 0 if args.jobs == 0 else 1
    if args.jobs is not None:
        return int(args.jobs)
    return default_jobs("cuda" if args.device == "auto" and may_have_gpu() else args.device)


def _run(args: argparse.Namespace, pool: LocalPool) -> int:
    from ..engine.bench import any_failed, publish, run_tasks
    from ..engine.manifest import describe_run, git_state, write_manifest
    from ..engine.plan import Options, make_plan, pending
    from ..engine.pool import default_jobs
    from ..engine.survey import survey, survey_apart
    from ..errors import InputError, WorkerDied
    from ..scoring.protocol import PROTOCOLS
    from ..store.rows import RunStore
    from ..text import plural

    console = Console(width=None if sys.stdout.isatty() else 160)
    plugins = plugins_of(args)
    names = plugins.methods.select(split_commas(args.methods or ["all"]), split_commas(args.exclude))
    if not names:
        raise InputError("no method is left to run; see `list methods`")
    settings = settings_of(args.set)
    for name, values in settings.items():
        _check_runs(name, names, plugins, f"--set {name}.{next(iter(values))}")
    for pair in args.weights:
        name, _, path = pair.partition("=")
        if not path:
            raise InputError(f"--weights {pair}: the form is METHOD=FILE")
        _check_runs(name, names, plugins, f"--weights {pair}")
        settings.setdefault(name, {})["weights"] = str(user_path(path).resolve())
    protocols = split_commas(args.protocol or ["volume"])
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise InputError(f"no protocol is called {protocol!r}; there are {', '.join(PROTOCOLS)}")

    dataset = make_dataset(plugins, args)
    listed = split_cases(dataset, args)
    cases = listed[: args.cases]
    notes = left_out_notes(dataset, console)
    asked = chosen_metrics(plugins, args.metrics) if args.metrics else None
    with_truth = any(c.truth_loader for c in cases)
    facts = (plugins.paths, names, settings, asked, protocols, with_truth, args.device)
    answer = pool.ask(partial(survey, *facts))
    git = git_state()
    try:
        found = answer()
    except WorkerDied:
        found = survey_apart(pool, *facts)
    folder = args.out or Path("runs") / f"{args.dataset}-{args.split}"
    if args.collect and not (folder / "rows.jsonl").exists():
        raise InputError(f"{folder}: no stored rows; give the --out of a run, or leave out --collect")
    options = Options(
        run=datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        metrics=found.metrics,
        protocols=tuple(protocols),
        seed=args.seed,
        device=found.device,
        repeats=args.repeats,
        timeout=args.timeout or None,
        save="all" if args.save_fused else "first",
    )
    tasks = make_plan(plugins, cases, found.methods, found.infos, options, folder)
    if args.dry_run:
        return dry_run(tasks, folder, args.force, console)

    jobs = default_jobs(found.device) if args.jobs is None else args.jobs
    with RunStore(folder) as store:
        for note in store.notes:
            console.print(f"note: {note}", markup=False)
        if args.force:
            todo = [replace(task, reuse=False) for task in tasks]
        else:
            todo = [task for task, _ in pending(tasks, store.latest())]
        stored = sum(len(t.scores) for t in tasks) - sum(len(t.scores) for t in todo)
        if args.collect:
            todo = []
        write_manifest(
            folder,
            describe_run(
                run=options.run,
                command=sys.argv,
                options={**asdict(options), "jobs": jobs, "threads": args.threads},
                methods=found.methods,
                metrics=found.infos,
                dataset=dataset_facts(dataset, args.split, len(cases)),
                hardware=found.hardware,
                git=git,
            ),
        )
        console.print(
            f"{plural(len(names), 'method')}, {plural(len(cases), 'case')}, protocol {', '.join(protocols)}: "
            f"{plural(len(todo), 'fusion')} to do, {plural(stored, 'result')} stored; "
            f"{plural(jobs, 'worker') if jobs else 'no workers'} on {found.device}",
            highlight=False,
        )
        run_tasks(todo, store, executor(args, jobs, pool), console, idle=jobs > 0)
        table = store.consolidate(listed)
        if table.empty:
            raise InputError(" ".join([f"{folder}: no stored rows of these data.", *store.outdated]))
        publish(folder, table, console, asked, [*notes, *store.outdated])
    return int(any_failed(table, tasks))


def _check_runs(method: str, names: Sequence[str], plugins: Plugins, option: str) -> None:
    """Refuse an option for a method that does not run: it would change nothing."""
    from ..errors import InputError

    if plugins.methods.entry(method).name not in names:
        raise InputError(f"{option}: {method} is not among the methods to run")


def executor(args: argparse.Namespace, jobs: int, pool: LocalPool) -> Any:
    """What runs the tasks: this machine's cores, Dask, or this process."""
    from ..engine.pool import default_memory_mb, run_here

    if args.executor == "dask" or args.scheduler:
        from ..engine.dask import run_dask

        pool.stop()  # it has answered; Dask's workers do the rest
        return partial(
            run_dask, scheduler=args.scheduler, jobs=jobs or 1, threads=args.threads, memory_mb=args.memory
        )
    if not jobs:
        return run_here
    memory = args.memory or default_memory_mb(jobs)
    return partial(pool.run, jobs=jobs, memory_mb=memory)


def make_dataset(plugins: Any, args: argparse.Namespace) -> Any:
    """The dataset that ``--dataset``, ``--data-dir`` and ``--data-option`` name, which has ``--split``."""
    from ..errors import InputError

    dataset = open_dataset(plugins, args)
    if args.split not in dataset.info.splits:
        raise InputError(
            f"dataset {args.dataset} has no split {args.split!r}; it has {', '.join(dataset.info.splits)}"
        )
    return dataset


def open_dataset(plugins: Any, args: argparse.Namespace) -> Any:
    """The dataset that ``--dataset``, ``--data-dir`` and ``--data-option`` name."""
    from ..errors import InputError
    from ..parameters import create

    cls = plugins.datasets.load(args.dataset)
    options = parameters_of(args.data_option, "--data-option")
    given = {name.replace("-", "_"): value for name, value in options.items()}
    if args.data_dir is not None:
        if not args.data_dir.exists():
            raise InputError(f"--data-dir {args.data_dir}: no such folder")
        given["data_dir"] = args.data_dir.resolve()  # workers may run in another folder
    elif cls.info.needs_dir and not given:
        raise InputError(f"dataset {args.dataset} needs --data-dir PATH. {cls.info.obtain}".strip())
    return create(args.dataset, cls, given)


def split_cases(dataset: Any, args: argparse.Namespace) -> list[Any]:
    """The cases of ``--split``; where there are none, the error says where there are."""
    from ..errors import InputError

    cases = list(dataset.cases(args.split))
    if not cases:
        counts = {split: _count(dataset, split) for split in dataset.info.splits}
        have = ", ".join(f"{split} {count}" for split, count in counts.items())
        other = max(counts, key=lambda split: counts[split])
        remedy = f"try --split {other}" if counts[other] else "check --data-dir and --data-option"
        raise InputError(
            f"dataset {args.dataset} has no cases in split {args.split!r} (cases: {have}); {remedy}"
        )
    return cases


def _count(dataset: Any, split: str) -> int:
    from ..errors import InputError

    try:
        return len(dataset.cases(split))
    except InputError:  # how some datasets say that there are none
        return 0


def dataset_facts(dataset: Any, split: str, cases: int) -> dict[str, Any]:
    """What the manifest says of the data."""
    return {
        "split": split,
        "fingerprint": dataset.fingerprint(split),
        "cases": cases,
        "left_out": left_out(dataset),
        **asdict(dataset.info),
    }


def left_out(dataset: Any) -> str:
    """One line on what the dataset found and cannot use; "" where that is nothing."""
    found = dataset.left_out()
    if not found:
        return ""
    first = found[0] + (", ..." if len(found) > 1 else "")
    return f"{len(found)} left out ({first}); `prepare --dataset {dataset.info.name} --report` says why"


def left_out_notes(dataset: Any, console: Console) -> list[str]:
    """Say what the dataset left out; the same line for the boards, none where that is nothing."""
    lost = left_out(dataset)
    if not lost:
        return []
    console.print(f"note: {lost}", markup=False, highlight=False, soft_wrap=True)
    return [lost]


def chosen_metrics(plugins: Any, asked: list[str]) -> list[str]:
    """Metric ids; a wildcard or ``all`` means default variants."""
    ids: list[str] = []
    for text in split_commas(asked):
        found = plugins.metrics.select([text]) if text == "all" or set(text) & set("*?[") else [text]
        ids += [m for m in found if m not in ids]
    return ids


def dry_run(tasks: Any, folder: Path, force: bool, console: Console) -> int:
    """Show what would run, and why."""
    from ..engine.plan import pending
    from ..store.rows import read_rows

    rows = read_rows(folder) if not force and (folder / "rows.jsonl").exists() else []
    todo = pending(tasks, rows)
    for task, why in todo:
        console.print(f"{task.label}: {_reasons(why)}", markup=False, highlight=False)
    stored = sum(len(t.scores) for t in tasks) - sum(len(t.scores) for t, _ in todo)
    total = _reasons(Counter(stored=stored) + sum((why for _, why in todo), Counter()))
    console.print(f"{len(todo)} of {len(tasks)} fusions would run; results: {total}", highlight=False)
    return 0


def _reasons(why: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in why.items())
