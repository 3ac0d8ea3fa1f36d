"""Faster forms of three networks on a CPU; the parameter ``fast=False`` of these methods turns them all off.

Each is made of a network's layers in evaluation mode, and gives what the network gives up to rounding: for
one pair or one image (1, 1, H, W), without gradients.  Inside, channels are last: oneDNN convolves such
images without sorting memory first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._rows import convolve, convolve_image, handed_on, windows

Layer = tuple[Tensor, Tensor]  # kernels (outputs, inputs, height, width), channels last in memory; bias

# Of the widest features: a compromise of cache and calls, each of which sorts the kernels anew.
_NUMBERS = 1 << 19


def prepare(layer: nn.Module) -> Layer:
    """A convolution as `convolve` wants it."""
    weight, bias = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
    return weight.contiguous(memory_format=torch.channels_last), bias


class FastDense:
    """A dense encoder and a decoder of 3x3 convolutions (DenseFuse, U2Fusion).

    All layers advance together, some rows at a time.

    Parameters
    ----------
    encoder, decoder : iterable of Conv2d
        A layer of the encoder takes all that those before it gave.
    slope : float
        Of the leaky ReLU between layers; 0 is ReLU.
    reflect : bool
        Reflected borders, else zeros.
    """

    def __init__(
        self, encoder: Iterable[nn.Module], decoder: Iterable[nn.Module], slope: float, reflect: bool = True
    ) -> None:
        self.encoder = [prepare(layer) for layer in encoder]
        self.decoder = [prepare(layer) for layer in decoder]
        self.slope, self.reflect = slope, reflect

    def of_both(self, x: Tensor) -> Tensor:
        """Two channels (2, 1, H, W) of one input to the decoder's last layer (1, 1, H, W), no activation."""
        return self._decode(self._encode(x[:, 0].movedim(0, -1)), *x.shape[-2:])

    def of_mean(self, x: Tensor, y: Tensor) -> Tensor:
        """The decoder's last layer, no activation, on the mean of the features of two images (1, 1, H, W)."""
        pairs = zip(*(self._encode(image[0, 0, ..., None]) for image in (x, y)), strict=True)
        return self._decode((torch.lerp(first, second, 0.5) for first, second in pairs), *x.shape[-2:])

    def _encode(self, x: Tensor) -> Iterator[Tensor]:
        """An image (H, W, C) to rows of the features of all layers."""
        first, *others = self.encoder
        height, width = x.shape[:2]
        features = self._convolve(iter([x]), first, height, width)
        for layer in others:
            features = self._convolve(features, layer, height, width, dense=True)
        return features

    def _decode(self, features: Iterator[Tensor], height: int, width: int) -> Tensor:
        """Rows of features to an image (1, 1, H, W)."""
        *layers, last = self.decoder
        for layer in layers:
            features = self._convolve(features, layer, height, width)
        rows = [convolve(x, last[0], bias=last[1]) for x in self._windows(features, height, width)]
        return torch.cat(rows).movedim(-1, 0)[None]

    def _convolve(
        self, x: Iterator[Tensor], layer: Layer, height: int, width: int, dense: bool = False
    ) -> Iterator[Tensor]:
        """A layer with its activation, and with `dense` what it was given before that."""
        for rows in self._windows(x, height, width):
            made = convolve(rows, layer[0], bias=layer[1])
            made = nnf.leaky_relu_(made, self.slope) if self.slope else made.relu_()
            yield torch.cat((rows[1:-1, 1:-1], made), -1) if dense else made

    def _windows(self, x: Iterator[Tensor], height: int, width: int) -> Iterator[Tensor]:
        shape = (height, width, self.decoder[0][0].shape[1])
        return (rows for *_, rows in windows(handed_on(x), shape, self.reflect, _NUMBERS))


