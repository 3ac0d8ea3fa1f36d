"""Volumes and cases: shapes, spacing, laziness, what travels to workers."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from fusebench.case import Case, Pair, Volume
from fusebench.errors import InputError

LOADED: list[str] = []


def load(name: str) -> Pair:
    LOADED.append(name)
    plane = Volume(np.full((2, 3, 4), 0.5, np.float32))
    return Pair(plane, plane, np.ones((2, 3, 4), bool))


def load_truth() -> dict[str, np.ndarray]:
    return {"lesion": np.zeros(100_000)}


def case(**options: object) -> Case:
    return Case("one", "made-up", "subject", "key", partial(load, "one"), **options)  # type: ignore[arg-type]


def test_spacing_is_in_the_order_of_the_axes() -> None:
    turn = np.array([[0, -2.0, 0], [1.0, 0, 0], [0, 0, 3.5]])  # columns: w, h, d
    affine = np.eye(4)
    affine[:3, :3] = turn
    assert Volume(np.zeros((2, 3, 4), np.float32), affine).spacing == (3.5, 2.0, 1.0)


def test_a_volume_has_three_axes() -> None:
    with pytest.raises(InputError, match="3 axes"):
        Volume(np.zeros((3, 4), np.float32))


def test_images_of_a_pair_lie_on_one_grid() -> None:
    a, b = (Volume(np.zeros((1, 4, n), np.float32)) for n in (4, 5))
    with pytest.raises(InputError, match=r"differ in shape.*--register"):
        Pair(a, b, np.ones((1, 4, 4), bool))


def test_nothing_is_read_before_it_is_asked_for_and_then_once() -> None:
    LOADED.clear()
    lazy = case()
    assert (lazy.id, lazy.group, lazy.truth) == ("one", "subject", None) and LOADED == []
    assert lazy.a.shape == lazy.b.shape == lazy.mask.shape and LOADED == ["one"]


def test_arrays_do_not_travel_to_workers() -> None:
    full = case(truth_loader=load_truth)
    _ = full.pair, full.truth
    packed = pickle.dumps(full)
    assert len(packed) < 1000
    assert pickle.loads(packed).a.shape == (2, 3, 4)


def test_results_are_scored_against_the_reference_where_there_is_one() -> None:
    moved, where_it_belongs = (Volume(np.full((1, 2, 2), v, np.float32)) for v in (0.2, 0.8))
    pair = Pair(moved, moved, np.ones((1, 2, 2), bool), where_it_belongs)
    assert Case("x", "y", "z", "k", lambda: pair).reference is where_it_belongs
    assert case().reference.data.max() == 0.5


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\0b"])
def test_an_id_is_the_name_of_a_file(name: str) -> None:
    with pytest.raises(InputError, match="id"):
        Case(name, "made-up", "subject", "key", partial(load, "one"))


def test_a_fingerprint_is_text() -> None:
    with pytest.raises(InputError, match="case c: the fingerprint 5"):
        Case("c", "d", "g", 5, load)  # type: ignore[arg-type]
