"""Gaussian windows and local moments, computed once per triple."""

from __future__ import annotations

from collections.abc import Callable

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


# A window whose variance is at most this share of its squared mean is flat: a contrast of 3e-5, a hundredth
# of a grey level.  Variances are known to 1e-15 of the squared mean, others therefore to a millionth.
_FLAT = 1e-9
# A covariance below this share of the product of the means is rounding noise: 0.
_NOISE = 1e-12


class Moments:
    """Local means, variances and covariances of a triple on the valid part, made when asked for.

    Sums are in double precision, since a variance is a small difference of large ones; the maps have the
    precision of the images.

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
        self._dtype = t.images.dtype
        self._maps: dict[tuple[str, ...], Tensor] = {}

    def _map(self, names: tuple[str, ...], make: Callable[[], Tensor]) -> Tensor:
        if "fused" not in names:
            return self.triple.of_sources(("moments", self.windows, names), make)
        if names not in self._maps:
            self._maps[names] = make()
        return self._maps[names]

    def _mean(self, x: str) -> Tensor:
        return self._map((x,), lambda: separable(self.triple.image(x).double(), self.windows))

    def mean(self, x: str) -> Tensor:
        """Local mean."""
        return self._mean(x).to(self._dtype)

    def cov(self, x: str, y: str) -> Tensor:
        """Local covariance; of an image with itself, the local variance."""

        def make() -> Tensor:
            product = separable(self.triple.image(x).double() * self.triple.image(y), self.windows)
            product.addcmul_(self._mean(x), self._mean(y), value=-1)
            return product.to(self._dtype)

        return self._map((x, y) if x <= y else (y, x), make)

    def flat(self, x: str, least: float = 1e-12) -> Tensor:
        """Windows without contrast (bool map): their variance is `least`, or nothing beside the mean."""
        return self.cov(x, x) <= (self._mean(x) ** 2).mul_(_FLAT).add_(least)

    def unrelated(self, x: str, y: str) -> Tensor:
        """Windows where one image is flat, or the covariance no more than rounding noise (bool map)."""
        noise = (self._mean(x) * self._mean(y)).abs_().mul_(_NOISE)
        return self.flat(x) | self.flat(y) | (self.cov(x, y).abs() <= noise)

    def average(self, x: Tensor) -> Tensor:
        """Mean ``(N,)`` of a map inside the mask."""
        return self.triple.map_mean(x, self.margin)


def moments(t: Triple, sigma: float = 1.5, size: int = 11) -> Moments:
    """Moments of `t` in a Gaussian window, made once."""
    return t.cached(("moments", sigma, size), lambda: Moments(t, sigma, size))
