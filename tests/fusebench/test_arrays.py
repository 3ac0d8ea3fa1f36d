"""Arrays as people hold them give the same values, or are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fusebench.arrays import grey, plain, region
from fusebench.case import Pair, Volume
from fusebench.errors import InputError
from fusebench.metrics import evaluate, evaluate_slices, ssim

RNG = np.random.default_rng(0)
A, B = RNG.random((2, 6, 24, 26)).astype(np.float32)
F = (A + B) / 2
MASK = RNG.random(A.shape) > 0.3

HELD: dict[str, Callable[[np.ndarray], Any]] = {
    "turned": lambda x: np.flip(np.flip(x).copy()),
    "every other": lambda x: np.repeat(x, 2, axis=2)[:, :, ::2],
    "Fortran": np.asfortranarray,
    "big endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "double": lambda x: x.astype(np.float64),
    "long double": lambda x: x.astype(np.longdouble),
    "read only": lambda x: np.broadcast_to(x, x.shape),
    "masked, nothing hidden": lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
    "tensor": torch.from_numpy,
    "tensor with gradient": lambda x: torch.from_numpy(x.copy()).requires_grad_(),
    "lists": np.ndarray.tolist,
}


@pytest.mark.parametrize("how", HELD)
def test_images_held_in_any_way_score_the_same(how: str) -> None:
    held = HELD[how]
    images = [held(x) for x in (A, B, F)]
    ids = ["psnr", "ssim", "q_mi"]
    assert evaluate(*images, ids, mask=MASK) == evaluate(A, B, F, ids, mask=MASK)
    assert ssim(*images) == ssim(A, B, F)
    several, wanted = evaluate_slices(*images, ["psnr"]), evaluate_slices(A, B, F, ["psnr"])
    assert np.array_equal(several["psnr"], wanted["psnr"])


@pytest.mark.parametrize(
    "code", ["?", "i1", "u1", "<i2", ">i2", ">u2", "<u4", ">u4", "u8", "<f2", ">f4", "f8", "g"]
)
def test_masks_of_any_type(code: str) -> None:
    wanted = evaluate(A, B, F, ["psnr"], mask=MASK)
    for mask in (MASK.astype(code), np.flip(np.flip(MASK.astype(code)).copy())):
        assert evaluate(A, B, F, ["psnr"], mask=mask) == wanted
        assert Pair(Volume(A), Volume(B), mask).mask.dtype == np.bool_
        assert np.array_equal(Pair(Volume(A), Volume(B), mask).mask, MASK)


def test_what_is_no_number_is_outside_a_mask() -> None:
    assert np.array_equal(region(np.array([0.0, np.nan, 1.0, -1.0])), [False, False, True, False])


@pytest.mark.parametrize("mask", [MASK.astype(complex), MASK.astype(object), MASK.astype(str)])
def test_masks_that_are_none(mask: np.ndarray) -> None:
    with pytest.raises(InputError, match="; give bool"):
        evaluate(A, B, F, ["psnr"], mask=mask)


def test_hidden_values_are_not_scored_in_silence() -> None:
    images = [np.ma.masked_array(x, ~MASK) for x in (A, B, F)]
    with pytest.raises(InputError, match="a is a masked array that hides"):
        evaluate(*images, ["psnr"])
    with pytest.raises(InputError, match="mask is a masked array"):
        evaluate(A, B, F, ["psnr"], mask=np.ma.masked_array(MASK, ~MASK))
    with pytest.raises(InputError, match="data of a volume is a masked array"):
        Volume(images[0])


@pytest.mark.parametrize("how", [h for h in HELD if "tensor" not in h and h != "lists"])
def test_a_volume_is_plain_float32(how: str) -> None:
    data = Volume(HELD[how](A)).data
    assert data.dtype == np.float32 and data.dtype.isnative and data.flags.c_contiguous
    assert type(data) is np.ndarray and np.array_equal(data, A)
    torch.from_numpy(data.copy())


def test_what_is_plain_is_not_copied() -> None:
    assert plain(A, "a") is A and grey(A, "a") is A and region(MASK) is MASK
    assert Volume(A).data is A


def test_whole_numbers_are_no_volume() -> None:
    with pytest.raises(InputError, match="holds uint8; give floats in"):
        Volume(np.zeros((2, 3, 4), np.uint8))
