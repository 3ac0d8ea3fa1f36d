"""Gradient: edge preservation (Xydeas-Petrovic) and sharpness."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from fusebench.metric import MetricInfo, metric
from fusebench.triple import Triple

_SMOOTH, _SLOPE = (1.0, 2.0, 1.0), (-1.0, 0.0, 1.0)


def _sobel(x: Tensor, axis: int, scale: tuple[float, ...], mode: str) -> Tensor:
    """Sobel derivative along `axis` of ``(N, *shape)``, same shape."""
    dims = x.ndim - 1
    for k in range(dims):
        n = x.shape[k + 1]
        pad = [0] * (2 * dims)
        pad[2 * (dims - 1 - k)] = pad[2 * (dims - 1 - k) + 1] = 1
        p = functional.pad(x[:, None], pad, mode=mode)[:, 0]
        left, mid, right = (p.narrow(k + 1, i, n) for i in range(3))
        x = (right - left).mul_(scale[k]) if k == axis else (left + right).add_(mid, alpha=2)
        # The third axis smooths once more than in 2D; gradients keep the 2D scale.
        if dims == 3 and k == (axis + 1) % 3:
            x = x / 4
    return x


def gradients(t: Triple, name: str) -> list[Tensor]:
    """Sobel gradient of an image, one map per axis.

    2D pads with zeros, as the published program; 3D repeats the border, as zeros would invent an edge
    around the volume.
    """
    mode = "constant" if t.dims == 2 else "replicate"
    image = t.image(name)
    return t.cached(("sobel", name), lambda: [_sobel(image, k, t.scale, mode) for k in range(t.dims)])


def _magnitude(t: Triple, name: str) -> Tensor:
    def make() -> Tensor:
        squares = [g * g for g in gradients(t, name)]
        return sum(squares[1:], squares[0]).sqrt()

    return t.cached(("magnitude", name), make)


def _angle(t: Triple, name: str) -> Tensor:
    def make() -> Tensor:
        gy, gx = gradients(t, name)
        # The sign of the published program: it shows where gx is 0, whatever the sign of gy.
        angle = torch.atan(-gy / gx)
        return torch.where(gx == 0, math.pi / 2, angle)

    return t.cached(("angle", name), make)


def _alignment(t: Triple, source: str) -> Tensor:
    """1 where the edges of F and the source are parallel, 0 where they are at right angles."""
    if t.dims == 2:
        return 1 - (_angle(t, source) - _angle(t, "fused")).abs_() * (2 / math.pi)
    products = [x * y for x, y in zip(gradients(t, source), gradients(t, "fused"), strict=True)]
    product = sum(products[1:], products[0])
    norm = _magnitude(t, source) * _magnitude(t, "fused")
    cosine = torch.where(norm > 0, product.abs() / norm, 1.0).clamp_(max=1)
    return 1 - torch.acos(cosine) * (2 / math.pi)


def preservation(t: Triple, source: str) -> Tensor:
    """Edge preservation Q of a source in F at every pixel (Xydeas and Petrovic 2000)."""

    def make() -> Tensor:
        g, f = _magnitude(t, source), _magnitude(t, "fused")
        strength = torch.where(g == f, g, torch.minimum(g, f) / torch.maximum(g, f))
        q = 0.9994 * torch.sigmoid(15 * (strength - 0.5))
        return q * (0.9879 * torch.sigmoid(22 * (_alignment(t, source) - 0.8)))

    return t.cached(("preservation", source), make)


@metric(
    MetricInfo(
        name="qabf",
        title="Edge preservation Q^AB/F",
        family="gradient",
        direction="higher",
        low=0.0,
        high=1.0,
        paper="Xydeas and Petrovic 2000, doi:10.1049/el:20000267",
        parts=("a", "b"),
        ranked=True,
        notes="Sobel strength and orientation, L = 1. F = A = B gives 0.975. No edge in the sources: 0.",
    )
)
def qabf(t: Triple, part: str, variant: str) -> Tensor:
    """Edge strength and orientation kept from both sources, weighted by source gradient."""
    c = t.crop((1,) * t.dims)
    top = bottom = torch.zeros(len(t), dtype=torch.float64, device=t.a.device)
    for source in (part,) if part else ("a", "b"):
        g = _magnitude(c, source)
        top = top + c.map_sum(preservation(c, source) * g, (0,) * t.dims)
        bottom = bottom + c.map_sum(g, (0,) * t.dims)
    return torch.where(bottom > 0, top / bottom, 0.0)
