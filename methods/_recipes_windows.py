"""How GIFNet and SwinFusion are trained: on slices in three planes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._recipes_2d import Losses, SliceRecipe, information
from ._recipes_restormer import sobel
from .gifnet import GIFNet, GIFNetNet
from .swinfusion import SwinFusion, SwinFusionNet
from .training import losses
from .training.recipe import Batch, Hyperparameters


class GIFNetRecipe(SliceRecipe):
    """Two tasks: MRI and PET by their information, and the MRI again from two focal planes."""

    layouts = GIFNet.layouts
    defaults = Hyperparameters(steps=300, batch=2, lr=1e-3, warmup=20, val_every=30)
    crop = (40, 40)
    val_batches = 4
    C = 0.1
    notes = (
        "Both tasks of the paper, in one step instead of in turn, and both by the way that runs. MRI and "
        "PET: 20 w MSE to each, and w (1 - SSIM), which the paper does not have; w by the information in "
        "each, which the paper measures on VGG-16 features and here is the RMS Laplacian, soft-maxed at a "
        "temperature of 0.1. Focal planes: 20 MSE to the MRI, of which each half was blurred in turn; the "
        "paper has photographs. The reconstruction of the shared features, which has no part in fusing, is "
        "left out. Stored in half precision."
    )

    def model(self) -> nn.Module:
        return GIFNetNet()

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        a, b = batch["a"], batch["b"]
        near, far = focal_planes(a)
        fused, sharp = model(torch.cat((b, near)), torch.cat((a, far))).chunk(2)
        weights = torch.softmax(torch.stack([information(a), information(b)]) / self.C, 0)
        mse = torch.stack([losses.mse(fused, a), losses.mse(fused, b)])
        ssim = torch.stack([losses.ssim(fused, a), losses.ssim(fused, b)])
        again = losses.mse(sharp, a).mean()
        total = (weights * (20 * mse + 1 - ssim)).sum(0).mean() + 20 * again
        parts = {"ssim_mri": ssim[0].mean(), "ssim_pet": ssim[1].mean(), "focus": again}
        return total, {k: v.detach() for k, v in parts.items()}

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {k: v.half() for k, v in model.state_dict().items()}


def focal_planes(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two copies of images (B, 1, H, W), the left half of one and the right half of the other blurred."""
    blurred = nnf.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    left = torch.arange(x.shape[-1], device=x.device) < x.shape[-1] // 2
    return torch.where(left, blurred, x), torch.where(left, x, blurred)


class SwinFusionRecipe(SliceRecipe):
    """The larger of both images and of their gradients, and SSIM to both."""

    layouts = SwinFusion.layouts
    defaults = Hyperparameters(steps=800, batch=2, lr=1e-3, warmup=20, val_every=80)
    crop = (32, 32)
    val_batches = 4
    notes = (
        "Loss as in the paper: 20 L1 to the larger of both images, 100 L1 to the larger of their Sobel "
        "gradients, 50 (1 - mean SSIM to both), here divided by 20. No stochastic depth. Stored in half "
        "precision."
    )

    def model(self) -> nn.Module:
        return SwinFusionNet()

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        a, b = batch["a"], batch["b"]
        fused = model(b, a)
        ssim = torch.stack([losses.ssim(fused, x).mean() for x in (a, b)])
        inside = losses.l1(fused, torch.maximum(a, b)).mean()
        edges = losses.l1(sobel(fused), torch.maximum(sobel(a), sobel(b))).mean()
        total = inside + 5 * edges + 2.5 * (1 - ssim.mean())
        parts = {"max": inside, "edges": edges, "ssim_mri": ssim[0], "ssim_pet": ssim[1]}
        return total, {k: v.detach() for k, v in parts.items()}

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {k: v.half() for k, v in model.state_dict().items()}
