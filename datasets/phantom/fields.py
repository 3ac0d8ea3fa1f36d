"""Random streams, smooth random fields, and the resampling every phantom component shares."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]
# Along (z, y, x): mm, or fractional indices.
Positions = Sequence[NDArray[np.floating[Any]]]


def stream(seed: int, component: str) -> np.random.Generator:
    """Independent generator of one component: drawing from one never moves another."""
    key = int.from_bytes(hashlib.sha256(component.encode()).digest()[:8], "little")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(key,))))


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> Array:
    """Periodic Gaussian noise of unit standard deviation, smoothed by `sigma` voxels on the last 3 axes."""
    noise = rng.standard_normal(tuple(shape), dtype=np.float32)
    axes = tuple(range(len(shape) - 3, len(shape)))
    noise = ndimage.gaussian_filter(noise, sigma, mode="wrap", axes=axes)
    out: Array = noise / np.float32(noise.std(dtype=np.float64))
    return out


def grid_positions(size: int, fov: float, centre: Sequence[float]) -> Positions:
    """Voxel centres in mm along (z, y, x) of a cubic grid of `size` voxels over `fov` mm."""
    offsets = (np.arange(size) - (size - 1) / 2) * (fov / size)
    return [offsets + c for c in centre]


def along_axes(positions: Positions) -> list[Array]:
    """The three position vectors, shaped to broadcast over (D, H, W)."""
    z, y, x = (np.asarray(p, np.float32) for p in positions)
    return [z[:, None, None], y[None, :, None], x[None, None, :]]


def resample(data: Array, positions: Positions) -> Array:
    """Separable cubic convolution (Keys 1981, a = -1/2) at fractional indices; edges are repeated.

    Parameters
    ----------
    data : ndarray, shape (..., D, H, W)
    positions : three 1D arrays
        Indices into D, H and W.
    """
    out = data
    # Fastest-growing axis last: its taps are then whole slabs.
    for axis in (2, 1, 0):
        where = positions[axis]
        base = np.floor(where)
        t = where - base
        taps = (
            -0.5 * t + t**2 - 0.5 * t**3,
            1 - 2.5 * t**2 + 1.5 * t**3,
            0.5 * t + 2 * t**2 - 1.5 * t**3,
            -0.5 * t**2 + 0.5 * t**3,
        )
        dim = out.ndim - 3 + axis
        shape = [1] * out.ndim
        shape[dim] = where.size
        total = None
        for k, weight in enumerate(taps):
            index = np.clip(base.astype(int) - 1 + k, 0, out.shape[dim] - 1)
            part = np.take(out, index, axis=dim)
            part *= weight.astype(np.float32).reshape(shape)
            total = part if total is None else np.add(total, part, out=total)
        assert total is not None
        out = total
    return out


def to_grid(data: Array, source: Positions, target: Positions) -> Array:
    """Resample from one regular grid to another, both given as positions in mm along (z, y, x)."""
    return resample(data, [(t - s[0]) / (s[1] - s[0]) for s, t in zip(source, target, strict=True)])


def exponentiate(velocity: Array, spacing: float, steps: int = 6) -> Array:
    """Displacement (3, D, H, W) in mm of a stationary velocity field, by scaling and squaring."""
    field = velocity / np.float32(2**steps)
    identity = np.indices(field.shape[1:], dtype=np.float32)
    for _ in range(steps):
        at = identity + field / np.float32(spacing)
        field = field + np.stack([ndimage.map_coordinates(f, at, order=1, mode="nearest") for f in field])
    out: Array = field
    return out


def jacobian(displacement: Array, spacing: float) -> Array:
    """Determinant of the Jacobian of ``x + displacement(x)``; (D, H, W)."""
    rows = []
    for axis in range(3):
        gradient = list(np.gradient(displacement[axis], np.float32(spacing)))
        gradient[axis] = gradient[axis] + 1
        rows.append(gradient)
    (a, b, c), (d, e, f), (g, h, i) = rows
    out: Array = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    return out
