"""What is to run: the tasks of a run, with content keys that decide what `--resume` may keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..case import Case
from ..errors import PluginError
from ..files import ROOT
from ..method_info import MethodInfo
from ..metric import MetricId, MetricInfo
from ..parameters import create
from ..plugins import Plugins
from ..scoring.protocol import PROTOCOLS
from ..scoring.select import ranking_set
from ..store.keys import digest, method_key, path_of, source_key
from ..store.rows import Row, Status


@dataclass(frozen=True)
class MethodSpec:
    """A method with its parameters: enough for a worker to make it.

    `broken` holds the reason where the plugin cannot be made; its rows are then errors.
    """

    name: str
    parameters: Mapping[str, Any]
    key: str
    info: MethodInfo
    origin: str = ""
    broken: str = ""


@dataclass(frozen=True)
class Score:
    """One row to be: protocol, metric id, content key; `skip` holds the reason for no value."""

    protocol: str
    metric: str
    key: str
    skip: str = ""


@dataclass(frozen=True)
class Task:
    """One method on one case: fuse once, then score."""

    run: str
    method: MethodSpec
    case: Case
    scores: tuple[Score, ...]
    seed: int = 0
    device: str = "cpu"
    repeats: int = 1
    timeout: float | None = None
    fuse_key: str = ""
    fused_path: str = ""
    save: bool = False
    reuse: bool = True  # take the fused volume from `fused_path` where it is stored under `fuse_key`
    plugins: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.method.name} on {self.case.id}"

    def row(self, score: Score, **values: Any) -> Row:
        """The result row of one score."""
        return Row(
            run=self.run,
            key=score.key,
            method=self.method.name,
            dataset=self.case.dataset,
            case=self.case.id,
            group=self.case.group,
            protocol=score.protocol,
            metric=score.metric,
            device=self.device,
            seed=self.seed,
            fingerprint=self.case.fingerprint,
            **values,
        )

    def failed(self, status: Status, reason: str) -> list[Row]:
        """The rows where nothing of the task came back; what was to be skipped is still a skip."""
        return [
            self.row(s, status="skip", reason=s.skip) if s.skip else self.row(s, status=status, reason=reason)
            for s in self.scores
        ]


def method_specs(
    plugins: Plugins, names: Iterable[str], settings: Mapping[str, Mapping[str, Any]]
) -> list[MethodSpec]:
    """Make each method once to learn its parameters and key; a broken plugin becomes a spec that says so.

    Parameters
    ----------
    settings : mapping
        Method name to constructor arguments.

    Raises
    ------
    InputError
        A parameter that the method does not take or refuses.
    """
    specs = []
    for name in names:
        entry = plugins.methods.entry(name)
        given = dict(settings.get(name, {}))
        try:
            cls = plugins.methods.load(name)
        except PluginError as error:
            specs.append(broken_spec(name, given, entry.origin, str(error)))
            continue
        method = create(name, cls, given)
        parameters = dict(method.parameters())
        key = method_key(cls, parameters, _weights_files(cls, parameters))
        # The instance's: given weights were not trained on what the shipped ones were.
        specs.append(MethodSpec(name, given, key, method.info, entry.origin))
    return specs


def broken_spec(name: str, given: Mapping[str, Any], origin: str, reason: str) -> MethodSpec:
    """Spec of a method that cannot be loaded."""
    info = MethodInfo(name=name, summary="cannot be loaded")
    return MethodSpec(name, given, digest(reason), info, origin, reason)


def _weights_files(cls: type, parameters: Mapping[str, Any]) -> list[Path]:
    """Given weights, else the shipped file (relative to the plugin's)."""
    given = parameters.get("weights")
    if given:
        return [Path(str(given))]
    shipped, source = getattr(cls, "info").weights, path_of(cls)  # noqa: B009
    return [source.parent / shipped.file] if shipped is not None and source is not None else []


def metric_infos(plugins: Plugins, ids: Iterable[str]) -> dict[str, MetricInfo]:
    """Check metric ids against their metrics' parts and variants; infos by metric name."""
    infos: dict[str, MetricInfo] = {}
    for text in ids:
        parsed = MetricId.parse(text)
        info = plugins.metrics.load(parsed.name).info
        parsed.check(info)
        infos[info.name] = info
    return infos


def default_metrics(plugins: Plugins, with_truth: bool) -> list[str]:
    """The ranking set, and the ranked task metrics where there is ground truth."""
    ids = ranking_set(plugins.metrics)
    if with_truth:
        infos = (plugins.metrics.load(name).info for name in plugins.metrics.names())
        ids += [info.name for info in infos if info.ranked and info.needs_truth]
    return ids


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose for a run, besides methods and data."""

    run: str
    metrics: tuple[str, ...]
    protocols: tuple[str, ...] = ("volume",)
    seed: int = 0
    device: str = "cpu"
    repeats: int = 1
    timeout: float | None = None
    save: str = "first"  # fused volumes to keep: "first" case, "all", "none"


def scored(protocols: Iterable[str], metrics: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Metric ids that each protocol scores: the prescribed ones, else `metrics`."""
    return {p: PROTOCOLS[p].metrics(metrics) for p in protocols}


def make_plan(
    plugins: Plugins,
    cases: Sequence[Case],
    methods: Sequence[MethodSpec],
    infos: Mapping[str, MetricInfo],
    options: Options,
    folder: Path,
) -> list[Task]:
    """Cross methods, cases, protocols and metrics into tasks, case by case; imports no plugin.

    Parameters
    ----------
    infos : mapping
        Of every metric that is `scored`, by name.
    """
    ids = scored(options.protocols, options.metrics)
    core = [source_key(ROOT / "fusebench" / n) for n in ("metric.py", "scoring/protocol.py")]
    sources = {name: _metric_source(plugins, name) for name in infos}
    tasks = []
    for index, case in enumerate(cases):
        for method in methods:
            fuse_key = digest(method.key, case.fingerprint, options.seed, options.device.split(":")[0])
            scores = tuple(
                Score(
                    protocol,
                    metric,
                    digest(fuse_key, protocol, metric, sources[MetricId.parse(metric).name], core),
                    PROTOCOLS[protocol].reason_to_skip(
                        infos[MetricId.parse(metric).name], case.truth_loader is not None
                    )
                    or "",
                )
                for protocol, chosen in ids.items()
                for metric in chosen
            )
            keep = options.save == "all" or (options.save == "first" and index == 0)
            tasks.append(
                Task(
                    run=options.run,
                    method=method,
                    case=case,
                    scores=scores,
                    seed=options.seed,
                    device=options.device,
                    repeats=options.repeats,
                    timeout=options.timeout,
                    fuse_key=fuse_key,
                    fused_path=str(fused_path(folder, case, method.name)),
                    save=keep,
                    plugins=plugins.paths,
                )
            )
    return tasks


def fused_path(folder: Path, case: Case, method: str) -> Path:
    """Where a fused volume of a run is kept."""
    return folder / "fused" / case.dataset / case.id / f"{method}.nii.gz"


def _metric_source(plugins: Plugins, name: str) -> str:
    # The registry knows the file without importing it; only an installed package's metric has to be loaded.
    path = plugins.metrics.entry(name).path or path_of(plugins.metrics.load(name))
    return source_key(path) if path else name


def pending(tasks: Iterable[Task], rows: Iterable[Row]) -> list[tuple[Task, Counter[str]]]:
    """Reduce tasks to what has no valid row yet.

    A row stands when its content key is the wanted one and its status is final ("ok" or "skip"); errors,
    time-outs and memory failures are tried again.  A value whose fused volume is to be kept and is not there
    does not stand: it comes anew with the volume.

    Returns
    -------
    list of (Task, Counter)
        Each task with only the missing scores, and their number by reason: "new", "changed", "failed
        before", "without the volume".  A task whose scores are all stored is left out.
    """
    stored = {row.identity: row for row in rows}
    todo = []
    for task in tasks:
        missing, why = [], Counter[str]()
        lacking = task.save and not Path(task.fused_path).is_file()
        for score in task.scores:
            identity = (task.method.name, task.case.dataset, task.case.id, score.protocol, score.metric)
            row = stored.get(identity)
            if row is not None and row.key == score.key and row.status in ("ok", "skip"):
                if score.skip or not lacking:
                    continue
                reason = "without the volume"
            else:
                reason = "new" if row is None else "changed" if row.key != score.key else "failed before"
            missing.append(score)
            why[reason] += 1
        if missing:
            todo.append((replace(task, scores=tuple(missing)), why))
    return todo
