"""The metric contract: `MetricInfo` (direction, range, unit as data) and metric ids.

A metric id is ``name[.part][@variant]``: ``psnr``, ``psnr.a`` (against the structural source alone),
``psnr.worst`` (the worse of the two), ``mi@cddfuse`` (another program's definition, number for number).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import FuseBenchError, InputError, Undefined

if TYPE_CHECKING:
    from torch import Tensor

    from .case import Case
    from .triple import Triple


class MetricFault(FuseBenchError):
    """A metric broke its contract; the message says how."""


Direction = Literal["higher", "lower", "zero", "none"]
ARROWS: dict[str, str] = {"higher": "↑", "lower": "↓", "zero": "→0", "none": ""}


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """Facts about a metric; written as a literal in the plugin's file.

    Parameters
    ----------
    name, title : str
        Id (a string literal) and full name.
    formula : str
        Of the default variant, in LaTeX's mathematics as far as matplotlib's mathtext has it, no dollars: A
        is the structural image, B the functional one, F the fused one.
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
    needs_trial : bool
        A reader: it needs ``truth["trial"]``, the case as `Metric.trial` sets it up; scored in protocol
        ``readers``, with the ground truth where the case has one.
    needs_findings : bool
        It also needs ``truth["fused_with"]``: what the same method makes of the sources with findings,
        `Trial.a_with` and `Trial.b_with`, under the same seed.
    symmetric : bool
        Swapping the sources leaves the default value unchanged.
    tolerance : float
        Largest difference, relative above 1 and absolute below, that another processor, library of linear
        algebra, count of threads or batch makes on a CPU.  A change within it is none: see ``compare``.
    tolerances : mapping
        Variant name to tolerance, of the variants that have another one than `tolerance`.
    """

    name: str
    title: str
    family: str
    direction: Direction
    low: float
    high: float
    unit: str = ""
    formula: str = ""
    paper: str = ""
    dims: tuple[int, ...] = (2, 3)
    parts: tuple[str, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    ranked: bool = False
    needs_truth: bool = False
    needs_twin: bool = False
    needs_trial: bool = False
    needs_findings: bool = False
    symmetric: bool = True
    tolerance: float = 1e-6
    tolerances: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""

    @property
    def of_images(self) -> bool:
        """True if sources and fused image are all that it needs."""
        return not (self.needs_truth or self.needs_trial)


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


class Trial(Protocol):
    """A case set up by a metric that puts findings into its sources; what else it holds is the metric's."""

    @property
    def a_with(self) -> NDArray[np.float32]:
        """Structural source with findings, of the shape of the case."""

    @property
    def b_with(self) -> NDArray[np.float32]:
        """Functional source with findings."""

    def table(self) -> Sequence[Mapping[str, Any]]:
        """The findings, one a row, as they are stored and shown."""


Core = Callable[..., "Tensor"]


def _with_both(core: Core, info: MetricInfo) -> Core:
    """`core` as a function of triple, part and variant, of which it may take one, both or none."""
    both = ("part", "variant")
    taken = [p.name for p in inspect.signature(core).parameters.values()][1:]
    if taken and not set(taken) <= set(both):
        return core  # named otherwise: it takes them by position
    for name, several in zip(both, (info.parts, info.variants), strict=True):
        if several and name not in taken:
            raise InputError(
                f"{info.name} has {name}s ({', '.join(several)}) but its function takes no {name}"
            )

    @wraps(core)
    def call(triple: Triple, part: str = "", variant: str = "") -> Tensor:
        given = {"part": part, "variant": variant}
        return core(triple, **{name: given[name] for name in taken})

    return call


class Metric:
    """A metric: its facts (`info`) and the function that computes it on a prepared `Triple`.

    Parameters
    ----------
    info : MetricInfo
    core : callable
        ``core(triple, part, variant)`` returns a tensor ``(N,)``, one value per image of the batch.  It may
        leave out what the metric does not have: ``core(triple)``.
    trial : callable, optional
        ``trial(case)`` sets up the `Trial` of a metric that ``needs_trial``.
    """

    def __init__(self, info: MetricInfo, core: Core, trial: Callable[[Case], Trial] | None = None) -> None:
        self.info = info
        self.core = _with_both(core, info)
        self.trial = trial
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
        if triple.dims == 2 and 2 not in self.info.dims and self.info.of_images:
            raise Undefined(f"{self.info.name} is defined in volumes only")
        if self.by_slices(triple):
            return triple.slice_mean(lambda slices: self.values(slices, part, variant))
        return self.values(triple, part, variant)

    def values(self, triple: Triple, part: str = "", variant: str = "") -> Tensor:
        """What the core returns: one number for each image; `MetricFault` where it is something else."""
        import torch

        found = self.core(triple, part, variant)
        if not isinstance(found, torch.Tensor):
            raise MetricFault(f"{self.info.name} returned {type(found).__name__}, not a tensor")
        if found.shape != (len(triple),) or found.is_complex():
            wanted = f"{len(triple)} real number{'s' * (len(triple) != 1)}"
            raise MetricFault(f"{self.info.name} returned shape {tuple(found.shape)}, not {wanted}")
        return found

    def by_slices(self, triple: Triple) -> bool:
        """True if a triple is a volume and the definition is 2D only."""
        return triple.dims == 3 and 3 not in self.info.dims and self.info.of_images

    def __repr__(self) -> str:
        return f"<metric {self.info.name}: {self.info.title}>"


def metric(info: MetricInfo, *, trial: Callable[[Case], Trial] | None = None) -> Callable[[Core], Metric]:
    """Make a `Metric` of a core: ``@metric(MetricInfo(name="psnr", ...))``; `trial` as of `Metric`."""
    return lambda core: Metric(info, core, trial)


def __getattr__(name: str) -> Any:
    """`evaluate` and its like under the name of this module, by which earlier versions documented them."""
    if name in ("evaluate", "evaluate_slices"):
        return getattr(import_module("fusebench.scoring.evaluate"), name)
    if name in ("metric_registry", "ranking_set"):
        return getattr(import_module("fusebench.scoring.select"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
