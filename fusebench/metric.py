"""The metric contract: `MetricInfo` (direction, range, unit as data) and metric ids.

A metric id is ``name[.part][@variant]``: ``psnr``, ``psnr.a`` (against the structural source alone),
``psnr.worst`` (the worse of the two), ``mi@cddfuse`` (another program's definition, number for number).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from .plugins import Plugins
    from .triple import Triple

Direction = Literal["higher", "lower", "zero", "none"]
ARROWS: dict[str, str] = {"higher": "↑", "lower": "↓", "zero": "→0", "none": ""}


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """Facts about a metric; written as a literal in the plugin's file.

    Parameters
    ----------
    name, title : str
        Id (a string literal) and full name.
    family : str
        "fidelity", "structure", "information", "gradient", "perception" or "task".
    direction : {"higher", "lower", "zero", "none"}
        What is better; "zero": closest to 0; "none": descriptive, never ranked.
    low, high : float
        Range of the default variant.
    unit : str
        "dB", "bit", "" ...
    paper : str
        Source of the definition.
    dims : tuple of int
        2 and 3 where the definition generalises; (2,) where it rests on 2D models.
    parts : tuple of str
        Named parts: "a", "b" (one source), "worst".
    variants : mapping
        Variant name to one line that says what differs.
    units : mapping
        Variant name to unit, of the variants that have another unit than `unit`.
    ranked : bool
        In the default ranking set.
    needs_truth : bool
        A task metric that needs the ground truth of simulated data: ``truth`` of the case.
    needs_twin : bool
        It also needs ``truth["fused_twin"]``: what the same method makes of ``truth["mri_twin"]`` and
        ``truth["pet_twin"]``, the case without its lesion, under the same seed.
    symmetric : bool
        Swapping the sources leaves the default value unchanged.
    """

    name: str
    title: str
    family: str
    direction: Direction
    low: float
    high: float
    unit: str = ""
    paper: str = ""
    dims: tuple[int, ...] = (2, 3)
    parts: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    ranked: bool = False
    needs_truth: bool = False
    needs_twin: bool = False
    symmetric: bool = True
    notes: str = ""


@dataclass(frozen=True)
class MetricId:
    """A parsed metric id."""

    name: str
    part: str = ""
    variant: str = ""

    _PATTERN = re.compile(r"(?P<name>[\w-]+)(?:\.(?P<part>\w+))?(?:@(?P<variant>[\w-]+))?")

    @classmethod
    def parse(cls, text: str) -> MetricId:
        """Parse ``name[.part][@variant]``; `InputError` if it is not of that form."""
        match = cls._PATTERN.fullmatch(text)
        if match is None:
            raise InputError(f"{text!r} is no metric id; the form is name[.part][@variant]")
        return cls(match["name"], match["part"] or "", match["variant"] or "")

    def check(self, info: MetricInfo) -> MetricId:
        """Return self, or `InputError` where `info` has no such part or variant."""
        if self.part and self.part not in info.parts:
            raise InputError(f"{info.name} has no part {self.part!r}; it has {list(info.parts)}")
        if self.variant and self.variant not in info.variants:
            raise InputError(f"{info.name} has no variant {self.variant!r}; it has {list(info.variants)}")
        return self

    def __str__(self) -> str:
        part = f".{self.part}" if self.part else ""
        return self.name + part + (f"@{self.variant}" if self.variant else "")


Core = Callable[["Triple", str, str], "Tensor"]


class Metric:
    """A metric: its facts (`info`) and the function that computes it on a prepared `Triple`.

    Parameters
    ----------
    info : MetricInfo
    core : callable
        ``core(triple, part, variant)`` returns a tensor ``(N,)``, one value per image of the batch.
    """

    def __init__(self, info: MetricInfo, core: Core) -> None:
        self.info = info
        self.core = core
        self.__name__ = info.name
        self.__doc__ = core.__doc__

    def __call__(
        self,
        a: Any,
        b: Any,
        fused: Any,
        *,
        mask: Any = None,
        spacing: Sequence[float] | None = None,
        part: str = "",
        variant: str = "",
        truth: Mapping[str, Any] | None = None,
    ) -> float:
        """Score one fused image.

        Parameters
        ----------
        a, b, fused : array or tensor, shape (H, W) or (D, H, W)
            Structural source, functional source and fused image: uint8, or floats in [0, 1].  Both give
            the same number.  (1, H, W) counts as (H, W).
        mask : array of bool, optional
            Foreground, same shape.  Filters see the whole image, averages only the mask.
        spacing : sequence of float, optional
            Voxel size per axis, in the order of the axes.  None: isotropic.
        part, variant : str
            As in the metric id ``name.part@variant``.
        truth : mapping, optional
            Ground truth, for the task metrics.

        Returns
        -------
        float

        Raises
        ------
        InputError
            Shapes differ, values lie outside [0, 1], are not finite, or the dtype is neither uint8 nor
            floating point; the metric has no such part or variant.
        """
        from .triple import Triple

        MetricId(self.info.name, part, variant).check(self.info)
        with Triple.make(a, b, fused, mask=mask, spacing=spacing, truth=truth) as triple:
            return float(self.on(triple, part, variant)[0])

    def on(self, triple: Triple, part: str = "", variant: str = "") -> Tensor:
        """Values ``(N,)`` on a prepared triple; slice mean where the definition is 2D only."""
        if self.info.needs_truth and triple.truth is None:
            raise InputError(f"{self.info.name} needs the ground truth of simulated data")
        if self.by_slices(triple):
            return triple.slice_mean(lambda slices: self.core(slices, part, variant))
        return self.core(triple, part, variant)

    def by_slices(self, triple: Triple) -> bool:
        """Whether a triple is a volume and the definition is 2D only."""
        return triple.dims not in self.info.dims and not self.info.needs_truth

    def __repr__(self) -> str:
        return f"<metric {self.info.name}: {self.info.title}>"


def metric(info: MetricInfo) -> Callable[[Core], Metric]:
    """Make a `Metric` of a core function: ``@metric(MetricInfo(name="psnr", ...))``."""
    return lambda core: Metric(info, core)


@lru_cache(maxsize=1)
def metric_registry() -> Registry[Metric]:
    """Every metric of the metrics folder and of installed packages; loads no method or dataset code."""
    registry: Registry[Metric] = Registry("metric", MetricInfo)
    package = "fusebench.metrics"
    for location in import_module(package).__path__:
        registry.add_folder(Path(location), package)
    registry.add_entry_points(entry_points(group=package))
    return registry


@lru_cache(maxsize=256)
def _known(key: str) -> tuple[MetricId, Metric]:
    """The parsed id and its metric, from the default registry."""
    parsed = MetricId.parse(key)
    found = metric_registry().load(parsed.name)
    return parsed.check(found.info), found


def ranking_set(registry: Registry[Metric] | None = None) -> list[str]:
    """Ids of the default ranking set: every metric with ``ranked``, and the worst source of PSNR and SSIM.

    Parameters
    ----------
    registry : Registry, optional
        Metrics to choose from; default: the metrics folder and installed packages.
    """
    registry = registry or metric_registry()
    infos = [registry.load(name).info for name in registry.names()]
    ids = [i.name for i in infos if i.ranked and not i.needs_truth]
    return ids + [f"{name}.worst" for name in ("psnr", "ssim") if name in ids]


def evaluate(
    a: Any,
    b: Any,
    fused: Any,
    metrics: Sequence[str] | None = None,
    *,
    mask: Any = None,
    spacing: Sequence[float] | None = None,
    truth: Mapping[str, Any] | None = None,
    on_error: Literal["raise", "keep"] = "raise",
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Score one fused image with several metrics; what they share is computed once.

    Parameters
    ----------
    a, b, fused, mask, spacing, truth
        As in `Metric.__call__`.  (D, H, W) with D > 1 is scored in 3D.
    metrics : sequence of str, optional
        Ids: ``psnr``, ``psnr.a``, ``ssim.worst``, ``mi@cddfuse``.  None: the default ranking set.
    on_error : {"raise", "keep"}
        "keep" puts the exception of a failing metric in place of its value, so that one broken metric
        costs only its own result.
    plugins : Plugins, optional
        Where to look up metrics; default: the metrics folder and installed packages.

    Returns
    -------
    dict
        Value by id, in the order asked for.

    Raises
    ------
    InputError
        Unusable images (in either mode).
    UnknownNameError
        No such metric (``on_error="raise"``).
    """
    from .triple import Triple

    with Triple.make(a, b, fused, mask=mask, spacing=spacing, truth=truth) as triple:
        values = _evaluate(triple, metrics, on_error, plugins)
    return {k: v if isinstance(v, Exception) else float(v[0]) for k, v in values.items()}


