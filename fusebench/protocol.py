"""How a fused image is scored: `volume`, `slices` and `paper`.

* ``volume``: native 3D metrics inside the foreground mask (2D metrics of a 2D case).  Most of a head
  volume is air, and unmasked PSNR and SSIM are flattered by it.
* ``slices``: the 2D definition, unmasked, on every axial slice that holds foreground; mean over slices.
  This is how 2D papers compare.
* ``paper``: what the DC2Fusion authors did (arXiv 2310.06291): the central axial slice, data range 1,
  mean over the two sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .case import Case
from .metric import MetricInfo, evaluate, evaluate_slices
from .plugins import Plugins

Scores = dict[str, Any]  # metric id -> float, or the exception that it raised
Truth = Mapping[str, Any] | None
Image = NDArray[np.float32]


@dataclass(frozen=True)
class Protocol:
    """A named way to score.

    Attributes
    ----------
    name : str
    score : callable
        ``score(case, fused, metric ids, truth, plugins) -> {id: value or exception}``.
    fixed : tuple of str
        Metric ids that the protocol prescribes; () where the user chooses.
    """

    name: str
    score: Callable[[Case, Image, Sequence[str], Truth, Plugins], Scores]
    fixed: tuple[str, ...] = ()

    def metrics(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Metric ids to score: the prescribed ones, else those asked for."""
        return self.fixed or tuple(asked)

    def reason_to_skip(self, info: MetricInfo, case_has_truth: bool) -> str | None:
        """Why a metric has no value under this protocol, or None."""
        if info.needs_truth and not case_has_truth:
            return "needs ground truth, which this case does not have"
        if info.needs_truth and self.name != "volume":
            return "scored in protocol volume only"
        return None


def _volume(case: Case, fused: Image, metrics: Sequence[str], truth: Truth, plugins: Plugins) -> Scores:
    return evaluate(
        case.a.data,
        case.b.data,
        fused,
        metrics,
        mask=case.mask,
        spacing=case.a.spacing,
        truth=truth,
        on_error="keep",
        plugins=plugins,
    )


def _slices(case: Case, fused: Image, metrics: Sequence[str], truth: Truth, plugins: Plugins) -> Scores:
    held = case.mask.any(axis=(1, 2))
    images = (case.a.data[held], case.b.data[held], fused[held])
    values = evaluate_slices(*images, metrics, on_error="keep", plugins=plugins)
    return {m: v if isinstance(v, Exception) else float(np.mean(v)) for m, v in values.items()}


def _paper(case: Case, fused: Image, metrics: Sequence[str], truth: Truth, plugins: Plugins) -> Scores:
    centre = fused.shape[0] // 2
    images = (case.a.data[centre], case.b.data[centre], fused[centre])
    return evaluate(*images, metrics, on_error="keep", plugins=plugins)


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("volume", _volume),
        Protocol("slices", _slices),
        Protocol("paper", _paper, ("psnr@paper", "ssim@torchmetrics", "nmi@dc2fusion", "mi@dc2fusion")),
    )
}
