"""No value of a default metric is decided by rounding."""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest
import torch
from torch import Tensor

from fusebench.metrics import evaluate

from .triples import Image, triple

_BORDER = 60


def _on_black() -> tuple[Image, Image, Image]:
    """Two sources and a fused image in the middle of a wide black background."""
    a, b, f = (np.pad(x, _BORDER) for x in triple((64, 60), 3))
    return a, b, f


@pytest.mark.parametrize("fused", ["average", "source"])
def test_q_cb_does_not_move_with_noise_in_its_intermediate_images(
    fused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    saliency = import_module("fusebench.metrics.saliency")
    a, b, f = _on_black()
    images = (a, b, a if fused == "source" else f)
    wanted = evaluate(*images, ["q_cb", "q_cb@liu"])
    random = torch.Generator().manual_seed(0)

    def noisy(real: object) -> object:
        def call(*args: object) -> Tensor:
            x: Tensor = real(*args)  # type: ignore[operator]
            return x + 1e-12 * torch.randn(x.shape, generator=random, dtype=x.dtype)

        return call

    for name in ("_filtered", "separable"):
        monkeypatch.setattr(saliency, name, noisy(getattr(saliency, name)))
    got = evaluate(*images, ["q_cb", "q_cb@liu"])
    assert got["q_cb"] == pytest.approx(wanted["q_cb"], rel=1e-7)
    # The published program's way does move, so the noise reaches what it divides.
    assert abs(got["q_cb@liu"] - wanted["q_cb@liu"]) > 1e-4


def test_q_cb_counts_a_black_background_as_kept() -> None:
    a, b, f = _on_black()
    far = np.ones(a.shape, bool)
    far[20:-20, 20:-20] = False
    assert evaluate(a, b, f, ["q_cb"], mask=far)["q_cb"] == pytest.approx(1, abs=1e-9)
    assert evaluate(a, b, f, ["q_cb"])["q_cb"] < 0.99
