"""Derivatives of the images of a triple, computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from fusebench.triple import Triple


def _pad(x: Tensor, axis: int, mode: str) -> Tensor:
    dims = x.ndim - 1
    pad = [0] * (2 * dims)
    pad[2 * (dims - axis) : 2 * (dims - axis) + 2] = [1, 1]
    if mode == "reflect" and x.shape[axis] < 2:
        mode = "replicate"
    return functional.pad(x[:, None], pad, mode=mode)[:, 0]


def derivative(x: Tensor, axis: int, scale: Sequence[float], mode: str, centre: float = 2.0) -> Tensor:
    """3x3(x3) derivative of ``(N, *shape)`` along spatial `axis`, same shape.

    Parameters
    ----------
    mode : str
        Border: "constant" (zeros), "replicate" or "reflect".
    centre : float
        2 is Sobel, 1 is Prewitt.  In 3D the second smoothing is normalised: gradients keep the 2D scale.
    """
    dims = x.ndim - 1
    for k in range(dims):
        n = x.shape[k + 1]
        p = _pad(x, k + 1, mode)
        left, mid, right = (p.narrow(k + 1, i, n) for i in range(3))
        x = (right - left).mul_(scale[k]) if k == axis else (left + right).add_(mid, alpha=centre)
        if dims == 3 and k == (axis + 1) % 3:
            x = x.div_(2 + centre)
    return x


def gradients(t: Triple, name: str, mode: str | None = None) -> list[Tensor]:
    """Sobel gradient of an image, one map per axis.

    2D pads with zeros, as the published programs; 3D repeats the border, as zeros would invent an edge
    around the volume.
    """
    border = mode or ("constant" if t.dims == 2 else "replicate")
    image = t.image(name)
    return t.of_image(
        name,
        ("sobel", name, border),
        lambda: [derivative(image, k, t.scale, border) for k in range(t.dims)],
    )


def norm(parts: Sequence[Tensor]) -> Tensor:
    """Length of vectors given by their components.

    In double precision their squares are exact, so equal lengths stay equal on every processor.
    """
    first, *others = (p.double() for p in parts)
    total = first * first
    for p in others:
        total.addcmul_(p, p)
    return total.sqrt_().to(parts[0].dtype)


def magnitude(t: Triple, name: str, mode: str | None = None) -> Tensor:
    """Length of `gradients`."""
    return t.of_image(name, ("magnitude", name, mode), lambda: norm(gradients(t, name, mode)))


def parallel(t: Triple, source: str, mode: str | None = None) -> Tensor:
    """How parallel the edges of F and a source are in 3D: 1 parallel, 0 at right angles, 1 without edge."""

    def make() -> Tensor:
        g, f = gradients(t, source, mode), gradients(t, "fused", mode)
        # The arc cosine near 1 keeps half the digits: of single precision that is too few.
        dot = torch.zeros_like(g[0], dtype=torch.float64)
        length = [dot.clone(), dot.clone()]
        for x, y in zip(g, f, strict=True):
            x, y = x.double(), y.double()
            dot.addcmul_(x, y)
            length[0].addcmul_(x, x)
            length[1].addcmul_(y, y)
        size = length[0].mul_(length[1]).sqrt_()
        cosine = torch.where(size > 0, dot.abs_() / size, 1.0).clamp_(max=1)
        return (1 - torch.acos(cosine) * (2 / torch.pi)).to(g[0].dtype)

    return t.cached(("parallel", source, mode), make)
