"""Arrays in shared memory: what is put there is read back, and what was not put there is refused."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fusebench.engine.shared_arrays import memory, put, taken, views

ARRAYS = {
    "a": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "mask": np.array([True, False, True]),
    "turned": np.arange(6, dtype=">f8").reshape(2, 3).T,
    "one": np.array(3),
    "none": np.zeros((0, 4), np.int16),
}


def test_arrays_come_back_as_they_were() -> None:
    fd, layout = put(ARRAYS)
    try:
        for found in (views(fd, layout), taken(fd, layout)):
            assert list(found) == list(ARRAYS)
            for name, array in ARRAYS.items():
                assert found[name].dtype == array.dtype
                np.testing.assert_array_equal(found[name], array)
    finally:
        os.close(fd)


def test_what_is_written_to_a_view_stays_there() -> None:
    fd, layout = put(ARRAYS)
    views(fd, layout)["a"][...] = 9
    np.testing.assert_array_equal(taken(fd, layout)["a"], ARRAYS["a"])
    if hasattr(os, "memfd_create"):
        with pytest.raises(OSError, match="not permitted"):
            os.pwrite(fd, b"0", 0)
    os.close(fd)


@pytest.mark.parametrize(
    "layout",
    [
        None,
        [["a"]],
        [["a", "O", [2]]],
        [["a", "f4", [-1]]],
        [["a", "f4", [1 << 40]]],
        [["a", "f4", ["x"]]],
        [["a", "f4", [float("inf")]]],
        [["a", "no type", [1]]],
    ],
)
def test_an_odd_layout_is_refused(layout: object) -> None:
    fd = memory(64)
    with pytest.raises(ValueError, match=r"no layout of arrays|cut short"):
        taken(fd, layout)
    os.close(fd)


def test_objects_cannot_be_put() -> None:
    with pytest.raises(TypeError, match="x holds object, not numbers"):
        put({"x": np.array([None])})
