"""Promises of every classical method and control, and the known answers of the simplest ones."""

import importlib

import numpy as np
import pytest
import torch

import fusebench

FUSION = ["average", "max", "pca", "laplacian", "dwt", "swt", "guided"]
CONTROLS = [
    "source-mri",
    "source-pet",
    "blend@0.20",
    "blend@0.35",
    "blend@0.75",
    "interleave",
    "noise",
    "stretch",
]
SHAPES = [(1, 1, 1), (1, 1, 7), (1, 33, 40), (5, 1, 1), (2, 3, 4), (17, 22, 31), (32, 32, 32)]


def pair(shape, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.random(shape, dtype=np.float32)) for _ in range(2)]


def ready(name, **parameters):
    method = fusebench.create_method(name, **parameters)
    method.setup("cpu")
    return method


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUSION + CONTROLS)
def test_contract_on_any_shape(name, shape):
    a, b = pair(shape)
    kept = a.clone(), b.clone()
    method = ready(name)
    fused = method.fuse(a, b)
    assert fused.shape == a.shape
    assert fused.dtype == torch.float32
    assert torch.isfinite(fused).all()
    assert 0 <= fused.min() <= fused.max() <= 1
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])
    # The result is the caller's: writing into it changes no source.
    fused.fill_(0.123)
    assert torch.equal(a, kept[0]) and torch.equal(b, kept[1])
    assert torch.equal(method.fuse(a, b), ready(name).fuse(a, b))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUSION)
def test_equal_sources_are_kept(name, shape):
    a, _ = pair(shape)
    np.testing.assert_allclose(ready(name).fuse(a, a.clone()), a, atol=2e-6)


@pytest.mark.parametrize("name", FUSION)
def test_constants(name):
    a, b = torch.full((4, 20, 24), 0.2), torch.full((4, 20, 24), 0.6)
    fused = ready(name).fuse(a, b)
    want = 0.6 if name == "max" else 0.4
    np.testing.assert_allclose(fused, want, atol=1e-6)


@pytest.mark.parametrize("name", FUSION)
def test_order_of_the_sources_does_not_matter(name):
    a, b = pair((12, 20, 24))
    np.testing.assert_allclose(ready(name).fuse(a, b), ready(name).fuse(b, a), atol=1e-5)


@pytest.mark.parametrize("name", FUSION)
def test_air_stays_black(name):
    a, b = pair((64, 64, 64))
    inside = torch.zeros_like(a)
    inside[24:40, 24:40, 24:40] = 1
    fused = ready(name).fuse(a * inside, b * inside)
    corner = fused[:4, :4, :4]
    assert corner.max() < 1e-4


def test_only_the_controls_are_marked():
    methods = fusebench.plugins.find_plugins().methods
    assert not any(methods.load(n).info.control for n in FUSION)
    assert all(methods.load(n).info.control for n in CONTROLS)


def test_average_and_maximum():
    a, b = pair((3, 5, 7))
    np.testing.assert_array_equal(ready("average").fuse(a, b), (a.numpy() + b.numpy()) / 2)
    np.testing.assert_array_equal(ready("max").fuse(a, b), np.maximum(a.numpy(), b.numpy()))


def test_pca_weights_are_the_first_eigenvector():
    a, b = pair((6, 9, 10))
    b = (0.5 * b + 0.4 * a).clamp(0, 1)
    values, vectors = np.linalg.eigh(np.cov(a.numpy().ravel(), b.numpy().ravel()))
    first = np.abs(vectors[:, np.argmax(values)])
    module = importlib.import_module("fusebench.methods.pca")
    np.testing.assert_allclose(module.PCA.weights(a, b), first / first.sum(), rtol=1e-6)
    want = (first[0] * a.numpy() + first[1] * b.numpy()) / first.sum()
    np.testing.assert_allclose(ready("pca").fuse(a, b), want, atol=1e-6)


def test_pca_of_opposite_sources_is_a_blend():
    a, _ = pair((4, 8, 8))
    p, q = importlib.import_module("fusebench.methods.pca").PCA.weights(a, 1 - 0.5 * a)
    assert p + q == pytest.approx(1)
    assert p == pytest.approx(2 / 3, abs=1e-5)


def test_parameters_are_reported():
    assert ready("dwt", wavelet="db2", levels=2).parameters() == {"wavelet": "db2", "levels": 2, "window": 3}
    assert ready("laplacian").parameters() == {"levels": 4}
    assert ready("noise", seed=5).parameters()["seed"] == 5


def test_a_method_called_weights_is_no_file():
    assert fusebench.create_method("pca").files() == []
