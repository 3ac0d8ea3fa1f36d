"""Guided-filter fusion (GFF)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo

from ._arrays import Array, with_numpy

Double = NDArray[np.float64]


class Box:
    """Mean over the cube of `radius` around each voxel, as far as it lies in the volume."""

    def __init__(self, shape: tuple[int, ...], radius: int) -> None:
        self.width = 2 * radius + 1
        self.axes = [axis for axis, n in enumerate(shape) if n > 1]
        # The running mean takes voxels outside for 0; this makes it one over the voxels inside.
        self.scale = np.ones(())
        for n in shape:
            index = np.arange(n)
            inside = np.minimum(index + radius, n - 1) - np.maximum(index - radius, 0) + 1
            self.scale = self.scale[..., None] * (self.width / inside if n > 1 else np.ones(1))

    def __call__(self, x: Double) -> Double:
        mean = x.copy()
        for axis in self.axes:
            ndimage.uniform_filter1d(mean, self.width, axis=axis, mode="constant", output=mean)
        mean *= self.scale
        return mean


def guided_filter(guide: Double, target: Double, mean: Box, eps: float) -> Double:
    """Edge-preserving smoothing of `target` that follows the edges of `guide` (He, Sun and Tang 2013)."""
    mean_guide, mean_target = mean(guide), mean(target)
    slope = mean(guide * target)
    slope -= mean_guide * mean_target
    variance = mean(guide * guide)
    variance -= mean_guide**2
    variance += eps
    slope /= variance
    mean_target -= slope * mean_guide
    smoothed = mean(slope)
    smoothed *= guide
    smoothed += mean(mean_target)
    return smoothed


class Guided(Method):
    """Two scales, each blended with saliency weights that a guided filter aligns with the source's edges.

    Parameters
    ----------
    box : int
        Radius of the mean filter that splits base from detail.
    saliency_radius, saliency_sigma : int, float
        Gaussian that smooths the magnitude of the Laplacian.
    base_radius, base_eps, detail_radius, detail_eps : int, float
        Guided filter of the base and the detail weights.  All defaults are the paper's, in voxels.
    """

    info = MethodInfo(
        name="guided",
        summary="guided-filter fusion: two scales, edge-aligned saliency weights",
        paper="Li, Kang and Hu, Image fusion with guided filtering, IEEE Trans. Image Process. 22(7), 2013",
        notes="saliency is local edge strength: a smooth PET seldom wins, so the result leans to the MRI",
        cost=0.82,
    )

    def __init__(
        self,
        box: int = 15,
        saliency_radius: int = 5,
        saliency_sigma: float = 5.0,
        base_radius: int = 45,
        base_eps: float = 0.3,
        detail_radius: int = 7,
        detail_eps: float = 1e-6,
    ) -> None:
        if min(box, saliency_radius, base_radius, detail_radius) < 1:
            raise InputError("guided: every radius must be 1 or more")
        if min(saliency_sigma, base_eps, detail_eps) <= 0:
            raise InputError("guided: saliency_sigma, base_eps and detail_eps must be positive")
        self.box = box
        self.saliency_radius = saliency_radius
        self.saliency_sigma = saliency_sigma
        self.base_radius = base_radius
        self.base_eps = base_eps
        self.detail_radius = detail_radius
        self.detail_eps = detail_eps

    def _saliency(self, x: Double) -> Double:
        out: Double = ndimage.gaussian_filter(
            np.abs(ndimage.laplace(x)), self.saliency_sigma, radius=self.saliency_radius
        )
        return out

    def _share(self, a: Double, b: Double, first: Double, radius: int, eps: float) -> Double:
        """Weight of `a` in [0, 1]; that of `b` is the rest."""
        mean = Box(a.shape, radius)
        p = np.maximum(guided_filter(a, first, mean, eps), 0)
        q = np.maximum(guided_filter(b, 1 - first, mean, eps), 0)
        total = p + q
        share: Double = np.where(total > 1e-9, p / np.maximum(total, 1e-9), 0.5)
        return share

    def _fuse(self, a: Array, b: Array) -> Array:
        # The detail filter's eps is 1e-6: its variances need more than single precision.
        x, y = a.astype(np.float64), b.astype(np.float64)
        salient_a, salient_b = self._saliency(x), self._saliency(y)
        # A tie (air) is shared, so that neither source is preferred by its place in the argument list.
        first = 0.5 + 0.5 * np.sign(salient_a - salient_b)
        mean = Box(x.shape, self.box)
        base_a, base_b = mean(x), mean(y)
        wide = self._share(x, y, first, self.base_radius, self.base_eps)
        fine = self._share(x, y, first, self.detail_radius, self.detail_eps)
        fused: Array = wide * base_a + (1 - wide) * base_b + fine * (x - base_a) + (1 - fine) * (y - base_b)
        return fused

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return with_numpy(self._fuse, a, b)
