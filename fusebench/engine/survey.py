"""What has to be imported to be known: facts of the chosen methods and metrics, and of the machine.

torch takes seconds to import and a plugin may do anything while it is, so the runner has a worker find out
(`LocalPool.ask`) and imports neither itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import InputError, PluginError, WorkerDied
from ..metric import MetricInfo
from ..plugins import find_plugins
from .plan import MethodSpec, broken_spec, default_metrics, method_specs, metric_infos, scored

if TYPE_CHECKING:
    from .pool import LocalPool


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


def survey(
    paths: Sequence[str],
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str] | None,
    protocols: Sequence[str],
    with_truth: bool,
    device: str,
) -> Survey:
    """Import what a run needs and tell what the plan must know of it.

    Parameters
    ----------
    paths : sequence of str
        Plugin files (`Plugins.paths`).
    methods : sequence of str
    settings : mapping
        Method name to constructor arguments.
    metrics : sequence of str, optional
        Ids; None for the default ones.
    protocols : sequence of str
    with_truth : bool
        Whether a case has ground truth, so that task metrics are among the default ones.
    device : str
        As ``--device``.

    Raises
    ------
    InputError
        A parameter, weights file, metric id or device that cannot be used.
    """
    from .hardware import checked_device, describe_hardware  # torch: the asking side goes without

    plugins = find_plugins(tuple(paths))
    ids = tuple(default_metrics(plugins, with_truth) if metrics is None else metrics)
    return Survey(
        methods=method_specs(plugins, methods, settings),
        metrics=ids,
        infos=metric_infos(plugins, (m for chosen in scored(protocols, ids).values() for m in chosen)),
        device=checked_device(device),
        hardware=describe_hardware(),
    )


def survey_apart(
    pool: LocalPool,
    paths: tuple[str, ...],
    methods: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    *rest: Any,
) -> Survey:
    """`survey`, where that ended its process: each method is asked for alone, to tell which is broken.

    Parameters
    ----------
    pool : LocalPool
    paths, methods, settings, *rest
        Arguments of `survey`.

    Raises
    ------
    InputError
        As of `survey`, or it is not a method that does it.
    """
    entries = find_plugins(paths).methods
    pool.stop()  # here and below: another worker may be about to die of the same question
    specs: dict[str, MethodSpec] = {}
    for name in methods:
        try:
            [specs[name]] = pool.ask(partial(_specs, paths, [name], settings))()
        except WorkerDied as death:
            pool.stop()
            origin = entries.entry(name).origin
            reason = PluginError(name, origin, f"it ends the process that imports it ({death})")
            specs[name] = broken_spec(name, settings.get(name, {}), origin, str(reason))
    try:
        found = pool.ask(partial(survey, paths, [], {}, *rest))()
    except WorkerDied as death:
        raise InputError(
            f"a metric ends the process that imports it ({death}); leave it out: `check metric NAME` imports "
            "one alone"
        ) from None
    return replace(found, methods=list(specs.values()))


def _specs(
    paths: tuple[str, ...], methods: Sequence[str], settings: Mapping[str, Mapping[str, Any]]
) -> list[MethodSpec]:
    return method_specs(find_plugins(paths), methods, settings)
