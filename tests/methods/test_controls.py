"""Controls do exactly what their name says."""

import numpy as np
import pytest
import torch

import fusebench
from fusebench.errors import InputError


@pytest.fixture(scope="module")
def sources():
    rng = np.random.default_rng(0)
    return [torch.from_numpy((0.2 + 0.5 * rng.random((20, 24, 28))).astype(np.float32)) for _ in range(2)]


def fuse(name, sources, **parameters):
    return fusebench.create_method(name, **parameters).fuse(*sources)


def test_sources_are_copied(sources):
    assert torch.equal(fuse("source-mri", sources), sources[0])
    assert torch.equal(fuse("source-pet", sources), sources[1])


@pytest.mark.parametrize(("name", "t"), [("blend@0.20", 0.2), ("blend@0.35", 0.35), ("blend@0.75", 0.75)])
def test_blend(sources, name, t):
    want = (1 - t) * sources[0].numpy() + t * sources[1].numpy()
    np.testing.assert_allclose(fuse(name, sources), want, atol=1e-6)


def test_interleave_is_a_checkerboard(sources):
    fused = fuse("interleave", sources)
    odd = np.indices(fused.shape).sum(axis=0) % 2 == 1
    np.testing.assert_array_equal(fused, np.where(odd, sources[1], sources[0]))


def test_noise_has_its_size_and_seed(sources):
    residual = fuse("noise", sources, sigma=0.05) - fuse("average", sources)
    assert residual.std().item() == pytest.approx(0.05, rel=0.03)
    assert abs(residual.mean().item()) < 0.002
    assert torch.equal(fuse("noise", sources), fuse("noise", sources))
    assert not torch.equal(fuse("noise", sources, seed=1), fuse("noise", sources))
    assert torch.equal(fuse("noise", sources, sigma=0.0), fuse("average", sources))


def test_noise_leaves_the_global_generator_alone(sources):
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    fuse("noise", sources)
    assert torch.equal(torch.rand(3), want)


def test_stretch_is_linear_and_fills_the_range(sources):
    mean = fuse("average", sources).numpy()
    low, high = np.percentile(mean, [1, 99])
    np.testing.assert_allclose(
        fuse("stretch", sources), np.clip((mean - low) / (high - low), 0, 1), rtol=1e-4, atol=1e-5
    )
    empty = [torch.zeros(2, 3, 4)] * 2
    assert fuse("stretch", empty).max() == 0
    flat = [torch.full((2, 3, 4), 0.3)] * 2
    np.testing.assert_allclose(fuse("stretch", flat), 0.3)


@pytest.mark.parametrize(("name", "parameters"), [("noise", {"sigma": -0.1}), ("stretch", {"clip": 50})])
def test_bad_parameters(name, parameters):
    with pytest.raises(InputError, match=name):
        fusebench.create_method(name, **parameters)
