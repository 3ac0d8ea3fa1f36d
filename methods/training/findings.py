"""Findings put into training images: relative changes of many forms and sizes, not those that scoring uses.

Soft-edged ellipsoids, wedges cut from them, shells, and patches of smooth noise, raised or lowered, are
blurred to what a scanner would show.  The scoring of the protocol `readers` uses Gaussian ones only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

KINDS = ("ellipsoid", "wedge", "shell", "noise")


def draw_findings(
    inside: Tensor,
    mm: Sequence[float],
    rng: np.random.Generator,
    *,
    count: tuple[int, int] = (1, 4),
    radius: tuple[float, float] = (4.0, 24.0),
    depth: tuple[float, float] = (0.06, 0.5),
    blur: tuple[float, float] = (2.0, 4.0),
) -> Tensor:
    """A map of relative changes.

    Parameters
    ----------
    inside : Tensor, shape (*space), bool
        Where centres may lie.
    mm : sequence of float
        Voxel size.
    count : (int, int)
        Fewest and most findings.
    radius : (float, float)
        Of the half-axes in mm; log-uniform.
    depth : (float, float)
        Of the peak as a share of the level; log-uniform, of either sign.
    blur : (float, float)
        Standard deviation in mm of what blurs the map.

    Returns
    -------
    Tensor, shape (*space), float32
        Greater than -0.9; 0 where nothing changes.
    """
    out = torch.zeros(inside.shape)
    places = torch.nonzero(inside)
    if not len(places):
        return out
    for _ in range(int(rng.integers(count[0], count[1] + 1))):
        centre = places[int(rng.integers(len(places)))].tolist()
        size = float(np.exp(rng.uniform(*np.log(radius))))
        amount = float(np.exp(rng.uniform(*np.log(depth)))) * (1 if rng.random() < 0.5 else -1)
        out = out + amount * _profile(inside.shape, centre, size, mm, rng)
    spread = float(rng.uniform(*blur))
    return _blur(out, [spread / m for m in mm]).clamp(-0.9, 2.0)


def _profile(
    shape: Sequence[int], centre: Sequence[int], size: float, mm: Sequence[float], rng: np.random.Generator
) -> Tensor:
    """One finding in [0, 1]."""
    n = len(shape)
    axes = [
        ((torch.arange(k) - c) * m).view([-1 if j == i else 1 for j in range(n)])
        for i, (k, c, m) in enumerate(zip(shape, centre, mm, strict=True))
    ]
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    half = size * np.exp(rng.uniform(-0.4, 0.4, n))
    turned = []
    for i in range(n):
        along = torch.zeros(tuple(shape))
        for j in range(n):
            along = along + float(turn[i, j] / half[i]) * axes[j]
        turned.append(along)
    distance = torch.stack(turned).square().sum(0).sqrt()
    edge = float(rng.uniform(2, 10))
    kind = KINDS[int(rng.choice(len(KINDS), p=(0.45, 0.2, 0.15, 0.2)))]
    body = torch.sigmoid((1 - distance) * edge)
    if kind == "wedge":
        body = body * torch.sigmoid(turned[0] * edge)
    elif kind == "shell":
        hollow = float(rng.uniform(0.3, 0.7))
        body = body * (1 - torch.sigmoid((hollow - distance) * 2 * edge))
    elif kind == "noise":
        grain = max(4.0, size * float(rng.uniform(0.4, 0.8)))
        knots = [max(2, round(float(k * m) / grain)) for k, m in zip(shape, mm, strict=True)]
        mode = {2: "bicubic", 3: "trilinear"}[n]
        coarse = torch.from_numpy(rng.standard_normal((1, 1, *knots)).astype(np.float32))
        field = nnf.interpolate(coarse, size=tuple(shape), mode=mode, align_corners=True)[0, 0]
        body = torch.sigmoid((1.6 - distance) * edge) * torch.sigmoid((field - 0.3) * 4)
    return body


def _blur(x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Gaussian blur, zeros outside."""
    for axis, sigma in enumerate(sigmas):
        n = x.shape[axis]
        place = torch.arange(n, dtype=torch.float32)
        band = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2)) / (sigma * (2 * np.pi) ** 0.5)
        x = torch.tensordot(band, x, dims=([1], [axis])).movedim(0, axis)
    return x
