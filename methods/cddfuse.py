"""CDDFuse: base and detail features of both images, fused by a layer each."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.method import MethodInfo, Weights

from ._coupling import HALF, WIDTH, Coupling, FastCoupling
from ._learned import LearnedSliceMethod, choose, stretch
from ._packed import linear
from ._restormer import ChannelBlock, FastBlock, block_names
from ._rows import convolve_image, in_turn
from ._weights import Layout

BLOCKS, COUPLINGS = 4, 3


def base_block() -> ChannelBlock:
    return ChannelBlock(WIDTH, WIDTH, depthwise=False)


class CDDFuseNet(nn.Module):
    """Shared encoder, two fusion layers, decoder; images in [0, 1].

    Attributes
    ----------
    residual : bool
        The images are added before the sigmoid.
    """

    residual: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, WIDTH, 3, padding=1, bias=False)
        self.encoder = nn.Sequential(*(ChannelBlock(WIDTH, 2 * WIDTH, depthwise=True) for _ in range(BLOCKS)))
        self.base, self.fuse_base = base_block(), base_block()
        self.detail = nn.Sequential(*(Coupling() for _ in range(COUPLINGS)))
        self.fuse_detail = Coupling()
        self.reduce = nn.Conv2d(2 * WIDTH, WIDTH, 1, bias=False)
        self.decoder = nn.Sequential(*(ChannelBlock(WIDTH, 2 * WIDTH, depthwise=True) for _ in range(BLOCKS)))
        self.last = nn.Sequential(
            nn.Conv2d(WIDTH, HALF, 3, padding=1, bias=False),
            nn.LeakyReLU(),
            nn.Conv2d(HALF, 1, 3, padding=1, bias=False),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, H, W) to base and detail features, each (N, 64, H, W)."""
        x = self.encoder(self.embed(x))
        return self.base(x), self.detail(x)

    def decode(self, base: Tensor, detail: Tensor, images: Tensor) -> Tensor:
        """Features, and the sum of the images they are of, to an image (N, 1, H, W) in (0, 1)."""
        x: Tensor = self.last(self.decoder(self.reduce(torch.cat((base, detail), 1))))
        return (x + images if self.residual else x).sigmoid()

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1], twice, to the fused image; the order does not matter."""
        (b1, d1), (b2, d2) = self.encode(functional), self.encode(structural)
        return self.decode(self.fuse_base(b1 + b2), self.fuse_detail(d1 + d2), functional + structural)


class FastCDDFuse:
    """The network for one pair (1, 1, H, W) on a CPU, rows by rows; features are (H, W, 64)."""

    def __init__(self, net: CDDFuseNet) -> None:
        self.net = net
        self.encoder, self.decoder = (
            [FastBlock(block) for block in blocks]  # type: ignore[arg-type]
            for blocks in (net.encoder, net.decoder)
        )
        self.base, self.fuse_base = FastBlock(net.base), FastBlock(net.fuse_base)
        self.detail = [FastCoupling(layer) for layer in net.detail]  # type: ignore[arg-type]
        self.fuse_detail = FastCoupling(net.fuse_detail)

    def __call__(self, functional: Tensor, structural: Tensor) -> Tensor:
        base, detail = self._encode(functional)
        for total, more in zip((base, detail), self._encode(structural), strict=True):
            total += more
        base, detail = self.fuse_base(base), self.fuse_detail(detail)
        reduce = self.net.reduce.weight[..., 0, 0]
        x = in_turn(self.decoder, linear(base, reduce[:, :WIDTH]) + linear(detail, reduce[:, WIDTH:]))
        first, last = (self.net.last[i].get_parameter("weight") for i in (0, 2))
        image = convolve_image(nnf.leaky_relu_(convolve_image(x, first)), last)[None, None, ..., 0]
        return (image + (functional + structural) if self.net.residual else image).sigmoid()

    def _encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.net.embed(image)[0].movedim(0, -1).contiguous()
        x = in_turn(self.encoder, x)
        return self.base(x), in_turn(self.detail, x)


class CDDFuse(LearnedSliceMethod):
    """CDDFuse.

    Parameters
    ----------
    residual : bool
        Add both images before the sigmoid.  The authors do so with their file for infrared and visible
        images (``CDDFuse_IVF.pth``), and not with the one for medical images (``CDDFuse_MIF.pth``).
    compat : bool
        The authors' program stretches every fused picture to its own range when saving, which no comparison
        should; ``compat=True`` does so as well.

    Notes
    -----
    The published text calls the encoder two branches; the program has one for both images, and adds their
    features, so the order of the images has no influence.
    """

    info = MethodInfo(
        name="cddfuse",
        summary="Base and detail features by channel attention and invertible layers",
        dims=2,
        paper="Zhao et al., CDDFuse: Correlation-Driven Dual-Branch Feature Decomposition for Multi-Modality "
        "Image Fusion, CVPR 2023",
        trained_on="phantom (64 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/cddfuse.safetensors",
            sha256="404d3d1975167557650d4775e7a3c291a6c982904ddb2e7e9d75c5cddeb5cbd7",
        ),
        params=1_188_272,
        cost=18.0,
        tolerance=5e-5,
        notes="on a CPU in the faster form (fast=False: the plain network)",
    )
    recipes = {"default": "._recipes_restormer:CDDFuseRecipe"}
    expected_failed_checks = {
        "identical_inputs": "both images' features are added, so equal ones get brighter"
    }
    network: CDDFuseNet
    quick: FastCDDFuse | None

    def __init__(
        self,
        weights: str | None = None,
        residual: bool = False,
        compat: bool = False,
        planes: str = "axial",
        fast: bool = True,
    ) -> None:
        self.residual = choose("residual", residual, (True, False))
        super().__init__(weights, compat, planes, fast)

    def build(self) -> nn.Module:
        network = CDDFuseNet()
        network.residual = self.residual
        return network

    def faster(self) -> FastCDDFuse:
        return FastCDDFuse(self.network)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        if self.quick:
            each = [self.quick(y, x) for x, y in zip(torch.split(a, 1), torch.split(b, 1), strict=True)]
            fused = torch.cat(each)
        else:
            fused = self.network(b, a)
        return stretch(fused) if self.compat else fused


def _layout() -> Layout:
    encoder, decoder = "DIDF_Encoder", "DIDF_Decoder"
    table = {
        "embed.weight": f"{encoder}.patch_embed.proj.weight",
        "reduce.weight": f"{decoder}.reduce_channel.weight",
        "last.0.weight": f"{decoder}.output.0.weight",
        "last.2.weight": f"{decoder}.output.2.weight",
    }
    for i in range(BLOCKS):
        table |= block_names(f"encoder.{i}", f"{encoder}.encoder_level1.{i}", depthwise=True)
        table |= block_names(f"decoder.{i}", f"{decoder}.encoder_level2.{i}", depthwise=True)
    table |= block_names("base", f"{encoder}.baseFeature", depthwise=False)
    table |= block_names("fuse_base", "BaseFuseLayer", depthwise=False)
    couplings = {f"detail.{i}": f"{encoder}.detailFeature.net.{i}" for i in range(COUPLINGS)}
    for ours, theirs in {**couplings, "fuse_detail": "DetailFuseLayer.net.0"}.items():
        table |= {f"{ours}.mix.{kind}": f"{theirs}.shffleconv.{kind}" for kind in ("weight", "bias")}
        for mine, part in (("move", "phi"), ("scale", "rho"), ("shift", "eta")):
            for name, index in (("expand", 0), ("spread", 3), ("project", 5)):
                table[f"{ours}.{mine}.{name}.weight"] = (
                    f"{theirs}.theta_{part}.bottleneckBlock.{index}.weight"
                )
    return Layout("authors'", table)


CDDFuse.layouts = (_layout(),)
