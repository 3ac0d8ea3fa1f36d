"""How `cnn3d` is trained: unsupervised, on patches, likeness to both images as in its paper."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from .cnn3d import LAYOUTS, CNN3DNet
from .training import augment, losses
from .training.recipe import Batch, Hyperparameters, Recipe
from .training.samples import Sample

AUGMENT = augment.compose(augment.flip(), augment.gamma())


class CNN3DRecipe(Recipe):
    """SSIM twice as much with the structural image, the voxels twice as near to the functional one."""

    layouts = LAYOUTS
    defaults = Hyperparameters(steps=240, batch=1, lr=3e-3, warmup=20, val_every=24)
    crop = (32, 32, 32)
    val_batches = 6
    notes = (
        "Loss as in the authors' program, divided by 450: 2 (1 - SSIM) with the structural image + 1 - SSIM "
        "with the functional one + 1.6 (root mean squared difference from the structural one + 2 from the "
        "functional one), where their first image is a T1 with contrast agent and the second a FLAIR; SSIM "
        "in 3D, constants for images in [0, 1]. Patches of 32 voxels instead of 80."
    )

    def model(self) -> nn.Module:
        return CNN3DNet()

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return AUGMENT(sample, rng)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        a, b = batch["a"], batch["b"]
        fused = torch.lerp(b, a, model(a, b))
        ssim_a, ssim_b = (losses.ssim(fused, x, sigma=1.84).mean() for x in (a, b))
        rmse_a, rmse_b = ((losses.mse(fused, x) + 1e-10).sqrt().mean() for x in (a, b))
        total = 3 - 2 * ssim_a - ssim_b + 1.6 * (rmse_a + 2 * rmse_b)
        parts = {"ssim_mri": ssim_a, "ssim_pet": ssim_b, "rmse_mri": rmse_a, "rmse_pet": rmse_b}
        return total, {k: v.detach() for k, v in parts.items()}
