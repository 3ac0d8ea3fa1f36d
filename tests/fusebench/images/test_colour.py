"""Colour: known values of BT.601, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from fusebench.images.colour import chroma, luminance, to_rgb

PURE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], np.uint8)


def test_pure_colours_have_the_published_values() -> None:
    assert luminance(PURE).tolist() == [76, 150, 29, 255, 0]
    assert chroma(PURE).T.tolist() == [[85, 255], [44, 21], [255, 107], [128, 128], [128, 128]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_stays_grey_and_depth_is_kept(dtype: type) -> None:
    grey = np.repeat(np.arange(0, np.iinfo(dtype).max, 97, dtype)[:, None], 3, 1)
    assert luminance(grey).dtype == dtype
    assert np.array_equal(luminance(grey), grey[:, 0])
    assert (chroma(grey) == 128).all()


def test_there_and_back_is_off_by_rounding_only() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8)
    back = to_rgb(luminance(rgb) / 255, chroma(rgb))
    assert np.abs(back.astype(int) - rgb).max() <= 2


def test_a_fused_plane_out_of_range_is_clipped() -> None:
    neutral = np.full((2, 2), 128, np.uint8)
    assert to_rgb(np.array([-0.5, 1.5]), neutral).tolist() == [[0, 0, 0], [255, 255, 255]]
