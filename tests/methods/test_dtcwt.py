"""Dual-tree complex wavelets: what the transform promises, and fusion of complex coefficients written out."""

from __future__ import annotations

import itertools

import pytest
import torch

import fusebench
from fusebench.errors import InputError

from .learned_2d import module

dtcwt = module("dtcwt")


def images(*shape, seed=3):
    # Away from 0 and 1, so that no clipping hides a difference.
    return 0.4 + 0.2 * torch.rand(
        2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double
    )


def run(a, b, **parameters):
    return fusebench.create_method("dtcwt", **parameters).fuse(a, b)


@pytest.mark.parametrize("n", [4, 8, 20])
@pytest.mark.parametrize("first", [True, False])
def test_a_level_is_undone(n, first):
    low, high, from_low, from_high = dtcwt.operators(n, first)
    assert low.shape == ((n, n) if first else (n // 2, n))
    identity = torch.eye(n, dtype=torch.double)
    assert torch.allclose(from_low @ low + from_high @ high, identity, atol=1e-7)
    assert torch.allclose(low.sum(1), torch.full_like(low[:, 0], 1.0 if first else 2**0.5), atol=1e-7)
    assert high.sum(1).abs().max() < 1e-7


def test_both_trees_together_hardly_feel_a_shift():
    """The energy of a step's coefficients depends little on where the step is; in one tree alone, a lot."""
    first, second, third = dtcwt.operators(128, True), dtcwt.operators(128, False), dtcwt.operators(64, False)
    whole, single = [], []
    for place in range(56, 64):
        step = (torch.arange(128) >= place).double()
        real, imaginary = (third[1] @ (second[0] @ (first[0] @ step))).view(-1, 2).mT
        whole.append(float((real**2 + imaginary**2).sum()))
        single.append(float((real**2).sum()))
    assert max(whole) < 1.25 * min(whole)
    assert max(single) > 4 * min(single)


@pytest.mark.parametrize("shape", [(1, 20, 12), (6, 7, 9), (16, 16, 16), (1, 1, 5), (2, 33, 3)])
def test_one_image_comes_back(shape):
    a, _ = images(*shape)
    assert torch.allclose(run(a, a), a, atol=1e-6)


@pytest.mark.parametrize(("count", "coefficients"), [(1, 1), (2, 2), (3, 4)])
def test_directions_are_products_of_complex_trees(count, coefficients):
    turn = dtcwt.directions(count)
    assert torch.allclose(turn @ turn.mT, torch.eye(2**count, dtype=torch.double))
    trees = torch.rand(count, 2, dtype=torch.double)
    flat = torch.stack(
        [
            torch.stack([trees[i, k] for i, k in enumerate(each)]).prod()
            for each in itertools.product((0, 1), repeat=count)
        ]
    )
    parts = turn @ flat
    got = sorted(torch.complex(parts[:coefficients], parts[coefficients:]).abs().tolist())
    # All have one magnitude, the product of those along the axes.
    wanted = (trees**2).sum(1).sqrt().prod() / 2 ** ((count - 1) / 2)
    assert got == pytest.approx([float(wanted)] * coefficients)


def complex_pair(x):
    """(e + i o) (e +- i o) of the trees e and o along rows and columns."""
    (ee, eo), (oe, oo) = x.tolist()
    return complex(ee - oo, eo + oe), complex(ee + oo, oe - eo)


def block(pair):
    """The inverse of `complex_pair`."""
    z, w = pair
    return torch.tensor([[z.real + w.real, z.imag - w.imag], [z.imag + w.imag, w.real - z.real]]) / 2


def test_one_level_of_a_slice_written_out():
    a, b = images(1, 8, 12)
    low, high, from_low, from_high = ([dtcwt.operators(n, True)[i] for n in (8, 12)] for i in range(4))
    wanted = torch.zeros(8, 12, dtype=torch.double)
    for rows, columns in itertools.product((0, 1), repeat=2):
        to = [(low, high)[k][i] for i, k in enumerate((rows, columns))]
        back = [(from_low, from_high)[k][i] for i, k in enumerate((rows, columns))]
        p, q = (to[0] @ x[0] @ to[1].mT for x in (a, b))
        band = (p + q) / 2
        if rows or columns:
            for i, j in itertools.product(range(0, 8, 2), range(0, 12, 2)):
                first, second = (complex_pair(x[i : i + 2, j : j + 2]) for x in (p, q))
                kept = [x if abs(x) >= abs(y) else y for x, y in zip(first, second, strict=True)]
                band[i : i + 2, j : j + 2] = block(kept)
        wanted += back[0] @ band @ back[1].mT
    assert torch.allclose(run(a, b, levels=1)[0], wanted, atol=1e-6)


def test_levels_are_checked():
    with pytest.raises(InputError, match="dtcwt: levels=0"):
        fusebench.create_method("dtcwt", levels=0)


def test_nan_is_one_clear_error():
    a, b = images(4, 6, 5)
    a[0, 1, 2] = float("nan")
    with pytest.raises(InputError, match="dtcwt: an input holds NaN"):
        run(a, b)
