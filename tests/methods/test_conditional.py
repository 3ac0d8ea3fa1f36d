"""Conditional residual: the expectation is a regression's, and what is unexpected shows with its sign."""

import importlib

import numpy as np
import pytest
import torch
from scipy import ndimage

import fusebench
from fusebench.errors import InputError

expected = importlib.import_module("fusebench.methods._expected")


def head(shape=(40, 44, 48), seed=0):
    """Three tissues with their own levels in both images, the functional one blurred by 1.4 voxels."""
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.standard_normal(shape), [3 * (n > 1) for n in shape])
    label = 1 + np.digitize(field, np.quantile(field, [0.3, 0.6]))
    inside = np.zeros(shape, bool)
    inside[tuple(slice(6, -6) if n > 1 else slice(None) for n in shape)] = True
    label = label * inside
    a = np.array([0, 0.3, 0.6, 0.9])[label]
    b = ndimage.gaussian_filter(np.array([0, 0.1, 0.8, 0.3])[label], [1.4 * (n > 1) for n in shape])
    return torch.from_numpy(a).float(), torch.from_numpy(b * inside).float()


def fuse(a, b, **parameters):
    method = fusebench.create_method("conditional", **parameters)
    method.setup("cpu")
    return method.fuse(a, b)


@pytest.mark.parametrize("shape", [(6, 7, 8), (1, 9, 10), (5, 1, 4)], ids=str)
@pytest.mark.parametrize("sigma", [0.8, 1.75])
def test_blur_is_the_gaussian_filter(shape, sigma):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = ndimage.gaussian_filter(x.numpy(), [sigma * (n > 1) for n in shape], mode="nearest", truncate=4)
    np.testing.assert_allclose(expected.blur(x, sigma), want, atol=1e-3)


@pytest.mark.parametrize("shape", [(40, 44, 48), (1, 96, 96)], ids=str)
def test_what_follows_from_the_structure_is_expected(shape):
    """Nothing to see: the structural image itself; and the resolution is found."""
    a, b = head(shape)
    found, sigma = expected.expected(a, b)
    assert sigma == 1.4
    assert (found - b)[a > 0].abs().mean() < 0.01
    assert (fuse(a, b) - a).abs().mean() < 0.02


@pytest.mark.parametrize("change", [-0.3, 0.3])
def test_a_focal_change_shows_with_its_sign_and_size(change):
    a, b = head()
    grid = np.indices(a.shape)
    blob = np.exp(-sum((g - c) ** 2 for g, c in zip(grid, (20, 22, 24), strict=True)) / (2 * 3.0**2))
    changed = b * (1 + change * torch.from_numpy(blob).float())
    one, two = (fuse(a, changed, k=k) - fuse(a, b, k=k) for k in (1.0, 2.0))
    core = torch.from_numpy(blob > 0.7) & (a > 0.5) & (a < 0.7)
    assert (one * np.sign(change))[core].mean() > 0.6 * abs(change) * 0.6 * 0.7
    np.testing.assert_allclose(two[core].mean(), 2 * one[core].mean(), rtol=0.05)
    assert one[torch.from_numpy(blob < 0.01)].abs().mean() < 0.01


def test_nothing_and_bad_parameters():
    empty = torch.zeros(4, 5, 6)
    assert not fuse(empty, empty).any()
    for bad in ({"bins": 1}, {"k": -1.0}, {"smooth": -0.1}, {"limit": 0.0}):
        with pytest.raises(InputError):
            fuse(empty, empty, **bad)
