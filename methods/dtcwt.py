"""Dual-tree complex wavelet fusion, in as many dimensions as the image has."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo

Taps = tuple[float, ...]

# Low passes of the first level: there, and of the way back (near-symmetric, 5 and 7 taps).
SHORT: Taps = tuple(k / 20 for k in (-1, 5, 12, 5, -1))
LONG: Taps = tuple(k / 280 for k in (-3, -15, 73, 170, 73, -15, -3))
# Low pass of one tree of the further levels (q-shift, 10 taps); the other tree's is its mirror image.
QUARTER: Taps = (
    0.051130405283831656,
    -0.013975370246888838,
    -0.10983605166597087,
    0.26383956105893763,
    0.7666284677930372,
    0.5636557101270515,
    0.0008736226952170968,
    -0.1002312195074762,
    -0.0016896812725281543,
    -0.006181881892116438,
)


class DTCWT(Method):
    """Mean of the low pass; of each complex coefficient the one of larger magnitude.

    Complex coefficients tell directions apart (28 in 3D), and their magnitudes hardly move when an image is
    shifted, so the choice does not flicker as that of `dwt` does.  The filters are those of the package
    ``dtcwt`` by default (near_sym_a, q-shift a), and so are the coefficients.

    Parameters
    ----------
    levels : int
        Decomposition levels.
    """

    info = MethodInfo(
        name="dtcwt",
        summary="dual-tree complex wavelets, mean low pass, larger magnitude of details",
        paper="Lewis et al., Pixel- and region-based image fusion with complex wavelets, Information Fusion "
        "8(2), 2007; Kingsbury, Complex wavelets for shift invariant analysis and filtering of signals, "
        "Applied and Computational Harmonic Analysis 10(3), 2001",
        cost=0.23,
        tolerance=5e-5,
    )

    def __init__(self, levels: int = 4) -> None:
        if levels < 1:
            raise InputError(f"dtcwt: levels={levels} is less than 1")
        self.levels = levels

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        if not (a.isfinite().all() and b.isfinite().all()):
            raise InputError("dtcwt: an input holds NaN or infinite values; clean the images first")
        shape = a.shape
        axes = [axis for axis, n in enumerate(shape) if n > 1]
        if not axes:
            return (a + b) / 2
        levels = min(self.levels, (max(shape) - 1).bit_length())
        both = torch.stack((a, b))
        for axis in axes:  # to a multiple of what the levels halve; the last plane is repeated
            n = shape[axis]
            both = both.index_select(
                axis + 1, torch.arange(n + -n % 2**levels, device=a.device).clamp_max(n - 1)
            )
        fused = fuse_level(both, axes, levels, first=True)
        return fused[tuple(slice(n) for n in shape)].clamp(0, 1)


def fuse_level(both: Tensor, axes: Sequence[int], levels: int, first: bool = False) -> Tensor:
    """Fuse two images (2, D, H, W) from one level on.

    Parameters
    ----------
    both : Tensor
        Low passes of the level before.
    axes : sequence of int
        Of D, H and W those that are filtered.
    levels : int
        Levels to go.
    """
    if not levels:
        return both.mean(0)

    def descend(x: Tensor, rest: Sequence[int], detail: bool) -> Tensor:
        """Filter along the `rest` of the axes, fuse each band, and go back."""
        if not rest:
            return choose_larger(x, axes) if detail else fuse_level(x, axes, levels - 1)
        low, high, from_low, from_high = (matrix.to(x) for matrix in operators(x.shape[rest[0] + 1], first))
        calm = descend(_apply(low, x, rest[0] + 1), rest[1:], detail)
        keen = descend(_apply(high, x, rest[0] + 1), rest[1:], True)
        return _apply(from_low, calm, rest[0]) + _apply(from_high, keen, rest[0])

    return descend(both, axes, False)


def choose_larger(both: Tensor, axes: Sequence[int]) -> Tensor:
    """Of each complex coefficient of two images (2, D, H, W) the one of larger magnitude.

    The trees lie at even and odd places of each axis, so a block of 2, 4 or 8 numbers holds one coefficient
    of each tree, and these make 1, 2 or 4 complex ones, one for each direction.
    """
    trees = both[None]
    for axis in axes:
        trees = torch.cat([_every_second(trees, axis + 2, k) for k in (0, 1)])
    turn = directions(len(axes)).to(trees)
    parts = (turn @ trees.flatten(1)).view(2, -1, *trees.shape[1:])  # real, imaginary
    size = parts.square().sum(0)
    chosen = torch.where(size[:, 0] >= size[:, 1], parts[:, :, 0], parts[:, :, 1])
    trees = (turn.mT @ chosen.flatten(0, 1).flatten(1)).view(len(trees), *chosen.shape[2:])
    for axis in reversed(axes):
        first, second = trees.chunk(2)
        trees = torch.stack((first, second), axis + 2).flatten(axis + 1, axis + 2)
    return trees[0]


def _every_second(x: Tensor, axis: int, start: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, None, 2),)]


@functools.lru_cache(maxsize=3)
def directions(count: int) -> Tensor:
    """Orthogonal matrix that turns 2**count trees into real, then imaginary parts of complex coefficients.

    A coefficient is the product over axes of first tree + i second tree or first tree - i second tree; those
    that differ in all signs are conjugate, so the sign of the first axis is fixed.
    """
    one = torch.tensor([[1, 1j], [1, -1j]], dtype=torch.complex128)
    signs = functools.reduce(torch.kron, [one] * count)[: 2 ** (count - 1)]
    return torch.cat((signs.real, signs.imag)) / 2 ** ((count - 1) / 2)


@functools.lru_cache(maxsize=64)
def operators(n: int, first: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One level along an axis of `n` numbers as matrices: low pass, high pass, and what goes back from each.

    Both trees are in one signal, one at the even places and one at the odd.  Beyond its ends the signal is
    mirrored, which makes each tree the continuation of the other.

    Parameters
    ----------
    n : int
        Even in the first level, which keeps all `n` numbers; a multiple of 4 in the others, which halve it.
    """
    if first:
        filters = (SHORT, _alternate(LONG, -1), LONG, _alternate(SHORT, 1))
        low, high, from_low, from_high = (
            _rows(n, [(k - len(taps) // 2, 1, taps) for k in range(n)]) for taps in filters
        )
        return low, high, from_low, from_high
    mirrored = QUARTER[::-1]
    high_taps = _alternate(mirrored, 1)
    low = _rows(n, [w for k in range(0, n, 4) for w in ((k - 8, 2, QUARTER), (k - 7, 2, mirrored))])
    high = _rows(n, [w for k in range(0, n, 4) for w in ((k - 7, 2, high_taps[::-1]), (k - 8, 2, high_taps))])
    return low, high, low.mT.contiguous(), high.mT.contiguous()  # together an orthogonal matrix


def _rows(n: int, windows: Sequence[tuple[int, int, Taps]]) -> Tensor:
    """Matrix of one weighted sum per row: of numbers from `start` on, each `step`, by `taps`."""
    out = torch.zeros(len(windows), n, dtype=torch.double)
    for row, (start, step, taps) in zip(out, windows, strict=True):
        for k, tap in enumerate(taps):
            place = (start + step * k) % (2 * n)
            row[min(place, 2 * n - 1 - place)] += tap
    return out


def _alternate(taps: Taps, sign: int) -> Taps:
    """The high pass that belongs to a low pass: every second sign changed."""
    return tuple(sign * (-1) ** k * tap for k, tap in enumerate(taps))


def _apply(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    """A matrix along one axis."""
    if axis == x.ndim - 1:
        return x @ matrix.mT
    return (matrix @ x.flatten(axis + 1)).reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])
