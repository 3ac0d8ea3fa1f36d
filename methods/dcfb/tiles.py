"""Whole volumes in overlapping tiles, to bound memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

# Tiles start at multiples of the coarsest attention window (4 tokens of 16 voxels), so a token has the same
# neighbours in its window as it has in the whole volume.
GRID = 64
# Context on each side that is computed and, but for the blend, thrown away.
HALO = 32


def fuse_tiles(
    network: Callable[..., Tensor],
    *volumes: Tensor,
    tile: int,
    progress: Callable[[int, int], object] | None = None,
) -> Tensor:
    """Fuse in tiles that overlap by 64 voxels and blend linearly over the inner half of the overlap.

    Parameters
    ----------
    network : callable
        One (1, 1, d, h, w) per volume to (1, C, d, h, w).
    volumes : Tensor, shape (D, H, W)
    tile : int
        Voxels per axis, rounded down to a multiple of 64; at least 128 where the volume is larger.
    progress : callable, optional
        Called with the tiles done and of all.

    Returns
    -------
    Tensor, shape (C, D, H, W)
    """
    size = max(2 * GRID, tile // GRID * GRID)
    shape, device = volumes[0].shape, volumes[0].device
    boxes = list(product(*(_spans(n, size) for n in shape)))
    out, total = None, volumes[0].new_zeros(shape)
    for number, box in enumerate(boxes, 1):
        index = tuple(slice(low, high) for low, high in box)
        part = network(*[v[index][None, None] for v in volumes])[0]
        share = torch.ones(part.shape[1:], device=device)
        for axis, ((low, high), n) in enumerate(zip(box, shape, strict=True)):
            ramp = _ramp(low, high, n, device)
            share *= ramp.view([-1 if i == axis else 1 for i in range(3)])
        if out is None:
            out = part.new_zeros(part.shape[0], *shape)
        out[(slice(None), *index)] += part * share
        total[index] += share
        if progress:
            progress(number, len(boxes))
    assert out is not None
    return out / total


def _spans(n: int, size: int) -> list[tuple[int, int]]:
    """Tiles [low, high) of one axis: starts on the grid, neighbours overlap by two halos."""
    if n <= size:
        return [(0, n)]
    step = size - 2 * HALO
    starts = range(0, max(1, n - 2 * HALO), step)
    return [(s, min(s + size, n)) for s in starts]


def _ramp(low: int, high: int, n: int, device: torch.device) -> Tensor:
    """Weight of a tile along an axis: 0 in the outer half of the halo, then rising to 1."""
    place = torch.arange(high - low, device=device, dtype=torch.float32) + 0.5
    ramp = torch.ones_like(place)
    if low > 0:
        ramp = torch.minimum(ramp, (place - HALO / 2) / HALO)
    if high < n:
        ramp = torch.minimum(ramp, (high - low - place - HALO / 2) / HALO)
    return ramp.clamp_min(0)
