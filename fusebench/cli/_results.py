"""``score --results-dir``: entries of a board from images that were made elsewhere."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from ._options import plugins_of, split_commas


def score_results(args: argparse.Namespace) -> int:
    """Score ``args.results_dir`` against a dataset; rows, board and files as of a run."""
    from ..engine.bench import any_failed, publish
    from ..engine.from_files import FileRunner, file_specs, file_tasks, find_results
    from ..engine.hardware import describe_hardware
    from ..engine.manifest import describe_run, git_state, write_manifest
    from ..engine.plan import Options, default_metrics, make_plan, metric_infos, pending, scored
    from ..store.rows import RunStore
    from .run import chosen_metrics, dataset_facts, left_out_notes, make_dataset, split_cases

    console = Console(width=None if sys.stdout.isatty() else 160)
    plugins = plugins_of(args)
    dataset = make_dataset(plugins, args)
    listed = split_cases(dataset, args)
    cases = listed[: args.cases]
    notes = left_out_notes(dataset, console)
    results = find_results(args.results_dir, cases, plugins, args.name)
    wanted = (args.fused_range[0], args.fused_range[1]) if args.fused_range else None
    with_truth = any(c.truth_loader for c in cases)
    asked = split_commas([args.metrics]) if args.metrics else []
    metrics = chosen_metrics(plugins, asked) if asked else default_metrics(plugins, with_truth)
    folder = args.out or Path("runs") / f"{args.dataset}-{args.split}"
    options = Options(
        run=datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"), metrics=tuple(metrics), protocols=(args.protocol,)
    )
    specs = file_specs(results, args.results_dir, wanted)
    ids = scored(options.protocols, metrics)
    infos = metric_infos(plugins, (m for chosen in ids.values() for m in chosen))
    planned = make_plan(plugins, cases, specs, infos, options, folder)
    tasks = list(file_tasks(planned, results, infos))
    runner = FileRunner(results, wanted)
    with RunStore(folder) as store:
        manifest = describe_run(
            run=options.run,
            command=sys.argv,
            options={**asdict(options), "jobs": 0, "threads": 1},
            methods=specs,
            metrics=infos,
            dataset=dataset_facts(dataset, args.split, len(cases)),
            hardware=describe_hardware(),
            git=git_state(),
        )
        for entry in manifest["methods"].values():
            entry["dims"] = None  # slices or volumes: the images do not say
        write_manifest(folder, manifest)
        for task, _ in pending(tasks, store.latest()):
            rows = runner.run(task)
            store.append(rows)
            for reason in dict.fromkeys(r.reason for r in rows if r.status not in ("ok", "skip")):
                console.print(f"{task.label}: {reason}", markup=False, highlight=False, soft_wrap=True)
        table = store.consolidate(listed)
        publish(folder, table, console, metrics if asked else None, [*notes, *store.outdated])
    return int(any_failed(table, tasks))
