import numpy as np
import pytest
import torch
from fusebench_example import GradientWeighted, example_mae

from fusebench.testing import parametrize_with_checks


@parametrize_with_checks([GradientWeighted, example_mae])
def test_conformance(plugin, check):
    check(plugin)


def test_edges_come_from_the_image_that_has_them():
    a, b = torch.full((1, 8, 8), 0.4), torch.full((1, 8, 8), 0.4)
    a[:, :, 4:] = 0.9
    method = GradientWeighted(floor=1e-6)
    method.setup("cpu")
    fused = method.fuse(a, b)
    assert fused[0, 4, 4] > 0.85
    assert fused[0, 4, 0] == pytest.approx(0.4)


def test_mean_absolute_error():
    a, b = np.zeros((4, 4), np.uint8), np.full((4, 4), 50, np.uint8)
    assert example_mae(a, b, a) == pytest.approx(25)
