"""Grey levels, histograms and entropies, computed once per triple."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.triple import Triple


def levels(t: Triple, name: str) -> Tensor:
    """Grey levels 0..255 of the foreground, ``(N, P)``, int64; -1 outside it."""

    def make() -> Tensor:
        x = t.points(name).round().long()
        return x if t.weights is None else torch.where(t.weights > 0, x, -1)

    return t.cached(("levels", name), make)


def joint_counts(x: Tensor, y: Tensor, bins: int = 256) -> Tensor:
    """Joint histogram ``(N, bins, bins)`` of two level arrays ``(N, P)``, float64."""
    n = len(x)
    index = x * bins + y
    if n > 1:
        index = index + (torch.arange(n, device=x.device) * bins**2)[:, None]
        index = index[(x >= 0) & (y >= 0)]
    counts = torch.bincount(index.flatten(), minlength=n * bins**2)
    return counts.view(n, bins, bins).double()


def joint(t: Triple, x: str, y: str) -> Tensor:
    """Joint histogram of two images of a triple."""
    return t.cached(("joint", x, y), lambda: joint_counts(levels(t, x), levels(t, y)))


def entropy(counts: Tensor) -> Tensor:
    """Shannon entropy ``(N,)`` in bits of histograms ``(N, ...)``."""
    counts = counts.flatten(1)
    total = counts.sum(1)
    return torch.log2(total) - torch.xlogy(counts, counts).sum(1) / (total * 0.6931471805599453)


def marginal_entropies(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies of the first image, of the second, and of both together, in bits."""
    return entropy(counts.sum(2)), entropy(counts.sum(1)), entropy(counts)
