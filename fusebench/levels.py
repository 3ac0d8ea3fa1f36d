"""Images put on the 8-bit scale: checked, and kept as bytes where all their levels are whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .arrays import OVERSHOOT, plain
from .errors import InputError

Plane = NDArray[Any] | Tensor

# A float32 k/255 comes back as k plus at most 2e-5: it is put on k, so that uint8 and float inputs agree.
_SNAP = 5e-5


def planes_of(given: Mapping[str, Any]) -> dict[str, Plane]:
    """NumPy arrays, whose calls cost less on small images; tensors where one lies on another device."""
    devices = (x.device for x in given.values() if isinstance(x, Tensor))
    device = next((d for d in devices if d.type != "cpu"), None)
    if device is None:
        return {name: plain(x, name) for name, x in given.items()}
    return {
        name: (x.detach() if isinstance(x, Tensor) else torch.tensor(plain(x, name))).to(device)
        for name, x in given.items()
    }


def stack_levels(planes: Mapping[str, Plane], dtype: torch.dtype) -> Tensor:
    """Images, checked, on the 8-bit scale as one tensor: bytes, or `dtype` where one is not whole.

    Raises
    ------
    InputError
        An image is of whole numbers other than bytes, out of range or not finite.
    """
    checked = [_checked(x, name) for name, x in planes.items()]
    if not all(whole for _, whole in checked):
        return torch.stack([_scaled(x, dtype) for x, _ in checked])
    images: Any = [x for x, _ in checked]
    return torch.stack(images) if isinstance(images[0], Tensor) else torch.from_numpy(np.array(images))


def _checked(x: Plane, name: str) -> tuple[Plane, bool]:
    """The image, as bytes where all its 8-bit levels are whole, and whether they are."""
    if x.dtype == (torch.uint8 if isinstance(x, Tensor) else np.uint8):
        return x, True
    kind = str(x.dtype).removeprefix("torch.")
    if "float" not in kind:
        raise InputError(f"{name} is {kind}; give uint8, or floats scaled to [0, 1]")
    low, high = float(x.min()), float(x.max())
    # NaN compares false with everything, so this refuses it as well.
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        if np.isfinite(low) and np.isfinite(high):
            raise InputError(
                f"{name} has values from {low:.4g} to {high:.4g}, expected [0, 1]; "
                "scale it, or give 8-bit data as uint8"
            )
        raise InputError(f"{name} has values that are not finite; replace NaN and inf first")
    levels = x * 255
    rest = levels - levels.round()
    if not max(float(rest.max()), -float(rest.min())) < _SNAP:
        return x, False
    levels -= rest
    return (levels.to(torch.uint8) if isinstance(levels, Tensor) else levels.astype(np.uint8)), True


def _scaled(x: Plane, dtype: torch.dtype) -> Tensor:
    """A checked image on the 8-bit scale, floating."""
    x = x if isinstance(x, Tensor) else torch.tensor(x)
    if x.dtype == torch.uint8:
        return x.to(dtype)
    out = x.to(dtype, copy=True).mul_(255).clamp_(0, 255)
    levels = out.round()
    return torch.where((out - levels).abs_() < _SNAP, levels, out)
