"""Features of VGG-16, from a file of its published weights (extra ``vgg``); nothing is downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError

from .._weights import Layout, load_weights

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # places in the published sequence
SIZE = 224


class Information(nn.Module):
    """How much an image shows to VGG-16: the mean squared Laplacian of its features.

    Features are those before each of the five poolings.  Unlike in U2Fusion's program they are not
    surrounded by zeros, whose edge is no information of the image.

    Parameters
    ----------
    path : str or Path
        State dict of VGG-16 trained on ImageNet, timm's or torchvision's: safetensors or a PyTorch file.

    Raises
    ------
    InputError
        No such file, not one of VGG-16, or timm is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        if not Path(path).is_file():
            raise InputError(f"VGG-16 weights {path}: no such file")
        with torch.device("meta"):  # the fully connected layers, soon dropped, would be 0.5 GB
            features = _timm().create_model("vgg16", features_only=True, out_indices=range(5))
        self.features: nn.Module = features.to_empty(device="cpu")
        names = {f"features_{i}.{k}": f"features.{i}.{k}" for i in CONVOLUTIONS for k in ("weight", "bias")}
        layout = Layout("VGG-16", names, unused=("pre_logits.*", "head.*", "classifier.*"))
        load_weights(self.features, path, [layout])
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Information (B,) of images (B, 1, H, W) in [0, 1]."""
        x = nnf.interpolate(x, (SIZE, SIZE), mode="nearest")
        blocks = self.features((x - self.mean) / self.std)
        return torch.stack([_laplacian(f.float()).square().mean((1, 2, 3)) for f in blocks]).mean(0)


def _laplacian(x: Tensor) -> Tensor:
    """Mean of the eight neighbours minus the pixel, inside the border."""
    return (nnf.avg_pool2d(x, 3, 1) - x[..., 1:-1, 1:-1]) * (9 / 8)


def _timm() -> Any:
    """timm, also where torchvision was compiled for another build of torch.

    timm imports torchvision, which describes its compiled operators to torch; where they did not load,
    that ends in "operator torchvision::nms does not exist".  The networks need none of them.
    """
    library: Any = torch.library
    register = library.register_fake

    def register_known(op: Any, *args: Any, **kwargs: Any) -> Any:
        scope, _, name = str(op).partition("::")
        if scope == "torchvision" and not hasattr(torch.ops.torchvision, name):
            return lambda function: function
        return register(op, *args, **kwargs)

    try:
        library.register_fake = register_known
        try:
            importlib.import_module("torchvision")
        finally:
            library.register_fake = register
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError(
            f"VGG-16 features need {error.name}: pip install 'fusebench[vgg]', or leave out vgg"
        ) from error
