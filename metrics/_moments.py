"""Gaussian windows and local moments, computed once per triple."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.triple import Triple

from ._filters import gaussian, separable


def windows(t: Triple, sigma: float = 1.5, size: int = 11) -> tuple[tuple[float, ...], ...]:
    """Gaussian weights per axis.

    Along a coarser axis sigma and size shrink with the voxel size; along an axis shorter than the window
    the window is the largest odd one that fits.
    """
    out = []
    for n, scale in zip(t.shape, t.scale, strict=True):
        taps = size if scale == 1.0 else 2 * round((size - 1) / 2 * scale) + 1
        taps = min(taps, n if n % 2 else n - 1)
        out.append(gaussian(sigma * scale, max(1, taps)))
    return tuple(out)


class Moments:
    """Local means, variances and covariances of a triple on the valid part, made when asked for.

    Attributes
    ----------
    triple : Triple
        The triple the maps belong to, cropped to what the mask needs.
    margin : tuple of int
        Radius of the window per axis.
    """

    def __init__(self, t: Triple, sigma: float = 1.5, size: int = 11, crop: bool = True) -> None:
        self.triple = t.crop([len(w) // 2 for w in windows(t, sigma, size)]) if crop else t
        self.windows = windows(self.triple, sigma, size)
        self.margin = tuple(len(w) // 2 for w in self.windows)
        # Single precision loses digits in E[x^2] - E[x]^2; a shift towards zero keeps them.
        self._shift = 0.0 if self.triple.a.dtype == torch.float64 else 128.0
        self._maps: dict[tuple[str, ...], Tensor] = {}

    def _image(self, x: str) -> Tensor:
        image = self.triple.image(x)
        return image - self._shift if self._shift else image

    def _mean(self, x: str) -> Tensor:
        if (x,) not in self._maps:
            self._maps[x,] = separable(self._image(x), self.windows)
        return self._maps[x,]

    def mean(self, x: str) -> Tensor:
        """Local mean."""
        return self._mean(x) + self._shift if self._shift else self._mean(x)

    def cov(self, x: str, y: str) -> Tensor:
        """Local covariance; of an image with itself, the local variance."""
        key = (x, y) if x <= y else (y, x)
        if key not in self._maps:
            product = separable(self._image(x) * self._image(y), self.windows)
            self._maps[key] = product.addcmul_(self._mean(x), self._mean(y), value=-1)
        return self._maps[key]

    def average(self, x: Tensor) -> Tensor:
        """Mean ``(N,)`` of a map inside the mask."""
        return self.triple.map_mean(x, self.margin)


def moments(t: Triple, sigma: float = 1.5, size: int = 11) -> Moments:
    """Moments of `t` in a Gaussian window, made once."""
    return t.cached(("moments", sigma, size), lambda: Moments(t, sigma, size))
