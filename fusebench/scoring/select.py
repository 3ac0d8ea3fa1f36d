"""Which metrics: the registry of metrics alone, the default ranking set, and ids chosen by the user."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import entry_points

from ..files import plugin_folder
from ..metric import Metric, MetricId, MetricInfo
from ..registry import Registry


@lru_cache(maxsize=1)
def metric_registry() -> Registry[Metric]:
    """Every metric of the metrics folder and of installed packages; loads no method or dataset code."""
    registry: Registry[Metric] = Registry("metric", MetricInfo)
    package = "fusebench.metrics"
    registry.add_folder(plugin_folder("metrics"), package)
    registry.add_entry_points(entry_points(group=package))
    return registry


def ranking_set(registry: Registry[Metric] | None = None) -> list[str]:
    """Ids of the default ranking set: every metric with ``ranked``, and the worst source of PSNR and SSIM.

    Parameters
    ----------
    registry : Registry, optional
        Metrics to choose from; default: the metrics folder and installed packages.
    """
    registry = registry or metric_registry()
    infos = [registry.load(name).info for name in registry.names()]
    ids = [i.name for i in infos if i.ranked and i.of_images]
    return ids + [f"{name}.worst" for name in ("psnr", "ssim") if name in ids]


def default_metrics(registry: Registry[Metric], with_truth: bool) -> list[str]:
    """The ranking set, MI, which people look for, and the ranked metrics of truth where cases have one."""
    ids = [*ranking_set(registry), *(name for name in ("mi",) if name in registry)]
    if with_truth:
        infos = (registry.load(name).info for name in registry.names())
        ids += [info.name for info in infos if info.ranked and info.needs_truth and not info.needs_trial]
    return ids


def select_metrics(registry: Registry[Metric], asked: Sequence[str] | None, with_truth: bool) -> list[str]:
    """Metric ids that a user asked for, checked.

    Parameters
    ----------
    registry : Registry
    asked : sequence of str, optional
        Ids, shell wildcards or ``all``; a wildcard means default variants.  None or nothing: the default.
    with_truth : bool
        Some case has ground truth.  Where none has, a wildcard passes over the metrics that need it.

    Raises
    ------
    InputError
        No such metric, part or variant.
    """
    if not asked:
        return default_metrics(registry, with_truth)
    ids: list[str] = []
    for text in asked:
        if is_pattern(text):
            found = registry.select([text])
            infos = [registry.load(n).info for n in found]
            # Readers have a protocol of their own.
            ids += [i.name for i in infos if i.of_images or (with_truth and not i.needs_trial)]
        else:
            ids.append(text)
    metric_infos(registry, ids)
    return list(dict.fromkeys(ids))


def metric_infos(registry: Registry[Metric], ids: Iterable[str]) -> dict[str, MetricInfo]:
    """Facts of the metrics behind some ids, by metric name; every id is checked against its metric."""
    infos: dict[str, MetricInfo] = {}
    for text in ids:
        parsed = MetricId.parse(text)
        info = registry.load(parsed.name).info
        parsed.check(info)
        infos[info.name] = info
    return infos


def is_pattern(text: str) -> bool:
    """True for what stands for several metrics: ``all``, or a shell wildcard."""
    return text == "all" or bool(set(text) & set("*?["))
