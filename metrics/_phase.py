"""Log-Gabor filters and phase congruency (Kovesi), for Q_P and FSIM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Bank:
    """Parameters of a log-Gabor filter bank."""

    scales: int
    orientations: int
    shortest: float
    step: float
    sigma: float = 0.55
    spread: float = 1.2
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Filters:
    """A bank at one image size.

    Attributes
    ----------
    radial : Tensor, shape (S, H, W)
    angular : Tensor, shape (O, H, W)
    energy, square, cross : list of float
        Per orientation: energy of the smallest filter; summed squares and products of the even filters.
    """

    radial: Tensor
    angular: Tensor
    energy: list[float]
    square: list[float]
    cross: list[float]


def _grid(n: int) -> Tensor:
    """Frequencies from the most negative up, as Kovesi lays them out."""
    half = torch.arange(n, dtype=torch.float64) - n // 2
    return half / (n - 1 if n % 2 and n > 1 else n)


@lru_cache(maxsize=4)
def filters(bank: Bank, h: int, w: int, dtype: torch.dtype, device: torch.device) -> Filters:
    """The filters of a bank for ``(h, w)`` images, made once per size."""
    y, x = torch.meshgrid(_grid(h), _grid(w), indexing="ij")
    if bank.transposed:
        y, x = x, y
    radius, theta = torch.hypot(x, y), torch.atan2(-y, x)
    lowpass = torch.fft.ifftshift(1 / (1 + (radius / 0.45) ** 30))
    radius, theta = torch.fft.ifftshift(radius), torch.fft.ifftshift(theta)
    radius[0, 0] = 1
    radial = torch.empty(bank.scales, h, w, dtype=torch.float64)
    for s in range(bank.scales):
        centre = 1 / (bank.shortest * bank.step**s)
        radial[s] = torch.exp(-(torch.log(radius / centre) ** 2) / (2 * math.log(bank.sigma) ** 2)) * lowpass
    radial[:, 0, 0] = 0
    width = math.pi / bank.orientations / bank.spread
    angular = torch.empty(bank.orientations, h, w, dtype=torch.float64)
    energy, square, cross = [], [], []
    for o in range(bank.orientations):
        angle = o * math.pi / bank.orientations
        away = torch.remainder(theta - angle + math.pi, 2 * math.pi) - math.pi
        angular[o] = torch.exp(-(away**2) / (2 * width**2))
        both = radial * angular[o]
        energy.append(float((both[0] ** 2).sum()))
        # The even filter is the part of the transfer function that is symmetric about 0 (Parseval).
        even = (both + both.flip(1, 2).roll((1, 1), (1, 2))) / 2
        squares = float((even**2).sum())
        square.append(squares)
        cross.append((float((even.sum(0) ** 2).sum()) - squares) / 2)
    return Filters(radial.to(device, dtype), angular.to(device, dtype), energy, square, cross)


@dataclass(frozen=True, eq=False)
class Response:
    """Response of an image ``(N, H, W)`` at one orientation.

    Attributes
    ----------
    energy : Tensor
        Phase congruency times amplitude, noise threshold taken off.
    amplitude, peak : Tensor
        Sum and maximum of the amplitudes over the scales.
    """

    energy: Tensor
    amplitude: Tensor
    peak: Tensor


def _length(x: Tensor) -> Tensor:
    """Modulus; many times faster than torch's guard against overflow."""
    parts = torch.view_as_real(x)
    return (parts[..., 0] ** 2).addcmul_(parts[..., 1], parts[..., 1]).sqrt_()


def _median(x: Tensor, exact: bool) -> Tensor:
    """Median ``(N,)``; of an even count the mean of the two in the middle if `exact`, else the lower."""
    rows = x.flatten(1).cpu().numpy()
    low, high = (rows.shape[1] - 1) // 2, rows.shape[1] // 2
    # Several times faster than torch's kthvalue.
    parted = np.partition(rows, (low, high), axis=1)
    middle = (parted[:, low] + parted[:, high]) / 2 if exact else parted[:, low]
    return torch.from_numpy(middle).to(x.device)


def responses(x: Tensor, bank: Bank, epsilon: float, exact_median: bool) -> Iterator[Response]:
    """One `Response` per orientation."""
    bank_filters = filters(bank, x.shape[1], x.shape[2], x.dtype, x.device)
    spectrum = torch.fft.fft2(x)
    for o in range(bank.orientations):
        oriented = spectrum * bank_filters.angular[o]
        # (S, N, H, W): even response in the real part, odd in the imaginary.
        eo = torch.fft.ifft2(oriented * bank_filters.radial[:, None])
        amplitude = _length(eo)
        total = eo.sum(0)
        length = _length(total)
        mean = torch.view_as_real(total / (length + epsilon))
        # Along the mean direction the responses add up to their sum; across it their sizes count.
        parts = torch.view_as_real(eo)
        across = (parts[..., 1] * mean[..., 0]).addcmul_(parts[..., 0], mean[..., 1], value=-1)
        energy = length * length / (length + epsilon) - across.abs_().sum(0)
        noise = _median(amplitude[0] ** 2, exact_median) / (-math.log(0.5)) / bank_filters.energy[o]
        noise = noise * (2 * bank_filters.square[o] + 4 * bank_filters.cross[o])
        tau = (noise / 2).sqrt()
        threshold = tau * (math.sqrt(math.pi / 2) + 2 * math.sqrt(2 - math.pi / 2)) / 1.7
        yield Response((energy - threshold[:, None, None]).clamp_min_(0), amplitude.sum(0), amplitude.amax(0))
