"""What `fuse` refuses, and what a row says of a failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusebench.plugins import find_plugins
from fusebench.task import MethodFault, describe, fuse

PLUGINS = (str(Path(__file__).with_name("engine_plugins.py")),)
A, B = np.random.default_rng(0).random((2, 4, 5, 6), dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "returned NaN or infinity in 120 of 120 voxels"),
        ("shape", r"returned shape \(3, 5, 6\) for input shape \(4, 5, 6\)"),
        ("mutates", r"changed its input b \(functional\); work on a copy"),
        ("out-of-range", r"returned values in \[.*\]; clip or scale to \[0, 1\]"),
        ("not-a-tensor", "returned ndarray, not a tensor"),
    ],
)
def test_broken_contracts_are_named(name: str, message: str) -> None:
    method = find_plugins(PLUGINS).methods.load(name)()
    with pytest.raises(MethodFault, match=f"^{name} {message}"):
        fuse(method, A, B)


def test_seed_decides_random_methods() -> None:
    method = find_plugins(PLUGINS).methods.load("noisy")()
    first, again, other = (fuse(method, A, B, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_description_is_one_line_with_type_and_place() -> None:
    with pytest.raises(ValueError, match="two") as caught:
        raise ValueError("two\nlines")
    assert describe(caught.value).startswith("ValueError: two lines (test_task.py:")
