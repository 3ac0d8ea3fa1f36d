"""Discrete wavelet transform fusion."""

from __future__ import annotations

import numpy as np
import pywt
from scipy import ndimage
from torch import Tensor

from fusebench.errors import InputError
from fusebench.method import Method, MethodInfo

from ._arrays import Array, wavelet_axes, with_numpy


class DWT(Method):
    """Mean of the approximations; details by larger local magnitude, with consistency check.

    A detail coefficient is taken from the source whose largest magnitude in a window around it is larger;
    a choice that most of its neighbours do not share is reversed.

    Parameters
    ----------
    wavelet : str
        Name of a discrete wavelet of PyWavelets.
    levels : int
        Decomposition levels; fewer where an axis is too short.
    window : int
        Side of the neighbourhood of both steps, in coefficients; 1 takes each coefficient by itself.
    """

    info = MethodInfo(
        name="dwt",
        summary="wavelet transform, mean approximation, window maximum of details with consistency check",
        paper="Li, Manjunath and Mitra, Multisensor image fusion using the wavelet transform, "
        "Graphical Models and Image Processing 57(3), 1995",
        cost=0.1,
    )

    def __init__(self, wavelet: str = "bior4.4", levels: int = 3, window: int = 3) -> None:
        if wavelet not in pywt.wavelist(kind="discrete"):
            raise InputError(
                f"dwt: {wavelet!r} is not a discrete wavelet of PyWavelets; try 'bior4.4' or 'db2'"
            )
        if levels < 1:
            raise InputError(f"dwt: levels={levels} is less than 1")
        if window < 1 or window % 2 == 0:
            raise InputError(f"dwt: window={window} is not a positive odd number")
        self.wavelet = wavelet
        self.levels = levels
        self.window = window

    def _choose(self, a: Array, b: Array) -> Array:
        if self.window == 1:
            from_a = np.abs(a) >= np.abs(b)
        else:
            stronger = ndimage.maximum_filter(np.abs(a), self.window) >= ndimage.maximum_filter(
                np.abs(b), self.window
            )
            from_a = ndimage.uniform_filter(stronger.astype(np.float32), self.window) > 0.5
        chosen: Array = np.where(from_a, a, b)
        return chosen

    def _fuse(self, a: Array, b: Array) -> Array:
        axes, levels = wavelet_axes(a.shape, self.levels, lambda n: pywt.dwt_max_level(n, self.wavelet))
        if not axes:
            return (a + b) / 2
        base_a, *details_a = pywt.wavedecn(a, self.wavelet, level=levels, axes=axes)
        base_b, *details_b = pywt.wavedecn(b, self.wavelet, level=levels, axes=axes)
        details = [
            {band: self._choose(p[band], q[band]) for band in p}
            for p, q in zip(details_a, details_b, strict=True)
        ]
        fused = pywt.waverecn([(base_a + base_b) / 2, *details], self.wavelet, axes=axes)
        # An odd axis comes back one voxel longer.
        cropped: Array = fused[tuple(slice(n) for n in a.shape)]
        return cropped

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return with_numpy(self._fuse, a, b)
