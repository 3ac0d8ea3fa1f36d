"""Colour: known values of BT.601, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2lab

from fusebench.case import Volume
from fusebench.images.colour import MAPS, chroma, chroma_of, luminance, ramp, span, tint, to_rgb
from fusebench.images.picture import over_black

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


@pytest.mark.parametrize("name", MAPS)
def test_luminance_of_a_coloured_image_is_the_fused_one_whatever_the_chroma(name: str) -> None:
    rng = np.random.default_rng(0)
    fused, b = rng.random((9, 8, 7)), rng.random((9, 8, 7))
    fused[0], fused[1] = 0, 1
    shown = to_rgb(fused, tint(b, name))
    assert np.abs(luminance(shown).astype(float) - fused * 255).max() <= 1.5
    assert (shown[0] == 0).all() and (shown[1] == 255).all()  # black stays black, white stays white
    assert np.ptp(shown[2:], axis=-1).max() > 60


@pytest.mark.parametrize("name", MAPS)
def test_equal_steps_of_uptake_are_equal_steps_of_colour(name: str) -> None:
    lab = rgb2lab(ramp(name)[None] / 255)[0]
    assert np.abs(lab[:, 0] - 62).max() < 1  # the fused image alone says how light a place is
    steps = np.linalg.norm(np.diff(lab[::15, 1:], axis=0), axis=1)
    assert steps.max() < 1.4 * steps.min()


def test_a_large_picture_is_converted_in_pieces_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    opacity = np.random.default_rng(1).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    whole = luminance(rgb), chroma(rgb), over_black(rgb, opacity)[0]
    monkeypatch.setattr("fusebench.images.colour._BLOCK", 77)
    pieces = luminance(rgb), chroma(rgb), over_black(rgb, opacity)[0]
    assert all(np.array_equal(a, b) for a, b in zip(whole, pieces, strict=True))
    assert np.array_equal(whole[2], np.rint(rgb * (opacity[..., None] / 255)))


def test_the_last_colour_is_for_the_brightest_voxels_and_air_takes_no_part() -> None:
    b = np.zeros((10, 10, 10))
    b[:5] = np.linspace(0.1, 0.5, 500).reshape(5, 10, 10)
    b[0, 0, 0] = 1.0  # one bright voxel does not take the map for itself
    assert 0.45 < span(b) < 0.55
    last = chroma(ramp())[:, -1]
    assert (tint(b)[:, 4, 9, 9] == last).all() and (tint(2 * b) == tint(b)).all()
    assert tint(np.zeros((2, 2))).shape == (2, 2, 2)  # no uptake anywhere


def test_a_picture_keeps_the_chroma_that_it_carries() -> None:
    carried = np.full((2, 1, 4, 4), 99, np.uint8)
    data = np.full((1, 4, 4), 0.5, np.float32)
    assert chroma_of(Volume(data, chroma=carried)) is carried
    assert np.array_equal(chroma_of(Volume(data), "heat"), tint(data, "heat"))
