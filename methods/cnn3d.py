"""3D-CNN-Fusion: a small 3D network that gives a weight for every voxel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo, Weights

from ._learned import choose
from ._precision import full_precision
from ._weights import Layout, load_weights, with_weights

NARROW, WIDTH, LATENT = 16, 32, 8


class VolumeNorm(nn.Module):
    """Each channel of each volume to mean 0 and variance 1, then a scale and a shift."""

    EPS = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, D, H, W) to the same shape; without gradients in place, plane by plane."""
        if not torch.is_grad_enabled():
            return self._in_place(x)
        mean = x.mean((2, 3, 4), keepdim=True)
        variance = (x - mean).square().mean((2, 3, 4), keepdim=True)
        scale = self.weight.view(-1, 1, 1, 1) * (variance + self.EPS).rsqrt()
        return torch.addcmul(self.bias.view(-1, 1, 1, 1) - mean * scale, x, scale)

    def _in_place(self, x: Tensor) -> Tensor:
        planes, number = x.unbind(2), x[0, 0].numel()  # a plane stays in the cache, a volume does not

        def mean_of(sums: Iterator[Tensor]) -> Tensor:
            total = torch.stack([s.double() for s in sums]).sum(0) / number
            return total.to(x.dtype)[..., None, None]

        mean = mean_of(plane.sum((2, 3)) for plane in planes)
        variance = mean_of((plane - mean).square_().sum((2, 3)) for plane in planes)
        scale = self.weight.view(-1, 1, 1) * (variance + self.EPS).rsqrt()
        shift = self.bias.view(-1, 1, 1) - mean * scale
        for plane in planes:
            plane.mul_(scale).add_(shift)
        return x


class Mixture(nn.Conv3d):
    """1x1x1 convolution of channels that lie next to each other, as a matrix product."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, D, H, W) to (N, outputs, D, H, W)."""
        return nnf.linear(x.movedim(1, -1), self.weight[..., 0, 0, 0], self.bias).movedim(-1, 1)


