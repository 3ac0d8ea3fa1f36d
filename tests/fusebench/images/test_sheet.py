"""Sheets of pictures: planes, sides, colour, controls apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fusebench.images.colour import tint
from fusebench.images.sheet import GAP, LABEL, PER_BAND, WIDTH, View, bands_of, sheet, slice_of


def first_panel(path: Path) -> NDArray[np.uint8]:
    """Rows and columns of the axial panel of the first image, as RGB."""
    page = np.asarray(Image.open(path).convert("RGB"))
    return page[GAP + LABEL :][:WIDTH, GAP : GAP + WIDTH]


def test_a_volume_has_three_planes_and_a_picture_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    volume, picture = rng.random((9, 12, 10), np.float32), rng.random((1, 12, 10), np.float32)
    tall = Image.open(sheet([("MRI", volume), ("a$x$", volume)], tmp_path / "v.png"))
    flat = Image.open(sheet([("MRI", picture), ("b", picture)], tmp_path / "p.png"))
    assert tall.width == flat.width and tall.height > 2 * flat.height
    coloured = sheet([("MRI", volume), ("b", volume)], tmp_path / "c.png", tint(volume))
    assert Image.open(coloured).height > tall.height + 0.8 * WIDTH


def test_sides_are_marked_in_volumes_only(tmp_path: Path) -> None:
    for shape, marked in (((9, 12, 12), True), ((1, 12, 12), False)):
        black = np.zeros(shape, np.float32)
        panel = first_panel(sheet([("MRI", black), ("b", black)], tmp_path / "s.png"))[2:-2, 2:-2]
        half = panel.shape[1] // 2
        assert [bool((x > 128).any()) for x in (panel[:, :half], panel[:, half:])] == [marked, marked]


def test_radiological_view_turns_the_sides_and_not_a_picture(tmp_path: Path) -> None:
    for shape, turned in (((9, 12, 12), True), ((1, 12, 12), False)):
        left = np.zeros(shape, np.float32)
        left[..., :4] = 1.0  # the patient's left third
        bright = []
        for radiological in (False, True):
            view = View(radiological=radiological)
            panel = first_panel(sheet([("MRI", left), ("b", left)], tmp_path / "r.png", view=view))
            bright.append(panel[-30:, :60].mean() > panel[-30:, -60:].mean())
        assert bright == [True, not turned]
    volume = np.random.default_rng(0).random((4, 5, 6))
    for plane in ("axial", "coronal", "sagittal"):
        usual, turned_round = (slice_of(volume, plane, View(radiological=r))[0] for r in (False, True))
        same = plane == "sagittal"
        assert np.array_equal(turned_round, usual if same else usual[:, ::-1])


def test_slices_stand_upright_and_keep_proportions() -> None:
    volume = np.zeros((4, 6, 8), np.float32)
    volume[3], volume[:, 5] = 0.5, 1.0  # the top is 0.5, the front is 1
    axial, _ = slice_of(volume, "axial", View())
    assert (axial[0] == 1).all() and (axial[1:] == 0).all()
    coronal, aspect = slice_of(volume, "coronal", View((3.0, 1.0, 1.5)))
    assert (coronal[0] == 0.5).all() and aspect == 2.0
    assert (slice_of(volume, "axial", View(at=(3, 0, 0)))[0][1:] == 0.5).all()
    picture = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
    assert slice_of(picture, "axial", View())[0].ravel().tolist() == [0, 1, 2, 3, 4, 5]


def test_the_colour_row_has_the_chroma_and_the_rows_above_are_grey(tmp_path: Path) -> None:
    grey = np.full((1, 20, 20), 0.5, np.float32)
    chroma = np.stack([np.full((1, 20, 20), 90), np.full((1, 20, 20), 200)]).astype(np.uint8)
    path = sheet([("MRI", grey), ("PET", grey)], tmp_path / "c.png", chroma)
    above = first_panel(path)[WIDTH // 2, WIDTH // 2]
    below = np.asarray(Image.open(path))[GAP + LABEL + WIDTH + GAP + WIDTH // 2, GAP + WIDTH // 2]
    assert np.ptp(above) == 0 and int(below[0]) > int(below[2]) + 50


def test_controls_stand_below_the_methods(tmp_path: Path) -> None:
    volume = np.full((3, 8, 8), 0.5, np.float32)
    images = [(name, volume) for name in ("MRI", "PET", "dwt", "noise")]
    plain = Image.open(sheet(images, tmp_path / "a.png"))
    apart = Image.open(sheet(images, tmp_path / "b.png", controls={"noise"}))
    assert apart.width == plain.width - WIDTH - GAP and apart.height > 1.5 * plain.height


@pytest.mark.parametrize("count", [0, 1, PER_BAND, PER_BAND + 1, 3 * PER_BAND - 1])
def test_bands_are_about_as_long_as_one_another(count: int) -> None:
    lengths = [len(band) for band in bands_of(range(count))]
    assert sum(lengths) == count and max(lengths, default=0) <= PER_BAND
    assert len(lengths) == -(-count // PER_BAND) and max(lengths, default=0) - min(lengths, default=0) <= 2
