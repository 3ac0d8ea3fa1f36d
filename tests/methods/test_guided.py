"""Guided-filter fusion against direct loops."""

import importlib
import itertools

import numpy as np
import pytest
import torch

import fusebench
from fusebench.errors import InputError

guided = importlib.import_module("fusebench.methods.guided")


def slow_mean(x, radius):
    out = np.empty_like(x)
    for at in itertools.product(*(range(n) for n in x.shape)):
        out[at] = x[tuple(slice(max(0, i - radius), i + radius + 1) for i in at)].mean()
    return out


def slow_guided(guide, target, radius, eps):
    slope, offset = np.empty_like(guide), np.empty_like(guide)
    for at in itertools.product(*(range(n) for n in guide.shape)):
        window = tuple(slice(max(0, i - radius), i + radius + 1) for i in at)
        g, t = guide[window], target[window]
        slope[at] = ((g * t).mean() - g.mean() * t.mean()) / (g.var() + eps)
        offset[at] = t.mean() - slope[at] * g.mean()
    return slow_mean(slope, radius) * guide + slow_mean(offset, radius)


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 7, 9), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("radius", [1, 2, 20])
def test_box_and_guided_filter(shape, radius):
    rng = np.random.default_rng(0)
    guide, target = rng.random(shape), rng.random(shape)
    np.testing.assert_allclose(guided.Box(shape, radius)(guide), slow_mean(guide, radius), atol=1e-12)
    np.testing.assert_allclose(
        guided.guided_filter(guide, target, guided.Box(shape, radius), 1e-3),
        slow_guided(guide, target, radius, 1e-3),
        atol=1e-10,
    )


def test_fusion_written_out():
    from scipy import ndimage

    rng = np.random.default_rng(1)
    a, b = (rng.random((5, 6, 7), dtype=np.float32) for _ in range(2))
    x, y = a.astype(float), b.astype(float)
    salient = [ndimage.gaussian_filter(np.abs(ndimage.laplace(v)), 2.0, radius=2) for v in (x, y)]
    first = (salient[0] > salient[1]).astype(float)
    parts = []
    for radius, eps in ((3, 0.3), (1, 1e-6)):
        p = np.maximum(slow_guided(x, first, radius, eps), 0)
        q = np.maximum(slow_guided(y, 1 - first, radius, eps), 0)
        parts.append(p / (p + q))
    base = [slow_mean(v, 2) for v in (x, y)]
    want = parts[0] * base[0] + (1 - parts[0]) * base[1]
    want += parts[1] * (x - base[0]) + (1 - parts[1]) * (y - base[1])
    method = fusebench.create_method(
        "guided", box=2, saliency_radius=2, saliency_sigma=2.0, base_radius=3, detail_radius=1
    )
    got = method.fuse(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_allclose(got, np.clip(want, 0, 1), atol=1e-6)


def test_each_half_comes_from_the_sharp_source():
    """Multi-focus, the classical use: every half is sharp in one source only."""
    from scipy import ndimage

    sharp = np.random.default_rng(2).random((1, 64, 128), dtype=np.float32)
    soft = ndimage.gaussian_filter(sharp, (0, 2, 2))
    left = np.arange(128) < 64
    a, b = np.where(left, sharp, soft), np.where(left, soft, sharp)
    fused = fusebench.create_method("guided").fuse(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    away = np.abs(np.arange(128) - 63.5) > 16
    error = np.abs(fused - sharp)[..., away].mean()
    assert error < 0.1 * np.abs((a + b) / 2 - sharp)[..., away].mean()


@pytest.mark.parametrize("parameters", [{"box": 0}, {"detail_eps": 0.0}, {"saliency_sigma": -1.0}])
def test_bad_parameters(parameters):
    with pytest.raises(InputError, match="guided"):
        fusebench.create_method("guided", **parameters)
