"""The tasks of a run, and which of them have no valid row yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..case import Case
from ..metric import MetricId, MetricInfo
from ..plugins import Plugins
from ..scoring.protocol import PROTOCOLS
from ..store.data_keys import NOT_KNOWN, Loading
from ..store.folder import RunFolder
from ..store.keys import fuse_key, path_of, score_key, source_key
from ..store.rows import Row
from .spec import MethodSpec, Score, Task
from .volumes import Checked

# Of a metric, besides the images, those first that take another fusion; see `Score.needs`.
NEEDS = ("twin", "findings", "truth", "trial")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a run is made, besides its methods and data; every value can change a row.

    Attributes
    ----------
    run : str
        Id of the run.
    metrics : tuple of str
        Ids for the protocols that prescribe none.
    timeout : float, optional
        Seconds for one fuse.
    patient : bool
        More on a machine that is slow or busy (`Task.patient`).
    save : {"first", "all", "none"}
        Fused volumes to keep: of the first case, of all, of none.
    """

    run: str
    metrics: tuple[str, ...]
    protocols: tuple[str, ...] = ("volume",)
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    repeats: int = 1
    timeout: float | None = None
    patient: bool = False
    save: str = "first"
    split: str = ""


def scored(protocols: Iterable[str], metrics: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Metric ids that each protocol scores: the prescribed ones, else `metrics`."""
    return {p: PROTOCOLS[p].metrics(metrics) for p in protocols}


def make_plan(
    plugins: Plugins,
    cases: Sequence[Case],
    methods: Sequence[MethodSpec],
    infos: Mapping[str, MetricInfo],
    options: Options,
    folder: RunFolder,
    loading: Loading = NOT_KNOWN,
    data: Sequence[str] = (),
) -> list[Task]:
    """Cross methods, cases, protocols and metrics into tasks, case by case; imports no plugin.

    Parameters
    ----------
    infos : mapping
        Of every metric that is `scored`, by name.
    loading : Loading
        Of the dataset.
    data : sequence of str
        Keys of the cases (`case_keys`); none where their fingerprints have to do.
    """
    ids = scored(options.protocols, options.metrics)
    sources = {name: metric_source(plugins, name) for name in infos}

    def scores(volume: str, has_truth: bool) -> tuple[Score, ...]:
        found = []
        for protocol, chosen in ids.items():
            for metric in chosen:
                name = MetricId.parse(metric).name
                skip = PROTOCOLS[protocol].reason_to_skip(infos[name], has_truth)
                key = score_key(volume, protocol, metric, sources[name])
                needs = tuple(need for need in NEEDS if getattr(infos[name], f"needs_{need}"))
                found.append(Score(protocol, metric, key, skip or "", sources[name], needs))
        return tuple(found)

    tasks = []
    for index, (case, held) in enumerate(zip(cases, data or [c.fingerprint for c in cases], strict=True)):
        for method in methods:
            key = fuse_key(method.key, held, options.seed, options.device, options.threads)
            tasks.append(
                Task(
                    run=options.run,
                    method=method,
                    case=case,
                    scores=scores(key, case.truth_loader is not None),
                    seed=options.seed,
                    device=options.device,
                    repeats=options.repeats,
                    timeout=options.timeout,
                    patient=options.patient,
                    fuse_key=key,
                    fused_path=str(folder.fused(case.dataset, case.id, method.name)),
                    save=options.save == "all" or (options.save == "first" and index == 0),
                    plugins=plugins.paths,
                    split=options.split,
                    data=held,
                    loading=loading,
                )
            )
    return tasks


def metric_source(plugins: Plugins, name: str) -> str:
    """Hash of a metric's source."""
    # The registry knows the file without importing it; only an installed package's metric has to be loaded.
    path = plugins.metrics.entry(name).path or path_of(plugins.metrics.load(name))
    return source_key(path) if path else name


def pending(tasks: Iterable[Task], rows: Iterable[Row]) -> list[tuple[Task, Counter[str]]]:
    """Reduce tasks to what has no valid row yet.

    A row stands when its content key is the wanted one and its status is final ("ok" or "skip"); errors,
    time-outs and memory failures are tried again.  A value whose fused volume is to be kept and is not there
    as it was stored does not stand, nor one whose sources are not: it comes anew with them.

    Returns
    -------
    list of (Task, Counter)
        Each task with only the missing scores, and their number by reason: "new", "changed", "failed
        before", "without the volume".  A task whose scores are all stored is left out.
    """
    stored = {row.identity: row for row in rows}
    kept = Checked()
    todo = []
    for task in tasks:
        reasons = {s: _reason(s, stored.get(task.identity(s))) for s in task.scores}
        standing = {s: stored[task.identity(s)] for s, why in reasons.items() if not (why or s.skip)}
        reasons |= dict.fromkeys(_without_volumes(task, standing, kept), "without the volume")
        missing = tuple(s for s in task.scores if reasons[s])
        if missing:
            todo.append((replace(task, scores=missing), Counter(reasons[s] for s in missing)))
    return todo


def restated(tasks: Iterable[Task], rows: Iterable[Row]) -> list[Row]:
    """Rows that stand, of cases that another split had when they were made: anew, as of the tasks' split."""
    stored = {row.identity: row for row in rows}
    found = []
    for task in tasks:
        mine = ((score, stored.get(task.identity(score))) for score in task.scores)
        standing = [row for score, row in mine if row is not None and not _reason(score, row)]
        found += [replace(row, split=task.split) for row in standing if row.split not in ("", task.split)]
    return found


def _reason(score: Score, row: Row | None) -> str:
    """Why a score is to be made; "" where its row stands."""
    if row is None:
        return "new"
    if row.key != score.key:
        return "changed"
    return "" if row.status in ("ok", "skip") else "failed before"


def _without_volumes(task: Task, standing: Mapping[Score, Row], kept: Checked) -> list[Score]:
    """Scores whose rows stand, but not what is to be kept with them."""
    if not (task.save and standing):
        return []
    # A reading without a value may come of a case that takes no findings; images from files are not stored.
    read = [
        s for s, row in standing.items() if "findings" in s.needs and row.status == "ok" and not task.image
    ]
    lost_findings = bool(read) and kept.lost_findings(task)
    if kept.lost(task):
        return list(standing)
    return read if lost_findings else []