class FastDILRAN:
    """DILRAN's encoder and decoder.

    All channels of the shallow features are mixtures of three images, x, its product with ``smooth(x)`` and
    ``smooth(x)``.  The layers up to the first norm are linear, so they act on the three instead of 64, and
    constants fall out in the norm; an image costs a fifth.

    Parameters
    ----------
    shallow, reduce, attention : Conv2d
        1 to C channels, 1x1; 3 C to C, 1x1; C to C, 3x3.
    dilated : sequence of Conv2d
        C to C channels, 3x3, under various dilations.
    norm : InstanceNorm2d
    decoder : iterable of Conv2d
        3x3, no activation between them.
    """

    def __init__(
        self,
        shallow: nn.Conv2d,
        dilated: Sequence[nn.Conv2d],
        reduce: nn.Conv2d,
        norm: nn.InstanceNorm2d,
        attention: nn.Conv2d,
        decoder: Iterable[nn.Module],
    ) -> None:
        weight, bias = shallow.weight.detach().flatten(), shallow.get_parameter("bias").detach()
        mixtures = torch.stack((torch.ones_like(bias), weight, bias)).double()
        mixes = torch.split(reduce.weight.detach()[..., 0, 0].double(), len(bias), 1)
        kernels = (conv.weight.detach().double() for conv in dilated)
        pairs = zip(mixes, kernels, strict=True)
        merged = [torch.einsum("om,mihw,ki->okhw", mix, kernel, mixtures) for mix, kernel in pairs]
        self.merged = torch.cat([kernel.flatten(1) for kernel in merged], 1).float()
        self.mixtures = mixtures.float()
        self.dilations = [int(conv.dilation[0]) for conv in dilated]
        self.norm = norm
        kernel, bias = prepare(attention)
        self.thrice = [(kernel, times * bias) for times in (1, 2, 3)]
        self.decoder = [prepare(layer) for layer in decoder]

    def encode(self, x: Tensor) -> Tensor:
        """(1, 1, H, W), both even, to features (1, C, H, W), channels last in memory."""
        smoothed = smooth(x)
        three = torch.cat((x, smoothed * x, smoothed), 1)
        # A convolution of three channels is slow where it is dilated; a product with shifted copies is not.
        shifted = torch.cat([nnf.unfold(three, 3, dilation=d, padding=d)[0] for d in self.dilations])
        deep = self._normalise_((shifted.T @ self.merged.T).view(*x.shape[2:], -1))
        deep = self._normalise_(add_smooth_(deep, self._attend(deep)))
        shallow = (three[0].flatten(1).T @ self.mixtures).view(deep.shape)
        return add_smooth_(shallow, deep).movedim(-1, 0)[None]

    def decode(self, x: Tensor) -> Tensor:
        """Features (1, C, H, W) to an image (1, 1, H, W); no activation."""
        x = x[0].movedim(0, -1)
        for kernels, bias in self.decoder:
            x = convolve_image(x, kernels, bias)
        return x.movedim(-1, 0)[None]

    def _attend(self, x: Tensor) -> Tensor:
        """The attention layer A without activation, applied once, twice and three times, summed.

        With A x = W x + b that is W (x + W (x + W x + b) + 2 b) + 3 b.
        """
        (kernels, bias), *others = self.thrice
        total = convolve_image(x, kernels, bias)
        for kernels, bias in others:
            total = convolve_image(total.add_(x), kernels, bias)
        return total

    def _normalise_(self, x: Tensor) -> Tensor:
        """The instance norm, in place."""
        x -= x.mean((0, 1))
        # Not a dot product of 65,536 terms: that loses three digits in single precision.
        variance = x.square().mean((0, 1))
        return x.mul_(self.norm.weight * (variance + self.norm.eps).rsqrt()).add_(self.norm.bias)


def smooth(x: Tensor) -> Tensor:
    """Average 2x2 pixels, back to size by repetition, ReLU; sums of slices are faster than pooling."""
    rows = x[:, :, ::2] + x[:, :, 1::2]
    means = (rows[..., ::2] + rows[..., 1::2]).mul_(0.25).relu_()
    return nnf.interpolate(means, scale_factor=2, mode="nearest")


def add_smooth_(x: Tensor, times: Tensor) -> Tensor:
    """``x + smooth(x) * times``, in place, of images (H, W, C)."""
    quads = x.view(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1)
    rows = quads[:, 0] + quads[:, 1]
    means = (rows[:, :, 0] + rows[:, :, 1]).mul_(0.25).relu_()
    quads.addcmul_(means[:, None, :, None], times.view(quads.shape))
    return x
