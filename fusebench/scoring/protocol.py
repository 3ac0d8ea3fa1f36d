"""How a fused image is scored: `volume`, `slices`, `paper` and `readers`.

* ``volume``: native 3D metrics inside the foreground mask (2D metrics of a 2D case).  Most of a head
  volume is air, and unmasked PSNR and SSIM are flattered by it.
* ``slices``: the 2D definition, unmasked, on every axial slice that holds foreground; mean over slices.
  This is how 2D papers compare.
* ``paper``: what the DC2Fusion authors did (arXiv 2310.06291): the central axial slice, data range 1,
  mean over the two sources.
* ``readers``: what can still be seen.  Findings are put into the sources, the method fuses those as well, and
  observers read the fused images as displayed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import plain
from ..case import Case, Pair, Volume
from ..errors import InputError
from ..metric import MetricId, MetricInfo
from ..parameters import as_list
from ..plugins import Plugins
from .evaluate import Begin, evaluate_slices, score
from .select import is_pattern, metric_infos, metric_registry, ranking_set

if TYPE_CHECKING:
    from torch import Tensor

READERS = "readers"
# The worst share, the values behind it, their shares of what the better source gives.
READINGS = (
    *("reading", "cho_auc.a", "cho_auc.b", "cho_auc.worst", "outline", "uptake_r2"),
    *("reading.a", "reading.b", "reading.outline", "reading_se"),
)

Scores = dict[str, Any]  # metric id -> float, or the exception that it raised
Truth = Mapping[str, Any] | None


@dataclass(frozen=True)
class ScoredImages:
    """The images of one score: sources, fused image and foreground as tensors (D, H, W) on one device.

    Without a mask, everything is foreground.  `shared` holds what metrics have made of the sources alone, for
    other fused images of the case.
    """

    a: Tensor
    b: Tensor
    fused: Tensor
    mask: Tensor | None
    spacing: tuple[float, float, float]
    shared: dict[Any, Any] | None = None

    @classmethod
    def of(
        cls,
        case: Case | Pair,
        fused: NDArray[np.float32],
        device: str = "cpu",
        shared: dict[Any, Any] | None = None,
    ) -> ScoredImages:
        """Take a case and its fused image to `device`; on the CPU nothing is copied."""
        import torch  # where scores are made; a plan is made without

        a, b, f, mask = (
            torch.from_numpy(np.require(x, requirements="W")).to(device)
            for x in (case.a.data, (case.reference or case.b).data, fused, case.mask)
        )
        return cls(a, b, f, mask, case.a.spacing, shared)


@dataclass(frozen=True)
class Protocol:
    """A named way to score.

    Attributes
    ----------
    name : str
    score : callable
        ``score(scene, metric ids, truth, plugins, begin) -> {id: value or exception}``.
    fixed : tuple of str
        Metric ids that the protocol prescribes; () where the user chooses.
    """

    name: str
    score: Callable[..., Scores]
    fixed: tuple[str, ...] = ()

    def metrics(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Metric ids to score: the prescribed ones, else those asked for that are no readings."""
        return self.fixed or tuple(m for m in asked if not is_reading(m))

    def reason_to_skip(self, info: MetricInfo, case_has_truth: bool) -> str | None:
        """Why a metric has no value under this protocol, or None."""
        if info.needs_truth and not case_has_truth:
            return "needs ground truth, which this case does not have"
        if info.needs_trial:
            return None if self.name == READERS else f"scored in protocol {READERS} only"
        if info.needs_truth and self.name != "volume":
            return "scored in protocol volume only"
        return None


def _volume(
    scene: ScoredImages, metrics: Sequence[str], truth: Truth, plugins: Plugins | None, begin: Begin = str
) -> Scores:
    return score(
        scene.a,
        scene.b,
        scene.fused,
        metrics,
        mask=scene.mask,
        spacing=scene.spacing,
        truth=truth,
        plugins=plugins,
        begin=begin,
        sources=scene.shared,
    )


def _slices(
    scene: ScoredImages, metrics: Sequence[str], truth: Truth, plugins: Plugins | None, begin: Begin = str
) -> Scores:
    held = slice(None) if scene.mask is None else scene.mask.any(dim=2).any(dim=1)
    images = (scene.a[held], scene.b[held], scene.fused[held])
    values = evaluate_slices(*images, metrics, on_error="keep", plugins=plugins, begin=begin)
    return {m: v if isinstance(v, Exception) else float(np.mean(v)) for m, v in values.items()}