def evaluate_slices(
    a: Any,
    b: Any,
    fused: Any,
    metrics: Sequence[str] | None = None,
    *,
    mask: Any = None,
    truth: Mapping[str, Any] | None = None,
    on_error: Literal["raise", "keep"] = "raise",
    plugins: Plugins | None = None,
) -> dict[str, Any]:
    """Score a batch of 2D images, or every axial slice of a volume, with the 2D definitions.

    Parameters
    ----------
    a, b, fused, mask : array or tensor, shape (N, H, W)
    metrics, truth, on_error, plugins
        As in `evaluate`.

    Returns
    -------
    dict
        ``ndarray (N,)`` by id.  An image without foreground has nothing to score and is NaN.
    """
    from .triple import Triple

    out: dict[str, Any] = {}
    with Triple.make(a, b, fused, mask=mask, batch=True, truth=truth) as whole:
        kept = whole.foreground()
        for rows, chunk in whole.chunks(kept):
            for key, value in _evaluate(chunk, metrics, on_error, plugins).items():
                if isinstance(value, Exception) or isinstance(out.get(key), Exception):
                    out[key] = value if isinstance(value, Exception) else out[key]
                    continue
                column: NDArray[np.float64] = out.setdefault(key, np.full(len(whole), np.nan))
                column[rows.cpu().numpy()] = value.cpu().numpy()
    return out


