"""Faster forms of three networks on a CPU; the parameter ``fast=False`` of these methods turns them all off.

Each is made of a network's layers in evaluation mode, and gives what the network gives up to rounding: for
one pair or one image (1, 1, H, W), without gradients.  A form keeps transformed kernels and working memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from ._conv import Memory
from ._winograd import Cascade, transform_layer


class FastDense:
    """A dense encoder and a decoder of 3x3 convolutions (DenseFuse, U2Fusion), as one `Cascade`.

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
        self.encoder = [transform_layer(layer) for layer in encoder]
        self.decoder = [transform_layer(layer) for layer in decoder]
        self.slope, self.reflect, self.memory = slope, reflect, Memory()

    def of_both(self, x: Tensor) -> Tensor:
        """Two channels (2, 1, H, W) of one input to the decoder's last layer (1, 1, H, W), no activation."""
        cascade = Cascade(x.shape[-2:], self.slope, self.reflect, self.memory)
        return cascade.finish(cascade.dense(cascade.load(x), self.encoder), self.decoder)

    def of_mean(self, x: Tensor, y: Tensor) -> Tensor:
        """The decoder's last layer, no activation, on the mean of the features of two images (1, 1, H, W)."""
        cascade = Cascade(x.shape[-2:], self.slope, self.reflect, self.memory)
        features = cascade.dense(cascade.load(torch.cat((x, y), 1)), self.encoder)
        return cascade.finish(cascade.mean(features), self.decoder)


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
        self.mixtures = mixtures.T.float().contiguous()
        self.dilations = [int(conv.dilation[0]) for conv in dilated]
        self.norm = norm
        attends, bias = transform_layer(attention)
        self.thrice = [(attends, times * bias) for times in (1, 2, 3)]
        self.decoder = [transform_layer(layer) for layer in decoder]
        self.memory = Memory()

    def encode(self, x: Tensor) -> Tensor:
        """(1, 1, H, W), both even, to features (1, C, H, W)."""
        smoothed = smooth(x)
        three = torch.cat((x, smoothed * x, smoothed), 1)
        # A convolution of three channels is slow where it is dilated; a product with shifted copies is not.
        shifted = [nnf.unfold(three, 3, dilation=d, padding=d) for d in self.dilations]
        deep = self._normalise_((self.merged @ torch.cat(shifted, 1)).view(1, -1, *x.shape[2:]))
        total = self._attend(deep)
        deep = self._normalise_(total.mul_(smooth(deep)).add_(deep))
        shallow = (self.mixtures @ three.flatten(2)).view(1, -1, *x.shape[2:])
        return deep.mul_(smooth(shallow)).add_(shallow)

    def decode(self, x: Tensor) -> Tensor:
        """Features (1, C, H, W) to an image (1, 1, H, W); no activation."""
        cascade = Cascade(x.shape[-2:], 1, False, self.memory)
        return cascade.finish(cascade.load(x.transpose(0, 1)), self.decoder).transpose(0, 1)

    def _attend(self, x: Tensor) -> Tensor:
        """The attention layer A without activation, applied once, twice and three times, summed.

        With A x = W x + b that is W (x + W (x + W x + b) + 2 b) + 3 b.
        """
        cascade = Cascade(x.shape[-2:], 1, False, self.memory)
        given = cascade.load(x.transpose(0, 1), kept=3)
        sums = given
        for layer in self.thrice[:-1]:
            sums = cascade.add(cascade.convolve(sums, layer), given)
        return cascade.finish(sums, self.thrice[-1:]).transpose(0, 1)

    def _normalise_(self, x: Tensor) -> Tensor:
        """The instance norm, in place."""
        x -= x.mean((2, 3), keepdim=True)
        # Not a dot product of 65,536 terms: that loses three digits in single precision.
        variance = x.square().mean((2, 3), keepdim=True)
        scale = self.norm.weight[:, None, None] * (variance + self.norm.eps).rsqrt()
        return x.mul_(scale).add_(self.norm.bias[:, None, None])


def smooth(x: Tensor) -> Tensor:
    """Average 2x2 pixels, back to size by repetition, ReLU; sums of slices are faster than pooling."""
    rows = x[:, :, ::2] + x[:, :, 1::2]
    means = (rows[..., ::2] + rows[..., 1::2]).mul_(0.25).relu_()
    return nnf.interpolate(means, scale_factor=2, mode="nearest")
