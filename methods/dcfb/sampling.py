"""Trilinear sampling of channels-last tokens, as one gather.

Eight rows of C channels per position, weighted and summed by ``embedding_bag``: on a CPU some twenty
times faster than ``grid_sample`` on volumes, which walks the channels one by one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(tokens: Tensor, position: Tensor, outside: Literal["zero", "border"]) -> Tensor:
    """Values of `tokens` at `position`.

    Parameters
    ----------
    tokens : Tensor, shape (B, D, H, W, C)
    position : Tensor, shape (B, ..., 3)
        In tokens, (z, y, x); token centres are at the integers.
    outside : {"zero", "border"}
        What lies outside the volume: zeros, or the nearest token.

    Returns
    -------
    Tensor, shape (B, ..., C)
        Differentiable in both arguments.
    """
    b, d, h, w, c = tokens.shape
    if outside == "border":
        high = torch.tensor([d - 1, h - 1, w - 1], dtype=position.dtype, device=position.device)
        position = position.clamp(torch.zeros_like(high), high)
    flat = position.reshape(b, -1, 3)
    low = flat.detach().floor()
    part = flat - low
    # Per axis: index and weight of the lower and the upper neighbour, each (B, N, 2).
    index, weight = [], []
    for axis, size in enumerate((d, h, w)):
        i = torch.stack([low[..., axis], low[..., axis] + 1], -1)
        f = torch.stack([1 - part[..., axis], part[..., axis]], -1)
        f = f * ((i >= 0) & (i < size))
        index.append(i.clamp(0, size - 1).long())
        weight.append(f)
    first = torch.arange(b, device=tokens.device).view(b, 1, 1, 1, 1) * (d * h * w)
    corner = (
        index[0][..., :, None, None] * (h * w)
        + index[1][..., None, :, None] * w
        + index[2][..., None, None, :]
        + first
    )
    share = weight[0][..., :, None, None] * weight[1][..., None, :, None] * weight[2][..., None, None, :]
    out = F.embedding_bag(
        corner.reshape(-1, 8),
        tokens.reshape(-1, c),
        per_sample_weights=share.reshape(-1, 8).to(tokens.dtype),
        mode="sum",
    )
    return out.view(*position.shape[:-1], c)