def _evaluate(
    triple: Triple, metrics: Sequence[str] | None, on_error: str, plugins: Plugins | None
) -> dict[str, Tensor | Exception]:
    """Values ``(N,)`` by id.  Metrics of a family follow each other, so that what they share is at hand."""
    import torch

    texts = ranking_set() if metrics is None else metrics
    out: dict[str, Tensor | Exception] = {}
    asked: dict[str, tuple[MetricId, Metric]] = {}
    columns: dict[str, list[Tensor]] = {}

    @contextmanager
    def caught(text: str) -> Iterator[None]:
        try:
            yield
        # A metric plugin is foreign code; with "keep" whatever it raises is that metric's result.
        except Exception as error:
            if on_error == "raise":
                raise
            out[text] = error

    for text in texts:
        with caught(text):
            asked[text] = _find(text, plugins)
    for text, (key, metric) in sorted(asked.items(), key=lambda item: item[1][1].info.family):
        if metric.by_slices(triple):
            columns[text] = []
            continue
        with caught(text):
            out[text] = metric.on(triple, key.part, key.variant)
        triple.trim()
    for slices in triple.slices() if columns else ():
        for text in columns.keys() - out.keys():
            key, metric = asked[text]
            with caught(text):
                columns[text].append(metric.core(slices, key.part, key.variant))
    for text in columns.keys() - out.keys():
        out[text] = torch.cat(columns[text]).mean(0, keepdim=True)
    return {text: out[text] for text in texts}


def _find(text: str, plugins: Plugins | None) -> tuple[MetricId, Metric]:
    if plugins is None:
        return _known(text)
    key = MetricId.parse(text)
    found = plugins.metrics.load(key.name)
    return key.check(found.info), found
