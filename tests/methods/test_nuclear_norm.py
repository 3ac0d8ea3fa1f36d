"""Nuclear norms against singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from .learned_2d import module


@pytest.mark.parametrize("spread", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("shape", [(12, 12), (9, 20), (20, 9)])
def test_the_largest_nuclear_norm(spread, shape):
    """Spread 0 and 0.3: near ties, where the matrix of largest Frobenius norm need not win."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, *shape, generator=generator)
    x *= 1 + spread * torch.rand(30, 1, 1, generator=generator)
    x[:10] = x[:10, :, :1] * x[:10, :1] / 2  # rank one: large Frobenius norm, small nuclear norm
    every = [np.linalg.svd(m, compute_uv=False).sum() for m in x.double().numpy()]
    sets = torch.stack([x[:15], x[15:], 0 * x[:15]])
    found = module("_nuclear_norm").largest_nuclear_norms(sets)
    assert found.numpy() == pytest.approx([max(every[:15]), max(every[15:]), 0], rel=1e-6)
    assert module("_nuclear_norm").nuclear_norms(x).numpy() == pytest.approx(every, rel=1e-6)
