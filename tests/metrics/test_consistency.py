"""Flicker and planes: fixed blends score 0, a slice-wise brightness does not."""

from __future__ import annotations

import numpy as np
import pytest

from fusebench.errors import Undefined
from fusebench.metrics import evaluate

IDS = ["through_plane_error", "in_plane_error", "ssim_plane", "ssim_plane@coronal", "ssim_plane@sagittal"]


def test_fixed_blends_do_not_flicker_and_slicewise_noise_does() -> None:
    rng = np.random.default_rng(0)
    a, b = 0.3 + 0.4 * rng.random((2, 12, 20, 20), dtype=np.float32)
    blend = evaluate(a, b, 0.7 * a + 0.3 * b, IDS[:2])
    assert max(blend.values()) < 1e-7
    offset = 0.08 * rng.uniform(-2, 2, (12, 1, 1)).astype(np.float32)
    flicker = evaluate(a, b, (a + b) / 2 + offset, IDS[:2], mask=np.ones(a.shape, bool))
    assert flicker["through_plane_error"] > 0.005
    assert flicker["in_plane_error"] < 1e-7


def test_a_step_beyond_the_sources_is_its_excess() -> None:
    a = np.zeros((4, 3, 3), np.float32)
    fused = a.copy()
    fused[2:] = 0.3
    value = evaluate(a, a, fused, IDS[:1])["through_plane_error"]
    assert value == pytest.approx(0.3 / 3)


def test_ssim_of_a_copy_in_three_planes() -> None:
    a = np.random.default_rng(1).random((14, 16, 18), dtype=np.float32)
    assert list(evaluate(a, a, a, IDS[2:]).values()) == pytest.approx([1, 1, 1])


def test_ssim_by_plane_is_the_mean_of_the_slices() -> None:
    a, b, fused = np.random.default_rng(2).random((3, 13, 14, 15), dtype=np.float32)
    mask = np.zeros(a.shape, bool)
    mask[:, 3:9] = True
    wanted = [evaluate(a[:, i], b[:, i], fused[:, i], ["ssim"])["ssim"] for i in range(3, 9)]
    found = evaluate(a, b, fused, ["ssim_plane@coronal"], mask=mask)
    assert found["ssim_plane@coronal"] == pytest.approx(float(np.mean(wanted)), abs=1e-9)


@pytest.mark.parametrize("name", ["through_plane_error", "in_plane_error", "ssim_plane"])
def test_a_single_image_has_no_slices_to_compare(name):
    a, b, fused = np.random.default_rng(0).random((3, 12, 10), dtype=np.float32)
    with pytest.raises(Undefined, match="in volumes only"):
        evaluate(a, b, fused, [name])
