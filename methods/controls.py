"""Controls: no fusion at all, or tricks.  They show what a metric rewards and are ranked apart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo


class SourceMRI(Method):
    """F = A."""

    info = MethodInfo(name="source-mri", summary="copy of the structural source", control=True, cost=0.01)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return a.clone().clamp_(0, 1)


class SourcePET(Method):
    """F = B."""

    info = MethodInfo(name="source-pet", summary="copy of the functional source", control=True, cost=0.01)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return b.clone().clamp_(0, 1)


class Interleave(Method):
    """A checkerboard of both sources: every other voxel is the structural one's.

    Both are in it in full contrast, and similarity metrics and statistics of grey values see them; an eye
    averages over the squares.
    """

    info = MethodInfo(
        name="interleave", summary="checkerboard of the sources, voxel by voxel", control=True, cost=0.01
    )

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        axes = [torch.arange(n, device=a.device) for n in a.shape]
        place = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)
        return torch.where(place % 2 == 1, b, a).clamp_(0, 1)


class Noise(Method):
    """Average plus white noise: entropy, gradient and frequency scores rise, the image is worse.

    Parameters
    ----------
    sigma : float
        Standard deviation; 20 of 255 grey levels by default.
    seed : int
    """

    info = MethodInfo(
        name="noise", summary="average plus Gaussian noise", control=True, cost=0.01, tolerance=5e-5
    )

    def __init__(self, sigma: float = 20 / 255, seed: int = 0) -> None:
        if not sigma >= 0:
            raise InputError(f"noise: sigma={sigma} is negative")
        self.sigma = sigma
        self.seed = seed

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        # Drawn on the CPU, so that every device adds the same noise.
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(a.shape, generator=generator).to(a.device)
        return ((a + b) / 2 + self.sigma * noise).clamp(0, 1)


class Stretch(Method):
    """Average with its grey values stretched to the full range: contrast scores rise, nothing is added.

    Parameters
    ----------
    clip : float
        Percentage of the non-zero voxels that is cut at either end.
    """

    info = MethodInfo(
        name="stretch", summary="average, contrast stretched per image", control=True, cost=0.01
    )

    def __init__(self, clip: float = 1.0) -> None:
        if not 0 <= clip < 50:
            raise InputError(f"stretch: clip={clip} is not in 0..50 per cent")
        self.clip = clip

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        mean = (a + b) / 2
        values = mean[mean > 0].cpu().numpy()
        if values.size == 0:
            return mean
        low, high = (float(v) for v in np.percentile(values, [self.clip, 100 - self.clip]))
        if high - low < 1e-6:
            return mean.clamp(0, 1)
        return ((mean - low) / (high - low)).clamp(0, 1)
