"""How `ifcnn` is trained: as its paper does, on pairs of which each shows another part of one image sharp."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._recipes_2d import Losses, SliceRecipe
from .ifcnn import COLOURS, IFCNN, IFCNNNet
from .training import losses
from .training.recipe import Batch, Hyperparameters
from .training.samples import Subjects


class IFCNNRecipe(SliceRecipe):
    """The image before parts of it were blurred: pixel loss and SSIM."""

    layouts = IFCNN.layouts
    defaults = Hyperparameters(steps=1600, batch=2, lr=2e-3, warmup=30, val_every=160)
    crop = (48, 48)
    val_batches = 6
    notes = (
        "Pairs are made of single slices, MRI and PET alike, as the paper makes them of photographs: in a "
        "random region one of the two is blurred, outside the other, and the unblurred slice is what the "
        "network has to give. Loss: MSE and 1 - SSIM as for DenseFuse; the paper's second term compares "
        "features of a ResNet101, and its first convolution is that network's, frozen: both want ImageNet "
        "weights, so here SSIM stands in and all layers are learned. Batch norms keep their initial "
        "statistics (they are scales and shifts)."
    )

    def model(self) -> nn.Module:
        net = IFCNNNet()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(net.last.get_parameter("bias"))
        # Grey comes in three times; and the first layer is followed by no ReLU.
        net.first.weight.data.div_(6**0.5)
        return net

    def loss(self, model: nn.Module, batch: Batch) -> Losses:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        x = torch.cat((batch["a"], batch["b"]))
        colours = model(*blurred_pair(x))
        wanted = x.expand(-1, COLOURS, -1, -1)
        mse, ssim = losses.mse(colours, wanted).mean(), losses.ssim(colours, wanted).mean()
        return 650 * mse + 1 - ssim, {"mse": mse.detach(), "ssim": ssim.detach()}

    def validate(self, model: nn.Module, subjects: Subjects) -> Mapping[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same regions each time
            return super().validate(model, subjects)


def blurred_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two images (B, 1, H, W) that together show `x` sharp: regions and widths from torch's generator."""
    noise = torch.rand(len(x), 1, 5, 5, device=x.device) - 0.5
    first = nnf.interpolate(noise, size=x.shape[-2:], mode="bicubic", align_corners=True) > 0
    blurred = torch.cat([_blur(image, 0.7 + 2.3 * float(torch.rand(()))) for image in torch.split(x, 1)])
    return torch.where(first, x, blurred), torch.where(first, blurred, x)


def _blur(x: Tensor, sigma: float) -> Tensor:
    radius = int(3 * sigma) + 1
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = nnf.conv2d(nnf.pad(x, (radius, radius, 0, 0), mode="replicate"), kernel.view(1, 1, 1, -1))
    return nnf.conv2d(nnf.pad(x, (0, 0, radius, radius), mode="replicate"), kernel.view(1, 1, -1, 1))