def _paper(
    scene: ScoredImages, metrics: Sequence[str], truth: Truth, plugins: Plugins | None, begin: Begin = str
) -> Scores:
    centre = scene.fused.shape[0] // 2
    images = (scene.a[centre], scene.b[centre], scene.fused[centre])
    return score(*images, metrics, plugins=plugins, begin=begin)


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("volume", _volume),
        Protocol("slices", _slices),
        Protocol("paper", _paper, ("psnr@paper", "ssim@torchmetrics", "nmi@dc2fusion", "mi@dc2fusion")),
        Protocol(READERS, _volume, READINGS),
    )
}


def evaluate_case(
    case: Case | Pair,
    fused: Any,
    metrics: str | Sequence[str] | None = None,
    truth: Truth = None,
    protocol: str = "volume",
    plugins: Plugins | None = None,
) -> Scores:
    """Score a fused image of a case as a run does; see `evaluate`.

    Returns
    -------
    dict
        Value, or the exception that it raised, by metric id.

    Raises
    ------
    InputError
        No such protocol, a fused image of another shape, or a metric that needs more than these images.
    """
    found = PROTOCOLS.get(protocol)
    if found is None or found.name == READERS:
        known = ", ".join(name for name in PROTOCOLS if name != READERS)
        why = "reads a second fusion: fusebench.run(...)" if found else "is not known"
        raise InputError(f"protocol {protocol!r} {why}; a fused image is scored by {known}")
    registry = plugins.metrics if plugins else metric_registry()
    asked = (found.fixed or ranking_set(registry)) if metrics is None else as_list(metrics)
    if found.fixed and (other := [m for m in asked if m not in found.fixed]):
        raise InputError(f"protocol {protocol!r} scores {', '.join(found.fixed)}, not {', '.join(other)}")
    infos = metric_infos(registry, asked).values()
    if truth is None and isinstance(case, Case) and any(info.needs_truth for info in infos):
        truth = case.truth
    for info in infos:
        reason = found.reason_to_skip(info, truth is not None)
        if info.needs_twin and not reason:
            reason = "needs the method itself, not only its image: fusebench.run(...)"
        if reason:
            raise InputError(f"{info.name}: {reason}")
    image = plain(fused.data if isinstance(fused, Volume) else fused, "the fused image")
    shape = case.a.shape
    if image.shape not in (shape, shape[1:] if shape[0] == 1 else shape):
        raise InputError(f"the fused image has shape {image.shape} but the case has {shape}")
    images = ScoredImages.of(case, image.reshape(shape))
    return found.score(images, asked, truth, plugins)


def default_protocols(metrics: Sequence[str], names: Sequence[str] = ()) -> tuple[str, ...]:
    """Protocols where none is asked for: ``volume`` and ``readers``, or those that score the `metrics`.

    Parameters
    ----------
    metrics : sequence of str
        Ids and wildcards, as asked for.
    names : sequence of str
        Of all metrics that there are, for the wildcards.
    """
    if not metrics or "all" in metrics:
        return "volume", READERS
    meant = ((is_pattern(text) and fnmatch.filter(names, text)) or [text] for text in metrics)
    reads = [is_reading(name) for some in meant for name in some]
    return (*([] if reads and all(reads) else ["volume"]), *([READERS] if any(reads) else []))


def is_reading(metric: str) -> bool:
    """True if a metric id is one that the protocol ``readers`` prescribes."""
    return re.split(r"[.@]", metric)[0] in {MetricId.parse(m).name for m in READINGS}


def require_scored(protocols: Sequence[str], metrics: Sequence[str]) -> None:
    """Refuse metrics that were asked for by name and that none of the `protocols` scores.

    Raises
    ------
    InputError
        With the protocol that scores them.
    """
    scored = {False: [p for p in protocols if not PROTOCOLS[p].fixed], True: {READERS} & {*protocols}}
    fixed = {m for p in protocols for m in PROTOCOLS[p].fixed}
    for name in metrics:
        if not is_pattern(name) and name not in fixed and not scored[is_reading(name)]:
            where = READERS if is_reading(name) else "volume or slices"
            raise InputError(
                f"metric {name} is not scored in protocol {', '.join(protocols)}; leave it out, or add "
                f"protocol {where}"
            )
