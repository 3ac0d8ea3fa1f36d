"""Facts that only importing plugins and torch can tell: of methods, metrics and the machine.

torch takes seconds to import and a plugin may do anything while it is, so the runner has a worker find out
(`LocalPool.ask`) and imports neither itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import FuseBenchError, InputError, PluginError, WorkerDied
from ..metric import MetricId, MetricInfo
from ..plugins import find_plugins
from ..scoring.select import is_pattern, metric_infos, select_metrics
from .facts import plain_facts
from .plan import scored
from .spec import Choice, MethodSpec, broken_spec, method_specs

if TYPE_CHECKING:
    from .pool import LocalPool

# For imports, which a cold disk makes slow, however short --timeout is.
LEAST_SECONDS = 20.0


@dataclass(frozen=True)
class Question:
    """Everything that a survey depends on, ready to be sent to a worker.

    Attributes
    ----------
    paths : tuple of str
        Plugin files (`Plugins.paths`).
    choices : tuple of Choice
        Methods, with the parameters that the user gave.
    metrics : tuple of str
        Ids and wildcards; none for the default ones.
    protocols : tuple of str
    with_truth : bool
        Some case has ground truth, so that task metrics are among the default ones.
    device : str
        As ``--device``.
    """

    paths: tuple[str, ...]
    choices: tuple[Choice, ...]
    metrics: tuple[str, ...]
    protocols: tuple[str, ...]
    with_truth: bool
    device: str


@dataclass(frozen=True)
class Survey:
    """Facts a plan is made of.

    Attributes
    ----------
    methods : list of MethodSpec
    metrics : tuple of str
        Ids asked for, or the default ones.
    infos : dict of str to MetricInfo
        By metric name, of every id that the protocols score.
    device : str
    hardware : dict
    """

    methods: list[MethodSpec]
    metrics: tuple[str, ...]
    infos: dict[str, MetricInfo]
    device: str
    hardware: dict[str, Any]


def survey(question: Question) -> Survey:
    """Import what a run needs and tell what the plan must know of it.

    Raises
    ------
    InputError
        A parameter, weights file, metric id or device that cannot be used.
    """
    from .hardware import checked_device, describe_hardware  # torch: the asking side goes without

    plugins = find_plugins(question.paths)
    ids = tuple(select_metrics(plugins.metrics, question.metrics, question.with_truth))
    chosen = (m for some in scored(question.protocols, ids).values() for m in some)
    return Survey(
        methods=method_specs(plugins, question.choices),
        metrics=ids,
        infos={name: _facts(name, info) for name, info in metric_infos(plugins.metrics, chosen).items()},
        device=checked_device(question.device),
        hardware=describe_hardware(),
    )


def _facts(name: str, info: MetricInfo) -> MetricInfo:
    try:
        return plain_facts(info, MetricInfo)
    except TypeError as error:
        raise InputError(f"metric {name}: {error}") from None


def survey_seconds(timeout: float | None) -> float | None:
    """Limit for a survey, by the limit for a fuse; None for none."""
    return max(timeout, LEAST_SECONDS) if timeout else None


def survey_apart(pool: LocalPool, question: Question, seconds: float | None = None) -> Survey:
    """`survey`, where that ended its process: each plugin is asked for alone, to tell which is broken.

    Parameters
    ----------
    seconds : float, optional
        For each answer.

    Raises
    ------
    InputError
        As of `survey`, or a metric does it, which the message names.
    """
    entries = find_plugins(question.paths).methods
    specs: list[MethodSpec] = []
    for choice in question.choices:
        try:
            specs += pool.ask(partial(_specs, question.paths, choice), seconds)()
        except WorkerDied as death:
            origin = entries.entry(choice.method).origin
            reason = PluginError(choice.method, origin, f"it ends the process that imports it ({death})")
            specs.append(broken_spec(choice, origin, str(reason)))
    try:
        found = pool.ask(partial(survey, replace(question, choices=())), seconds)()
    except WorkerDied as death:
        raise InputError(_of_a_metric(pool, question, seconds, death)) from None
    return replace(found, methods=specs)


def _specs(paths: tuple[str, ...], choice: Choice) -> list[MethodSpec]:
    return method_specs(find_plugins(paths), [choice])


def _of_a_metric(pool: LocalPool, question: Question, seconds: float | None, death: WorkerDied) -> str:
    """The line on the metric that ends its process, or hangs, where the metrics are imported."""
    metrics = find_plugins(question.paths).metrics
    if question.metrics and not any(is_pattern(text) for text in question.metrics):
        names = [MetricId.parse(text).name for text in question.metrics]
    else:
        names = metrics.names()
    entries = [metrics.entry(name) for name in names]
    for entry in sorted(entries, key=lambda entry: entry.bundled):  # ours are the least likely
        try:
            pool.ask(partial(_import_metric, question.paths, entry.name), seconds)()
        except WorkerDied as own:
            why = f"it ends the process that imports it ({own}); leave it out"
            return str(PluginError(entry.name, entry.origin, why))
        except FuseBenchError:  # what was asked for is not wrong in this way
            continue
    return f"the metrics together end the process that imports them ({death}); give fewer with --metrics"


def _import_metric(paths: tuple[str, ...], name: str) -> None:
    find_plugins(paths).metrics.load(name)