class Separable(nn.Sequential):
    """3x3x3 in each channel, then a mixture of channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv3d(inputs, inputs, 3, padding=1, groups=inputs), Mixture(inputs, outputs))


class Branch(nn.Module):
    """Features of one image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, NARROW, 3, padding=1, bias=False)
        self.second, self.third = Separable(NARROW, WIDTH), Separable(WIDTH, WIDTH)
        self.norms = nn.ModuleList(VolumeNorm(c) for c in (NARROW, NARROW, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, D, H, W) to (N, 32, D, H, W)."""
        # Convolutions of single channels are five times as fast on a CPU with channels next to each other.
        x = self.first(x).contiguous(memory_format=torch.channels_last_3d)
        x = self.norms[1](self.norms[0](x).relu_()).relu_()
        x = self.norms[2](self.second(x)).relu_()
        return torch.relu_(self.norms[3](self.third(x)))


class Attention(nn.Module):
    """Features of both images, weighed per channel and per voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.reduce = Mixture(WIDTH, LATENT), Mixture(WIDTH, LATENT)
        self.channels = nn.ModuleList(Mixture(LATENT, WIDTH) for _ in range(2))
        self.voxels = nn.ModuleList(Mixture(LATENT, 1) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 32, D, H, W), twice, to one of them."""
        both = x + y
        code = self.squeeze(both.mean((2, 3, 4), keepdim=True)).relu()
        channel = (self.channels[0](code) - self.channels[1](code)).sigmoid()
        code = self.reduce(both).relu()
        voxel = (self.voxels[0](code) - self.voxels[1](code)).sigmoid()
        # Soft-max of two products of soft-maxes of two: c v - (1 - c) (1 - v) = c + v - 1.
        return torch.lerp(y, x, (channel + voxel - 1).sigmoid())


class CNN3DNet(nn.Module):
    """Two branches, attention, a residual block, and the weight of the structural image."""

    def __init__(self) -> None:
        super().__init__()
        self.structural, self.functional, self.attention = Branch(), Branch(), Attention()
        self.residual = nn.ModuleList(Separable(WIDTH, WIDTH) for _ in range(2))
        self.norms = nn.ModuleList(VolumeNorm(WIDTH) for _ in range(2))
        self.last = Separable(WIDTH, 1)

    def forward(self, structural: Tensor, functional: Tensor) -> Tensor:
        """(N, 1, D, H, W) in [0, 1], twice, to weights in (0, 1)."""
        x = self.attention(self.structural(structural), self.functional(functional))
        y = self.norms[0](self.residual[0](x)).relu_()
        x = (self.norms[1](self.residual[1](y)) + x).relu_()
        return torch.sigmoid(self.last(x))


class CNN3D(Method):
    """3D-CNN-Fusion: ``w a + (1 - w) b`` with a weight ``w`` for every voxel.

    The weights explain the result: bright where it follows the structural image.  `weight_map` gives them,
    and so does the variant ``cnn3d@map``, which stands among the controls of a run's sheet and viewer.

    Parameters
    ----------
    weights : str, optional
        A weights file: ours, or the published one; None is the shipped one.
    compat : bool
        The authors' program cuts the last plane of the head along each axis off, and repeats what is then
        outermost up to the borders of the image; with ``compat=True`` that is reproduced.
    output : {"fused", "map"}
        The fused image, or the map of weights in its place.

    Notes
    -----
    The authors' program never leaves training mode, so its batch norms take the statistics of the single
    volume.  That is kept as the network's definition.  Since they depend on how much air there is, the
    network sees the box around what is not black, as theirs does; outside, the result is black.
    """

    info = MethodInfo(
        name="cnn3d",
        summary="small 3D network that weighs both images for every voxel",
        dims=3,
        paper="Liu et al., Multimodal MRI Volumetric Data Fusion With Convolutional Neural Networks, IEEE "
        "Transactions on Instrumentation and Measurement 71, 2022",
        trained_on="phantom (24 train subjects)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/cnn3d.safetensors",
            sha256="1583ba5ac91280a7f4ea9cfcc4d7cbd9371ae4151a2ace7f460359158e29f1ce",
        ),
        params=13_219,
        cost=1.1,
        tolerance=5e-5,
    )
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"map": {"output": "map"}}
    variant_facts: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "map": {"summary": "the weight that cnn3d gives the structural image", "control": True}
    }
    unlisted_variants = ("map",)
    recipes = {"default": "._recipes_cnn3d:CNN3DRecipe"}
    network: CNN3DNet

    def __init__(self, weights: str | None = None, compat: bool = False, output: str = "fused") -> None:
        self.weights, self.compat = weights, choose("compat", compat, (True, False))
        self.output = choose("output", output, ("fused", "map"))
        self.origin = ""
        if weights is not None:  # before the run: a wrong file ends it, and the board says whose they are
            self.origin = load_weights(CNN3DNet(), weights, LAYOUTS)

    def describe(self) -> MethodInfo:
        info = super().describe()
        return with_weights(info, self.weights, self.origin) if self.weights else info

    def setup(self, device: torch.device | str = "cpu") -> None:
        """Load the weights and move them to `device`."""
        super().setup(device)
        self.network = CNN3DNet()
        load_weights(self.network, self.files()[0], LAYOUTS)
        self.network.to(self.device).eval().requires_grad_(False)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        if self.output == "map":
            return self.weight_map(a, b)
        a, b, box = self._checked(a, b)
        if box is None:
            return torch.zeros_like(a)
        weight = self._weigh(a[box], b[box])
        fused = torch.lerp(b[box], a[box], weight).clamp(0, 1)
        if not self.compat:
            whole = torch.zeros_like(a)
            whole[box] = fused
            return whole
        around = [(part.start, n - part.stop) for part, n in zip(box, a.shape, strict=True)]
        flat = [n for pair in reversed(around) for n in pair]
        return nnf.pad(fused[None, None], flat, mode="replicate")[0, 0]

    def weight_map(self, a: Tensor, b: Tensor) -> Tensor:
        """Weight of the structural image, (D, H, W) in [0, 1]; 0 around the head."""
        a, b, box = self._checked(a, b)
        whole = torch.zeros_like(a)
        if box:
            whole[box] = self._weigh(a[box], b[box])
        return whole

    def _weigh(self, a: Tensor, b: Tensor) -> Tensor:
        with torch.inference_mode(), full_precision():
            weight: Tensor = self.network(a[None, None], b[None, None])[0, 0]
        return weight.clone()

    def _checked(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, tuple[slice, ...] | None]:
        """Both images, and the box of what is not black in both; None where all is."""
        if a.ndim != 3 or a.shape != b.shape or not a.numel():
            raise InputError(
                "cnn3d: two volumes (D, H, W) of one shape are needed, "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        a, b = (x.to(self.device, torch.float32) for x in (a, b))
        if not (a.isfinite().all() and b.isfinite().all()):
            raise InputError("cnn3d: an input holds NaN or infinite values; clean the images first")
        box = []
        content = (a != 0) | (b != 0)
        for axis in range(3):
            places = content.movedim(axis, 0).flatten(1).any(1).nonzero()
            if not len(places):
                return a, b, None
            first, last = int(places[0]), int(places[-1])
            if self.compat and first == last:
                raise InputError(
                    "cnn3d: with compat=True the last plane of the head is cut off along each axis, "
                    "and these images have one only; use compat=False"
                )
            box.append(slice(first, last if self.compat else last + 1))
        return a, b, tuple(box)


def _layout() -> Layout:
    names = {"attention.squeeze": "fusion_block.conv1", "attention.reduce": "fusion_block.conv5"}
    for i in range(2):
        names |= {f"attention.channels.{i}": f"fusion_block.conv2.{i}.0"}
        names |= {f"attention.voxels.{i}": f"fusion_block.conv4.{i}.0", f"norms.{i}": f"res3D.bn{i + 1}"}
    separable = {"residual.0": "res3D.conv1", "residual.1": "res3D.conv2", "last": "conv3"}
    for ours, k in (("structural", 1), ("functional", 2)):
        norms = (f"conv{k}.bn", f"bn{k}", f"bn{k}1", f"bn{k}2")
        names |= {f"{ours}.norms.{i}": norm for i, norm in enumerate(norms)}
        separable |= {f"{ours}.second": f"conv{k}1", f"{ours}.third": f"conv{k}2"}
    for ours, theirs in separable.items():
        names |= {f"{ours}.0": f"{theirs}.depth_conv", f"{ours}.1": f"{theirs}.point_conv"}
    every = {f"{k}.{kind}": f"{v}.{kind}" for k, v in names.items() for kind in ("weight", "bias")}
    every |= {f"{k}.first.weight": f"conv{i}.conv.weight" for k, i in (("structural", 1), ("functional", 2))}
    unused = ("*.running_mean", "*.running_var", "*.num_batches_tracked")
    return Layout("authors'", every, unused=unused)


LAYOUTS = (_layout(),)
