"""How CDDFuse and EMMA are trained: on slices in three planes, the papers' two stages as one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._recipes_2d import Losses, SliceRecipe, one_sided
from .cddfuse import CDDFuse, CDDFuseNet
from .emma import EMMA, EMMANet
from .training import losses
from .training.recipe import Batch, Hyperparameters
from .training.samples import Sample


class CDDFuseRecipe(SliceRecipe):
    """Reconstruction of both images, features that correlate as wanted, and the fused image at once."""

    layouts = CDDFuse.layouts
    defaults = Hyperparameters(steps=400, batch=2, lr=1e-3, warmup=20, val_every=40)
    crop = (32, 32)
    val_batches = 4
    notes = (
        "The paper trains encoder and decoder as an auto-encoder for 40 epochs, then all parts with the "
        "fusion loss for 80; here both losses are summed from the first step. Reconstruction: MSE + 2.5 "
        "(1 - SSIM), and 5 L1 of the MRI's gradients. Decomposition: 2 squared correlation of the detail "
        "features / (1.01 + that of the base features). Fusion: L1 to the larger of both images, and 10 L1 "
        "to the larger of their Sobel gradients. Stored in half precision."
    )

    def model(self) -> nn.Module:
        return CDDFuseNet()

    def loss(self, model: Any, batch: Batch) -> Losses:
        a, b = batch["a"], batch["b"]
        both = torch.cat((a, b))
        base, detail = model.encode(both)
        n = len(a)
        fused_base, fused_detail = base[:n] + base[n:], detail[:n] + detail[n:]
        fused_base, fused_detail = model.fuse_base(fused_base), model.fuse_detail(fused_detail)
        images = model.decode(
            torch.cat((base, fused_base)), torch.cat((detail, fused_detail)), torch.cat((both, a + b))
        )
        made, fused = images[: 2 * n], images[2 * n :]
        ssim = losses.ssim(made, both).mean()
        again = (
            2 * (losses.mse(made, both).mean() + 2.5 * (1 - ssim)) + 5 * losses.gradient(made[:n], a).mean()
        )
        shared = _correlation(base[:n], base[n:]).mean()
        apart = _correlation(detail[:n], detail[n:]).mean() ** 2
        inside = losses.l1(fused, torch.maximum(a, b)).mean()
        edges = losses.l1(sobel(fused), torch.maximum(sobel(a), sobel(b))).mean()
        total = again + 2 * apart / (1.01 + shared) + inside + 10 * edges
        parts = {"ssim": ssim, "base": shared, "detail": apart, "max": inside, "edges": edges}
        return total, {k: v.detach() for k, v in parts.items()}

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {k: v.half() for k, v in model.state_dict().items()}


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Of each channel's pixels in two stacks (B, C, H, W), shape (B, C)."""
    x, y = (f.flatten(2) - f.flatten(2).mean(-1, keepdim=True) for f in (x, y))
    return nnf.cosine_similarity(x, y, -1)


def sobel(x: Tensor) -> Tensor:
    """Sum of the absolute Sobel responses of (B, 1, H, W) along both axes."""
    kernel = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    return nnf.conv2d(x, torch.stack([kernel, kernel.T])[:, None]).abs().sum(1, keepdim=True)


class EMMARecipe(SliceRecipe):
    """The brighter and sharper of both images, and the same result for turned images."""

    layouts = EMMA.layouts
    defaults = Hyperparameters(steps=2000, batch=2, lr=1.5e-3, warmup=30, val_every=200)
    crop = (48, 48)
    val_batches = 4
    notes = (
        "The paper first trains two U-Nets of 31 million parameters each that make the source images of a "
        "fused one, and then this network by them. Here is neither: the loss is L1 to the larger of both "
        "images, and 5 L1 to the stronger of their gradients. Its equivariance remains: 0.1 L1 of what "
        "turned images give to the turned result; the paper shifts, rotates and flips. In half of the "
        "samples one image is black on one side of a random line, since brains alone do not teach what to "
        "do with a scalp. Stored in half precision."
    )

    def model(self) -> nn.Module:
        return EMMANet()

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample = super().augment(sample, rng)
        if rng.random() < 0.5:
            return sample
        return one_sided(sample, "a" if rng.random() < 0.5 else "b", rng)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        a, b = batch["a"], batch["b"]
        fused, turned = model(b, a), model(b.mT.flip(-1), a.mT.flip(-1))
        inside = losses.l1(fused, torch.maximum(a, b)).mean()
        edges = losses.max_gradient(fused, a, b).mean()
        same = losses.l1(turned, fused.mT.flip(-1)).mean()
        total = inside + 5 * edges + 0.1 * same
        parts = {"max": inside, "edges": edges, "turned": same}
        return total, {k: v.detach() for k, v in parts.items()}

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {k: v.half() for k, v in model.state_dict().items()}
