"""Foreground: a ball in air is found, whatever the scale, noise, specks and holes."""

from __future__ import annotations

import numpy as np
import pytest

from fusebench.images.foreground import foreground

SHAPE = (24, 36, 40)
GRID = np.indices(SHAPE, dtype=np.float32) - (np.array(SHAPE, np.float32)[:, None, None, None] - 1) / 2
RADIUS = np.sqrt((GRID**2).sum(0))
BALL = RADIUS < 9


def dice(x: np.ndarray, y: np.ndarray) -> float:
    return float(2 * (x & y).sum() / (x.sum() + y.sum()))


@pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (3000.0, 0.0), (1.0, -1024.0)])
def test_scale_and_offset_change_nothing(scale: float, offset: float) -> None:
    mask = foreground((BALL * scale + offset).astype(np.float32))
    assert mask.dtype == bool and mask.shape == SHAPE
    assert dice(mask, BALL) > 0.98


def test_noise_of_the_air_is_no_foreground() -> None:
    noise = np.abs(np.random.default_rng(0).normal(0, 0.05, SHAPE))
    assert dice(foreground((BALL + noise).astype(np.float32)), BALL) > 0.97


def test_holes_are_filled_and_specks_dropped() -> None:
    image = BALL.astype(np.float32)
    image[RADIUS < 4] = 0  # ventricles
    image[1:3, 1:3, 1:3] = 1  # an artefact
    mask = foreground(image)
    assert mask[RADIUS < 4].all() and not mask[:4, :4, :4].any()


def test_parts_of_a_single_slice_may_be_apart() -> None:
    plane = np.zeros((1, 40, 40), np.float32)
    plane[0, 5:15, 5:15] = plane[0, 25:35, 25:35] = 1
    mask = foreground(plane)
    assert mask[0, 10, 10] and mask[0, 30, 30] and not mask[0, 20, 20]


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_image_is_all_foreground(value: float) -> None:
    assert foreground(np.full((3, 8, 8), value, np.float32)).all()
