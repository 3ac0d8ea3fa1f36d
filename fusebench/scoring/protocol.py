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

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..case import Case
from ..metric import MetricId, MetricInfo
from ..plugins import Plugins
from .evaluate import evaluate, evaluate_slices

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
Begin = Callable[[str], object]  # told the id of each metric before it is computed


@dataclass(frozen=True)
class ScoredImages:
    """The images of one score: sources, fused image and foreground as tensors (D, H, W) on one device.

    Without a mask, everything is foreground.
    """

    a: Tensor
    b: Tensor
    fused: Tensor
    mask: Tensor | None
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, case: Case, fused: NDArray[np.float32], device: str = "cpu") -> ScoredImages:
        """Take a case and its fused image to `device`; on the CPU nothing is copied."""
        import torch  # where scores are made; a plan is made without

        a, b, f, mask = (
            torch.from_numpy(np.require(x, requirements="W")).to(device)
            for x in (case.a.data, case.reference.data, fused, case.mask)
        )
        return cls(a, b, f, mask, case.a.spacing)


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
    scene: ScoredImages, metrics: Sequence[str], truth: Truth, plugins: Plugins, begin: Begin = str
) -> Scores:
    return evaluate(
        scene.a,
        scene.b,
        scene.fused,
        metrics,
        mask=scene.mask,
        spacing=scene.spacing,
        truth=truth,
        on_error="keep",
        plugins=plugins,
        begin=begin,
    )


def _slices(
    scene: ScoredImages, metrics: Sequence[str], truth: Truth, plugins: Plugins, begin: Begin = str
) -> Scores:
    held = slice(None) if scene.mask is None else scene.mask.any(dim=2).any(dim=1)
    images = (scene.a[held], scene.b[held], scene.fused[held])
    values = evaluate_slices(*images, metrics, on_error="keep", plugins=plugins, begin=begin)
    return {m: v if isinstance(v, Exception) else float(np.mean(v)) for m, v in values.items()}


def _paper(
    scene: ScoredImages, metrics: Sequence[str], truth: Truth, plugins: Plugins, begin: Begin = str
) -> Scores:
    centre = scene.fused.shape[0] // 2
    images = (scene.a[centre], scene.b[centre], scene.fused[centre])
    return evaluate(*images, metrics, on_error="keep", plugins=plugins, begin=begin)


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("volume", _volume),
        Protocol("slices", _slices),
        Protocol("paper", _paper, ("psnr@paper", "ssim@torchmetrics", "nmi@dc2fusion", "mi@dc2fusion")),
        Protocol(READERS, _volume, READINGS),
    )
}


def default_protocols(metrics: Sequence[str]) -> tuple[str, ...]:
    """Protocols where none is asked for: ``volume`` and ``readers``, or those that score the `metrics`."""
    if not metrics or "all" in metrics:
        return "volume", READERS
    reads = [is_reading(text) for text in metrics]
    return (*([] if all(reads) else ["volume"]), *([READERS] if any(reads) else []))


def is_reading(metric: str) -> bool:
    """True if a metric id is one that the protocol ``readers`` prescribes."""
    return re.split(r"[.@]", metric)[0] in {MetricId.parse(m).name for m in READINGS}
