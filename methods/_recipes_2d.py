"""How the five learned 2D networks are trained: unsupervised, on slices in three planes.

Losses follow the papers; what differs is said in `notes` and so on the card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError

from ._learned import choose
from ._weights import refuse_other_form
from .densefuse import DenseFuse, DenseFuseNet
from .dilran import DILRAN, DILRANNet
from .matr import MATR, MATRNet
from .swinfuse import SwinFuse, SwinFuseNet
from .training import augment, losses
from .training.recipe import Batch, Hyperparameters, Recipe
from .training.samples import Sample
from .training.vgg import Information
from .u2fusion import AUTHORS, PORT, U2FusionNet, refuse_other_variant

AUGMENT = augment.compose(augment.flip(axes=(-1, -2)), augment.gamma())

Losses = tuple[Tensor, Mapping[str, Tensor]]


class SliceRecipe(Recipe):
    """Flips and random gamma; the augmented images are input and target."""

    def augment(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return AUGMENT(sample, rng)


def one_sided(sample: Sample, key: str, rng: np.random.Generator) -> Sample:
    """`sample` with image `key` black on one side of a random line, as a PET is beyond the brain."""
    height, width = sample[key].shape[-2:]
    angle, place = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4)
    rows = torch.linspace(-1, 1, height)[:, None] * float(np.sin(angle))
    columns = torch.linspace(-1, 1, width) * float(np.cos(angle))
    return {**sample, key: sample[key] * (rows + columns > place)}


class DenseFuseRecipe(SliceRecipe):
    """Auto-encoder on single images: pixel loss and SSIM."""

    layouts = DenseFuse.layouts
    defaults = Hyperparameters(steps=2400, batch=4, lr=2e-3, warmup=50, val_every=150)
    crop = (64, 64)
    val_batches = 6
    notes = (
        "Auto-encoder on single slices, MRI and PET alike. Loss: MSE on the 0..255 scale + 100 (1 - SSIM), "
        "divided by 100, as in the paper and the authors' program (which takes MS-SSIM). "
        "The output ends in a ReLU, so its bias starts at 0.1 to keep it alive."
    )

    def model(self) -> nn.Module:
        net = DenseFuseNet()
        _he(net)
        nn.init.constant_(net.decoder[-1].get_parameter("bias"), 0.1)
        return net

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        x = torch.cat((batch["a"], batch["b"]))
        y = model(x)
        mse, ssim = losses.mse(y, x).mean(), losses.ssim(y, x).mean()
        return 650 * mse + 1 - ssim, {"mse": mse.detach(), "ssim": ssim.detach()}


class U2FusionRecipe(SliceRecipe):
    """Adaptive similarity to both images, weighed by their information.

    Parameters
    ----------
    vgg : str
        File of VGG-16's ImageNet weights (timm's or torchvision's), on whose features information is
        measured as in the paper; "" measures it on the images themselves.
    c : float, optional
        What information is divided by before the soft-max.  0.1 on images.  1 on features: the authors
        took 3200 to 3500 for a VGG-16 of inputs in grey levels, which are 57 times the normalised ones.
    variant : {"authors", "port"}
        As in `U2Fusion`; a published file to start from wants its own.
    """

    layouts = (AUTHORS, PORT)
    defaults = Hyperparameters(steps=320, batch=3, lr=1e-3, warmup=30, val_every=32)
    crop = (56, 56)
    val_batches = 4
    ON_IMAGES = (
        "U2Fusion-style: the paper measures information on VGG-16 features; here it is the RMS Laplacian of "
        "the images themselves"
    )
    ON_FEATURES = "Information is the mean squared Laplacian of VGG-16 features, as in the paper"
    measure: Callable[[Tensor], Tensor]

    def __init__(self, *, vgg: str = "", c: float | None = None, variant: str = "authors") -> None:
        self.variant = choose("variant", variant, ("authors", "port"))
        self.vgg = Information(vgg) if vgg else None
        self.measure = self.vgg or information
        self.c = c if c is not None else 1.0 if vgg else 0.1
        if not self.c > 0:
            raise InputError(f"c={self.c:g} must be positive")
        self.notes = (
            f"{self.ON_FEATURES if vgg else self.ON_IMAGES}, soft-maxed at a temperature of {self.c:g}. "
            "Loss: w (1 - SSIM) + 20 w MSE, summed over both images, as in the paper. One task, so no "
            "elastic weight consolidation."
        )
        if variant == "port":
            self.notes += " Zero borders and images in [-1, 1], so the result runs with variant=port."

    def setup(self, device: torch.device) -> None:
        if self.vgg is not None:
            self.vgg.to(device)

    def model(self) -> nn.Module:
        return _he(U2FusionNet(reflect=self.variant == "authors"))

    def load(self, model: nn.Module, path: Path) -> str:
        refuse_other_variant(path, self.variant)
        return super().load(model, path)

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        a, b = batch["a"], batch["b"]
        fused = model(b, a)
        weights = torch.softmax(torch.stack([self.measure(a), self.measure(b)]) / self.c, 0)
        ssim = torch.stack([losses.ssim(fused, a), losses.ssim(fused, b)])
        mse = torch.stack([losses.mse(fused, a), losses.mse(fused, b)])
        total = (weights * (1 - ssim + 20 * mse)).sum(0).mean()
        return total, {
            "ssim_mri": ssim[0].mean().detach(),
            "ssim_pet": ssim[1].mean().detach(),
            "weight_mri": weights[0].mean().detach(),
        }


class MATRRecipe(SliceRecipe):
    """SSIM and region mutual information with both images.

    Parameters
    ----------
    compat : bool
        Tokens as in `MATR`; the authors' file to start from wants True.
    """

    layouts = MATR.layouts
    defaults = Hyperparameters(steps=600, batch=8, lr=2e-3, warmup=50, val_every=60)
    crop = (64, 64)
    val_batches = 4
    notes = (
        "Loss: 1 - SSIM to both images and region mutual information, weighed 1 to the PET and 2.5 to the "
        "MRI, as in the paper. RMI is its log-determinant alone, times 0.25, and since that is blind to the "
        "sign of contrast, 20 MSE to both images stands in for the paper's cross-entropy, which takes a "
        "second sigmoid. The batch norms keep their initial statistics (so they are scales and shifts): one "
        "module serves six places with different statistics, and running averages fit none. Tokens are "
    )

    def __init__(self, *, compat: bool = False) -> None:
        self.compat = choose("compat", compat, (True, False))
        self.notes += (
            "16 neighbouring numbers in memory, so the result runs with compat=True."
            if compat
            else "the channels of a pixel."
        )

    def model(self) -> nn.Module:
        net = MATRNet()
        net.viewed = self.compat
        for conv in (net.first, net.conv):  # the gate starts near one half
            nn.init.kaiming_normal_(conv.weight, a=0, nonlinearity="relu")
            conv.weight.data.mul_(2)
        return net

    def load(self, model: nn.Module, path: Path) -> str:
        refuse_other_form(path, "compat", self.compat, False)
        origin = super().load(model, path)
        if origin == "authors'" and not self.compat:
            raise InputError(
                f"weights {path}: the authors' file, its tokens are not pixels; it wants compat=True (--set)"
            )
        return origin

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        a, b = batch["a"], batch["b"]
        fused = model(b, a)
        ssim_a, ssim_b = losses.ssim(fused, a).mean(), losses.ssim(fused, b).mean()
        rmi_a, rmi_b = losses.rmi(fused, a).mean(), losses.rmi(fused, b).mean()
        mse_a, mse_b = losses.mse(fused, a).mean(), losses.mse(fused, b).mean()
        total = 2 - ssim_a - ssim_b + 0.25 * (2.5 * rmi_a + rmi_b) + 20 * (mse_a + mse_b)
        parts = {"ssim_mri": ssim_a, "ssim_pet": ssim_b, "rmi_mri": rmi_a, "rmi_pet": rmi_b}
        return total, {k: v.detach() for k, v in parts.items()}


class DILRANRecipe(SliceRecipe):
    """Auto-encoder on single images: pixel and Sobel loss."""

    layouts = DILRAN.layouts
    defaults = Hyperparameters(steps=1400, batch=2, lr=1e-3, warmup=30, val_every=70)
    crop = (96, 96)
    val_batches = 6
    notes = (
        "Auto-encoder on single slices, MRI and PET alike. Loss: MSE + 0.2 MSE of the absolute Sobel "
        "gradients; the paper's perceptual term needs VGG-16 weights and is left out."
    )

    def model(self) -> nn.Module:
        return DILRANNet()

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        x = torch.cat((batch["a"], batch["b"]))
        y = model(x)
        mse = losses.mse(y, x).mean()
        edges = ((_sobel(y).abs() - _sobel(x).abs()) ** 2).mean()
        return 100 * (mse + 0.2 * edges), {"mse": mse.detach(), "sobel": edges.detach()}


class SwinFuseRecipe(SliceRecipe):
    """Auto-encoder on single images: L1 and MS-SSIM."""

    layouts = SwinFuse.layouts
    defaults = Hyperparameters(steps=640, batch=1, lr=5e-4, warmup=20, val_every=40)
    crop = (49, 49)
    val_batches = 4
    notes = (
        "Auto-encoder on single slices, MRI and PET alike, all blocks run. Loss: L1 + (1 - MS-SSIM) at three "
        "scales (crops are small); the paper weighs the second term by 1000. Wanted is the image clipped to "
        "[0.005, 0.995]: a tanh reaches 0 and 1 only at infinity, and the black of one image would blot out "
        "what the other shows there. No stochastic depth. Stored in half precision."
    )
    WEIGHTS = (0.07, 0.45, 0.48)
    MARGIN = 0.005

    def model(self) -> nn.Module:
        return SwinFuseNet()

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        x = torch.cat((batch["a"], batch["b"]))
        y = model(2 * x[:, 0] - 1)[:, None] / 2 + 0.5
        x = x.clamp(self.MARGIN, 1 - self.MARGIN)
        l1, ssim = losses.l1(y, x).mean(), losses.ms_ssim(y, x, weights=self.WEIGHTS).mean()
        return l1 + 1 - ssim, {"l1": l1.detach(), "ms_ssim": ssim.detach()}

    def export(self, model: nn.Module) -> Mapping[str, Tensor]:
        return {k: v.half() for k, v in model.state_dict().items()}


def _he(net: nn.Module) -> nn.Module:
    """Initial weights that keep the variance through rectified layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return net


def information(x: Tensor) -> Tensor:
    """RMS Laplacian of images (B, 1, H, W), shape (B,)."""
    kernel = x.new_tensor([[1.0, 1.0, 1.0], [1.0, -8.0, 1.0], [1.0, 1.0, 1.0]]) / 8
    return nnf.conv2d(x, kernel[None, None]).square().mean((1, 2, 3)).sqrt()


def _sobel(x: Tensor) -> Tensor:
    """Horizontal and vertical Sobel responses of (B, 1, H, W)."""
    kernel = x.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    return nnf.conv2d(x, torch.stack([kernel, kernel.T])[:, None])
