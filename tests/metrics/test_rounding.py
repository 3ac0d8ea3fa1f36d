"""No value of a default metric is decided by rounding, and no processor changes one.

Noise of the size of rounding is put into every step whose last digits depend on the processor: products of
matrices, Fourier and cosine transforms, transcendental functions, decompositions.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fusebench
from benchmarks import other_processors
from fusebench.metrics import evaluate, evaluate_slices, metric_registry

from .triples import Image, names, triple

METHODS = ["average", "pca", "laplacian", "dwt", "guided"]
_BORDER = 60
# A published definition whose transform leaves a black background at the size of rounding.  PyWavelets, which
# makes it, computes alike on all processors.
_BY_ROUNDING = {"fmi_wavelet"}


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

    def noisy(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: object) -> Tensor:
            x = real(*args)
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


# -- every metric --------------------------------------------------------------------------------


def _noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put noise of the size of rounding into every step that processors compute differently."""
    random = torch.Generator().manual_seed(0)

    def draw(x: Tensor) -> Tensor:
        size = 1e-14 if x.dtype in (torch.float64, torch.complex128) else 6e-8
        real = torch.empty(x.shape, dtype=torch.float64).normal_(generator=random)
        return (real * size).to(x.real.dtype)

    def relative(x: Tensor) -> Tensor:
        """Sums of few terms, functions: an error next to each value."""
        return x * (1 + draw(x))

    def absolute(x: Tensor) -> Tensor:
        """Transforms: the error of the largest value everywhere."""
        return x + draw(x) * x.abs().amax((-1, -2), keepdim=True)

    def wrap(owner: Any, name: str, noise: Callable[[Any], Any]) -> None:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **options: noise(real(*args, **options)))

    for module in ("_moments", "_visual", "similarity", "structure", "phase", "saliency"):
        owner = import_module(f"fusebench.metrics.{module}")
        for name in ("separable", "correlate"):
            if hasattr(owner, name):
                wrap(owner, name, relative)
    for name in ("fft2", "ifft2", "rfft2", "irfft2"):
        wrap(torch.fft, name, absolute)
    for name in ("atan", "acos", "exp"):
        wrap(torch, name, relative)
    wrap(torch.linalg, "eigvalsh", relative)
    wrap(import_module("scipy.fft"), "dctn", lambda y: absolute(torch.from_numpy(y)).numpy())


def _values(images: dict[str, np.ndarray], ids: list[str]) -> dict[tuple[str, str], np.ndarray]:
    out = {}
    for name, stack in images.items():
        for how, mask in (("", None), (" masked", stack[0] > 0)):
            if "volume" in name:
                found: dict[str, Any] = evaluate(*stack, ids, mask=mask)
            else:
                found = evaluate_slices(*stack, ids, mask=mask)
            out.update({(key, name + how): np.atleast_1d(value) for key, value in found.items()})
    return out


def test_noise_of_the_size_of_rounding_moves_no_default_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    # What little contrast "faint" has is not far above this noise, which is larger than any processor's.
    images = {n: x for n, x in other_processors.triples().items() if n not in ("full", "volume", "faint")}
    ids = [n for n in names() if n not in _BY_ROUNDING]
    wanted = _values(images, ids)
    _noise(monkeypatch)
    got = _values(images, ids)
    worst: dict[str, tuple[float, str]] = {}
    for (key, where), values in got.items():
        gaps = [other_processors.difference(x, y) for x, y in zip(values, wanted[key, where], strict=True)]
        worst[key] = max(worst.get(key, (0.0, "")), (max(gaps), where))
    moved = {
        key: value for key, value in worst.items() if value[0] > metric_registry().load(key).info.tolerance
    }
    assert not moved
    assert sum(gap > 0 for gap, _ in worst.values()) > 15  # the noise arrived


def test_another_processor_gives_the_same_number(tmp_path: Path) -> None:
    ids = names()
    known = other_processors.ENVIRONMENTS
    environments = {"as it is": {}, "another": known["old machine"] | known["two threads"]}
    images = {n: x for n, x in other_processors.triples().items() if n in ("head", "levels", "faint")}
    files = other_processors.measure(tmp_path, ids, [*METHODS, "dtcwt"], environments, images)
    # Vectors are off in one of them, so that there is something to compare.
    assert other_processors.read(files["another"])["capability"] == "DEFAULT"
    worst = other_processors.moved(files)
    assert worst.keys() == set(ids)
    assert not {k: v for k, v in worst.items() if v[0] > metric_registry().load(k).info.tolerance}
    voxels = other_processors.moved_images(files)
    assert voxels.keys() == {*METHODS, "dtcwt"}
    assert not {k: v for k, v in voxels.items() if v[0] > 1e-6}
    scores = other_processors.moved_scores(files)
    assert not {k: v for k, v in scores.items() if v[0] > fusebench.create_method(k).info.tolerance}
