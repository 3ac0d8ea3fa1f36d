"""Synthetic triples, and the peers to compare with."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fusebench.metrics import metric_registry

Image = NDArray[np.uint8]


def image(shape: tuple[int, ...], seed: int, smooth: float = 1.5, background: bool = True) -> Image:
    """A textured blob on black: what an axial slice or a head looks like to a metric."""
    rng = np.random.default_rng(seed)
    texture = gaussian_filter(rng.random(shape), smooth)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    grids = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(g**2 for g in grids) < 0.8 if background else np.ones(shape, bool)
    return np.where(inside, np.rint(20 + 235 * texture), 0).astype(np.uint8)


def triple(
    shape: tuple[int, ...] = (64, 64), seed: int = 0, background: bool = True
) -> tuple[Image, Image, Image]:
    """Two sources and their average with a little noise."""
    a, b = image(shape, seed, 1.2, background), image(shape, seed + 1000, 2.5, background)
    noise = np.random.default_rng(seed + 2000).normal(0, 3, shape)
    f = np.clip(np.rint((a.astype(float) + b) / 2 + noise * (a > 0)), 0, 255).astype(np.uint8)
    return a, b, f


def names(**wanted: object) -> list[str]:
    """Metrics without ground truth whose info has the given values.

    vif_wavelet has its own tests, and so have the metrics that are defined in volumes only.
    """
    registry = metric_registry()
    infos = [registry.load(name).info for name in registry.names()]
    return [
        i.name
        for i in infos
        if i.of_images
        and i.name != "vif_wavelet"
        and 2 in i.dims
        and all(getattr(i, key) == value for key, value in wanted.items())
    ]


def every_id() -> list[str]:
    """Every id that needs no ground truth: names, parts and variants."""
    registry = metric_registry()
    ids = []
    for name in names():
        info = registry.load(name).info
        ids += [name, *(f"{name}.{p}" for p in info.parts), *(f"{name}@{v}" for v in info.variants)]
    return ids


def peer(name: str) -> ModuleType:
    """Import a peer, or skip.  torchvision, which two of them import, may be built for another torch."""
    try:
        return pytest.importorskip(name)
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        return pytest.importorskip(name)


_KEPT: list[torch.library.Library] = []
