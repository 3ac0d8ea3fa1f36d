"""U2Fusion: one dense network on both images at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import MethodInfo, Weights

from ._conv import pad_reflect
from ._fast import FastDense
from ._learned import LearnedSliceMethod, choose
from ._weights import Layout, origin_of, refuse_other_form

WIDTH = 44


class U2FusionNet(nn.Module):
    """conv 2 -> 44, five dense layers of 44, 264 -> 128 -> 64 -> 32 -> 1; leaky ReLU 0.2, tanh.

    Parameters
    ----------
    reflect : bool
        True: reflected borders and images in [0, 1], the authors' network.  False: zero borders and
        images in [-1, 1], the PyTorch port's.
    """

    def __init__(self, reflect: bool = True) -> None:
        super().__init__()
        self.reflect = reflect
        self.first = nn.Conv2d(2, WIDTH, 3)
        self.dense = nn.ModuleList(nn.Conv2d(WIDTH * k, WIDTH, 3) for k in range(1, 6))
        widths = (6 * WIDTH, 128, 64, 32, 1)
        self.decoder = nn.ModuleList(nn.Conv2d(i, o, 3) for i, o in pairwise(widths))

    def forward(self, functional: Tensor, structural: Tensor) -> Tensor:
        """(N, 1, H, W) in [0, 1], twice, to the fused image in [0, 1]."""
        x = torch.cat((functional, structural), 1)
        pad: Callable[[Tensor], Tensor] = pad_reflect
        if not self.reflect:
            x, pad = 2 * x - 1, _pad_zero
        x = nnf.leaky_relu(self.first(pad(x)), 0.2)
        for layer in self.dense:
            x = torch.cat((x, nnf.leaky_relu(layer(pad(x)), 0.2)), 1)
        for layer in self.decoder[:-1]:
            x = nnf.leaky_relu(layer(pad(x)), 0.2)
        fused: Tensor = self.decoder[-1](pad(x)).tanh() / 2 + 0.5
        return fused


class U2Fusion(LearnedSliceMethod):
    """U2Fusion.

    Parameters
    ----------
    variant : {"authors", "port"}
        The authors' network, or the PyTorch port (zero borders, so the frame of the picture is visible;
        trained for multi-exposure only).  A weights file of one kind wants the variant of that kind, and
        the shipped weights are for the authors' network.
    compat : bool
        Changes nothing: neither program has a fault inside the network.  (The authors' stretches every
        picture to its own maximum when saving, which no comparison should.)

    Notes
    -----
    The inputs are not interchangeable: the functional image goes first, as in the authors' medical script.
    A published file is read from an ``.npz`` with the TensorFlow variable names (authors), or as the
    port's ``.pth``.
    """

    info = MethodInfo(
        name="u2fusion",
        summary="Dense network on both images, trained to keep each one's information",
        dims=2,
        paper="Xu et al., U2Fusion: A Unified Unsupervised Image Fusion Network, IEEE TPAMI 44(1), 2022",
        trained_on="phantom (24 train subjects, slices in three planes)",
        trained_splits=("phantom/train",),
        weights=Weights(
            file="weights/u2fusion.safetensors",
            sha256="449b3d4969b4c2b70183379fc4ec50b638c96096414d0c0be5e52ed19b885a22",
        ),
        params=659_217,
        notes="on a CPU in the faster form (fast=False: the plain network)",
        cost=3.8,
        tolerance=5e-5,
    )
    recipes = {"default": "._recipes_2d:U2FusionRecipe"}
    variants = {"port": {"variant": "port"}}
    unlisted_variants = ("port",)  # no weights of it are shipped
    # One network on both images: nothing ties it to a where a = b, and on noise it smooths.
    expected_failed_checks = {"identical_inputs": "a network on both images at once has no such identity"}
    network: U2FusionNet
    quick: FastDense | None

    def __init__(
        self,
        weights: str | None = None,
        variant: str = "authors",
        compat: bool = False,
        planes: str = "axial",
        fast: bool = True,
    ) -> None:
        self.variant = choose("variant", variant, ("authors", "port"))
        # Ten layers and the border; zero borders show everywhere.
        self.reach = 11 if variant == "authors" else 0
        if weights is None and variant == "port":
            raise InputError(
                "u2fusion: the shipped weights are for variant=authors; give the port's file with "
                "--weights u2fusion=FILE"
            )
        if weights is not None:
            refuse_other_variant(weights, variant)
        super().__init__(weights, compat, planes, fast)

    def published(self) -> Sequence[Layout]:
        return (AUTHORS if self.variant == "authors" else PORT,)

    def build(self) -> nn.Module:
        return U2FusionNet(reflect=self.variant == "authors")

    def faster(self) -> FastDense:
        net = self.network
        return FastDense((net.first, *net.dense), net.decoder, slope=0.2, reflect=net.reflect)

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        if self.quick is None:
            fused: Tensor = self.network(b, a)
            return fused
        pairs = [torch.cat(pair) for pair in zip(torch.split(b, 1), torch.split(a, 1), strict=True)]
        last = [self.quick.of_both(x if self.network.reflect else 2 * x - 1) for x in pairs]
        return torch.cat([x.tanh().div_(2).add_(0.5) for x in last])


def refuse_other_variant(weights: str | Path, variant: str) -> None:
    """Raise `InputError` where a file, published or of ours, is of the other variant."""
    refuse_other_form(weights, "variant", variant, "authors")
    other, wanted = {"authors": (PORT, "port"), "port": (AUTHORS, "authors")}[variant]
    if origin_of(weights, [other]) == other.origin:
        raise InputError(f"weights {weights}: the {other.origin} file; it wants variant={wanted} (--set)")


def _pad_zero(x: Tensor) -> Tensor:
    return nnf.pad(x, (1, 1, 1, 1))


def _from_tensorflow(name: str, tensor: Tensor) -> Tensor:
    if name.endswith("bias"):
        return tensor
    kernel = tensor.permute(3, 2, 0, 1)  # from (h, w, in, out)
    if name.startswith("dense") or name == "decoder.0.weight":
        # Their dense block puts what is new in front, ours behind.
        kernel = torch.cat(torch.split(kernel, WIDTH, 1)[::-1], 1)
    return kernel.contiguous()


def _names(of: Callable[[str], str], kinds: tuple[str, str]) -> dict[str, str]:
    ours = ["first", *(f"dense.{i}" for i in range(5)), *(f"decoder.{i}" for i in range(4))]
    pairs = list(zip(("weight", "bias"), kinds, strict=True))
    return {f"{o}.{mine}": of(o) + theirs for o in ours for mine, theirs in pairs}


def _tensorflow_scope(ours: str) -> str:
    part, _, index = ours.partition(".")
    if part == "decoder":
        return f"Generator_1/decoder/conv2_{int(index) + 1}/"
    return "Generator/encoder/" + (f"dense_block_conv{int(index) + 1}/" if index else "conv1_1/")


def _port_module(ours: str) -> str:
    part, _, index = ours.partition(".")
    if part == "decoder":
        return f"sub.{index}." + ("" if index == "3" else "0.")
    return f"dense_layers.{index}.conv.0." if index else "conv_1.0."


AUTHORS = Layout("authors'", _names(_tensorflow_scope, ("kernel", "bias")), _from_tensorflow)
PORT = Layout("port's", _names(_port_module, ("weight", "bias")))
