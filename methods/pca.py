"""Global blend with weights from principal component analysis of the two sources."""

from __future__ import annotations

import torch
from torch import Tensor

from fusebench.method import Method, MethodInfo


class PCA(Method):
    """Weights are the first eigenvector of the 2x2 covariance of all voxels, scaled to sum 1.

    Where the sources are anti-correlated the eigenvector has mixed signs; magnitudes are used, so that the
    result stays a blend.  Two constant images are averaged.
    """

    info = MethodInfo(
        name="pca",
        summary="global blend, weights from the first principal component",
        paper="Naidu and Raol, Pixel-level image fusion using wavelets and principal component analysis, "
        "Defence Science Journal 58(3), 2008",
        cost=0.01,
    )

    @staticmethod
    def weights(a: Tensor, b: Tensor) -> tuple[float, float]:
        """Weights of both sources; they sum to 1."""
        x, y = (v.double().flatten() - v.double().mean() for v in (a, b))
        xx, yy, xy = (float((p * q).mean()) for p, q in ((x, x), (y, y), (x, y)))
        if max(xx, yy) < 1e-12:
            return 0.5, 0.5
        _, vectors = torch.linalg.eigh(torch.tensor([[xx, xy], [xy, yy]], dtype=torch.float64))
        first = vectors[:, -1].abs()
        return float(first[0] / first.sum()), float(first[1] / first.sum())

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        p, q = self.weights(a, b)
        return (p * a + q * b).clamp(0, 1)
