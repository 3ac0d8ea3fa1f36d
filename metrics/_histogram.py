"""Grey levels, histograms and entropies, computed once per triple."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusebench.triple import Triple


def levels(t: Triple, name: str) -> Tensor:
    """Grey levels 0..255 of the foreground, ``(N, P)``, int32; -1 outside it."""

    def make() -> Tensor:
        x = t.points(name).round().int()
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


def stretched(t: Triple, name: str) -> Tensor:
    """The image with its foreground stretched to whole numbers from 0 to 255; constant images are 0."""

    def make() -> Tensor:
        x = t.image(name)
        low, high = (v.to(x.dtype).view(-1, *[1] * t.dims) for v in _range(t, name))
        span = high - low
        # Halves round up, as in MATLAB.
        return (x - low).div_(torch.where(span > 0, span, 1)).mul_(255).add_(0.5).floor_().clamp_(0, 255)

    return t.cached(("stretched", name), make)


def stretched_levels(t: Triple, name: str) -> Tensor:
    """Grey levels of `stretched`, as `levels`."""

    def make() -> Tensor:
        out = t.pick(stretched(t, name)).int()
        return out if t.weights is None else torch.where(t.weights > 0, out, -1)

    return t.cached(("stretched levels", name), make)


def stretched_joint(t: Triple, x: str, y: str) -> Tensor:
    """Joint histogram of two stretched images."""
    return t.cached(
        ("stretched joint", x, y), lambda: joint_counts(stretched_levels(t, x), stretched_levels(t, y))
    )


def binned_joint(t: Triple, x: str, y: str, bins: int) -> Tensor:
    """Joint histogram of `bins` equal bins from the least to the greatest value of each image.

    As numpy.histogramdd, whose last bin holds its right edge.
    """

    def cut(name: str) -> Tensor:
        values = t.points(name).double()
        low, high = (v.double()[:, None] for v in _range(t, name))
        steps = torch.arange(bins + 1, dtype=torch.float64, device=values.device)
        flat = (high <= low).double()
        # As numpy.linspace rounds it: whole grey levels lie on edges.
        edges = steps * ((high - low + flat) / bins) + (low - 0.5 * flat)
        out = (torch.searchsorted(edges, values.contiguous(), right=True) - 1).clamp_(0, bins - 1)
        return out if t.weights is None else torch.where(t.weights > 0, out, -1)

    def binned(name: str) -> Tensor:
        return t.cached(("binned", name, bins), lambda: cut(name))

    return t.cached(("binned joint", x, y, bins), lambda: joint_counts(binned(x), binned(y), bins))


def _range(t: Triple, name: str) -> tuple[Tensor, Tensor]:
    """Least and greatest value ``(N,)`` of the foreground."""
    x = t.points(name)
    if t.weights is None:
        return x.amin(1), x.amax(1)
    inside = t.weights > 0
    return torch.where(inside, x, torch.inf).amin(1), torch.where(inside, x, -torch.inf).amax(1)


def entropy(counts: Tensor) -> Tensor:
    """Shannon entropy ``(N,)`` in bits of histograms ``(N, ...)``."""
    counts = counts.flatten(1)
    total = counts.sum(1)
    return torch.log2(total) - torch.xlogy(counts, counts).sum(1) / (total * math.log(2))


def marginal_entropies(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entropies of the first image, of the second, and of both together, in bits."""
    return entropy(counts.sum(2)), entropy(counts.sum(1)), entropy(counts)
