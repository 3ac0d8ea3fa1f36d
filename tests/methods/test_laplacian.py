"""Laplacian pyramid: exact reconstruction, the classical kernel, the fusion rule."""

import importlib

import numpy as np
import pytest
import torch
from scipy import ndimage

import fusebench
from fusebench.errors import InputError

laplacian = importlib.import_module("fusebench.methods.laplacian")


@pytest.mark.parametrize("shape", [(16, 16, 16), (1, 31, 18), (7, 1, 5), (1, 1, 1), (9, 33, 2)], ids=str)
@pytest.mark.parametrize("levels", [1, 3, 8])
def test_reconstruction_is_exact(shape, levels):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    np.testing.assert_allclose(laplacian.collapse(laplacian.pyramid(x, levels)), x, atol=1e-14)


def test_reduce_is_the_binomial_filter():
    x = np.random.default_rng(0).random((10, 11, 12))
    want = x
    for axis in range(3):
        want = ndimage.correlate1d(want, np.array([1, 4, 6, 4, 1]) / 16, axis=axis, mode="nearest")
    np.testing.assert_allclose(laplacian.reduce(torch.from_numpy(x)), want[::2, ::2, ::2], atol=1e-14)


def test_expand_is_the_same_filter_on_inserted_zeros():
    x = np.random.default_rng(0).random((5, 6, 7))
    padded = np.pad(x, 2, mode="edge")
    up = np.zeros([2 * n for n in padded.shape])
    up[::2, ::2, ::2] = padded
    for axis in range(3):
        up = ndimage.correlate1d(up, np.array([1, 4, 6, 4, 1]) / 8, axis=axis, mode="constant")
    got = laplacian.expand(torch.from_numpy(x), torch.Size([9, 12, 13]))
    np.testing.assert_allclose(got, up[4:13, 4:16, 4:17], atol=1e-14)


def test_detail_comes_from_the_source_that_has_it():
    """A flat source and a textured one: the texture whole, the base halved."""
    rng = np.random.default_rng(0)
    texture = torch.from_numpy((0.5 + 0.1 * rng.standard_normal((24, 24, 24))).astype(np.float32))
    flat = torch.full_like(texture, 0.3)
    bands = laplacian.pyramid(texture, 3)
    want = laplacian.collapse([*bands[:-1], (bands[-1] + 0.3) / 2])
    got = fusebench.create_method("laplacian", levels=3).fuse(texture, flat)
    np.testing.assert_allclose(got, want.clamp(0, 1), atol=1e-5)


def test_bad_levels():
    with pytest.raises(InputError, match="levels"):
        fusebench.create_method("laplacian", levels=0)
