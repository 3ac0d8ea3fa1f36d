"""Augmentation of training samples: inputs change, the clean targets do not (except where geometry must).

Each maker returns a step ``(sample, rng) -> sample``; `compose` chains them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from .samples import Sample

Step = Callable[[Sample, np.random.Generator], Sample]


def compose(*steps: Step) -> Step:
    """One step after the other."""

    def apply(sample: Sample, rng: np.random.Generator) -> Sample:
        for step in steps:
            sample = step(sample, rng)
        return sample

    return apply


def flip(p: float = 0.5, axes: Sequence[int] = (-1,)) -> Step:
    """Mirror inputs and targets alike along each of `axes` with probability `p`.  -1 is left-right in 3D."""

    def apply(sample: Sample, rng: np.random.Generator) -> Sample:
        chosen = [axis for axis in axes if rng.random() < p]
        if not chosen:
            return sample
        return {k: v if k == "spacing" else v.flip(chosen) for k, v in sample.items()}

    return apply


def gamma(low: float = 0.7, high: float = 1.5, p: float = 0.5, keys: Sequence[str] = ("a", "b")) -> Step:
    """Raise each input to a random power (log-uniform)."""

    def change(x: Tensor, rng: np.random.Generator) -> Tensor:
        return x.clamp(0, 1) ** float(np.exp(rng.uniform(np.log(low), np.log(high))))

    return _each(change, p, keys)


def noise(sigma: float = 0.05, p: float = 0.5, keys: Sequence[str] = ("a", "b")) -> Step:
    """Add Gaussian noise of a random standard deviation up to `sigma`."""

    def change(x: Tensor, rng: np.random.Generator) -> Tensor:
        grain = torch.from_numpy(rng.standard_normal(x.shape, dtype=np.float32))
        return (x + float(rng.uniform(0, sigma)) * grain).clamp(0, 1)

    return _each(change, p, keys)


def bias(strength: float = 0.3, p: float = 0.5, keys: Sequence[str] = ("a",)) -> Step:
    """Multiply by a smooth field between ``1 - strength`` and ``1 + strength`` (coil sensitivity)."""

    def change(x: Tensor, rng: np.random.Generator) -> Tensor:
        field = _smooth(rng.uniform(-strength, strength, (1, *[4] * (x.ndim - 1))), x.shape[1:])
        return (x * (1 + field)).clamp(0, 1)

    return _each(change, p, keys)


def misalign(shift: float = 4.0, warp: float = 2.0, spacing: float = 20.0, p: float = 0.5) -> Step:
    """Displace the functional input by a rigid shift and a smooth warp; its target stays aligned.

    Parameters
    ----------
    shift, warp : float
        Largest length of the shift and largest component of the warp, in mm.
    spacing : float
        Distance of the warp's control points in mm.
    """

    def apply(sample: Sample, rng: np.random.Generator) -> Sample:
        if rng.random() >= p:
            return sample
        b, mm = sample["b"], sample["spacing"].numpy()
        shape = b.shape[1:]
        direction = rng.standard_normal(len(shape))
        offset = direction / np.linalg.norm(direction) * rng.uniform(0, shift)
        knots = [max(4, round(float(n * m / spacing)) + 3) for n, m in zip(shape, mm, strict=True)]
        field = _smooth(rng.uniform(-warp, warp, (len(shape), *knots)), shape)
        field += torch.from_numpy(offset.astype(np.float32)).view(-1, *[1] * len(shape))
        # mm -> units of grid_sample (2 over the whole axis), whose last index runs (x, y, z).
        grid = torch.stack(
            [
                f * (2 / (m * n))
                + ((2 * torch.arange(n) + 1) / n - 1).view([-1 if j == i else 1 for j in range(len(shape))])
                for i, (f, m, n) in enumerate(zip(field, mm.tolist(), shape, strict=True))
            ][::-1],
            dim=-1,
        )
        moved = nnf.grid_sample(
            b[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
        )
        return {**sample, "b": moved[0]}

    return apply


def lesion(p: float = 0.5, radius: tuple[float, float] = (4.0, 14.0), change: float = 0.6) -> Step:
    """Lower or raise the functional image in a soft ellipsoid, in input and target alike.

    What is only in the functional image is what a reader looks for there.  The sample gets ``lesion``, the
    ellipsoid's profile in [0, 1]; zero without one.

    Parameters
    ----------
    radius : (float, float)
        Of the half-axes, in mm.
    change : float
        Largest share of the uptake lost or gained, from a third of it on.
    """

    def apply(sample: Sample, rng: np.random.Generator) -> Sample:
        b, mm = sample["b"], sample["spacing"].numpy()
        profile = torch.zeros_like(b)
        inside = torch.nonzero(sample["mask"][0] * b[0] > 0.2)
        if rng.random() < p and len(inside):
            centre = inside[int(rng.integers(len(inside)))].tolist()
            reach = torch.zeros(b.shape[1:])
            for axis, (n, c, m) in enumerate(zip(b.shape[1:], centre, mm.tolist(), strict=True)):
                away = (torch.arange(n) - c) * (m / float(rng.uniform(*radius)))
                reach = reach + (away**2).view([-1 if i == axis else 1 for i in range(b.ndim - 1)])
            profile = torch.sigmoid((1 - reach) * 4)[None]
            share = float(rng.uniform(change / 3, change)) * (-1 if rng.random() < 0.7 else 1)
            gain = 1 + share * profile
            sample = {**sample, **{k: (sample[k] * gain).clamp(0, 1) for k in ("b", "b_clean")}}
        return {**sample, "lesion": profile}

    return apply


def _each(change: Callable[[Tensor, np.random.Generator], Tensor], p: float, keys: Sequence[str]) -> Step:
    def apply(sample: Sample, rng: np.random.Generator) -> Sample:
        return {**sample, **{k: change(sample[k], rng) for k in keys if rng.random() < p}}

    return apply


def _smooth(knots: np.ndarray, shape: Sequence[int]) -> Tensor:
    """Smooth field (C, *shape) through random control values (C, k, ...)."""
    mode = {1: "linear", 2: "bicubic", 3: "trilinear"}[len(shape)]
    coarse = torch.from_numpy(knots.astype(np.float32))[None]
    return nnf.interpolate(coarse, size=tuple(shape), mode=mode, align_corners=True)[0]
