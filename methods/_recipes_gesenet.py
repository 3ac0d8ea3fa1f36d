"""How `gesenet` is trained: unsupervised, on slices in three planes, with drawn and with chosen masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ._recipes_2d import Losses, SliceRecipe, one_sided
from .gesenet import GeSeNet, GeSeNetNet
from .training import losses
from .training.recipe import Batch, Hyperparameters
from .training.samples import Sample


class GeSeNetRecipe(SliceRecipe):
    """The brighter of both images, the stronger of both gradients, and SSIM with both."""

    layouts = GeSeNet.layouts
    defaults = Hyperparameters(steps=900, batch=1, lr=1.5e-3, warmup=30, val_every=90)
    crop = (56, 56)
    val_batches = 6
    unused_parameters = True  # chosen masks have no gradient
    notes = (
        "The authors' training program is not published. Loss: L1 to the brighter of both images + 10 times "
        "that of the gradients to the stronger of both + half of 1 - SSIM with each; the paper's semantic "
        "term wants a segmentation network and is left out. Masks are drawn in one step of two, and chosen "
        "as in use in the others and in validation, so that the network knows both. In half of the samples "
        "one image is black on one side of a random line, since brains alone do not teach what to do with a "
        "scalp; in a sixth, one image is both; in a quarter, they are exchanged, so that each input may be "
        "sharp."
    )

    def model(self) -> nn.Module:
        return GeSeNetNet()

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        sample = super().augment(sample, rng)
        if rng.random() < 0.25:
            sample = {**sample, "a": sample["b"], "b": sample["a"]}
        kind, (key, other) = rng.random(), "ab" if rng.random() < 0.5 else "ba"
        if kind < 1 / 6:
            return {**sample, key: sample[other]}
        if kind > 2 / 3:
            return sample
        return one_sided(sample, key, rng)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        model.draw_masks(model.training and bool(torch.rand(()) < 0.5))  # type: ignore[operator]
        a, b = batch["a"], batch["b"]
        fused = model(b, a)
        bright = losses.l1(fused, torch.maximum(a, b)).mean()
        edges = losses.max_gradient(fused, a, b).mean()
        ssim_a, ssim_b = losses.ssim(fused, a).mean(), losses.ssim(fused, b).mean()
        parts = {"l1_max": bright, "gradient": edges, "ssim_mri": ssim_a, "ssim_pet": ssim_b}
        total = bright + 10 * edges + 0.5 * (2 - ssim_a - ssim_b)
        return total, {k: v.detach() for k, v in parts.items()}
