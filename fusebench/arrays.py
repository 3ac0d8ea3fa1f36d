"""Arrays as people hold them, made plain: the one place that takes views, byte orders and masked arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

# Networks overshoot [0, 1] by rounding; more than this is a wrong range.
OVERSHOOT = 1e-4


def plain(x: Any, name: str) -> NDArray[Any]:
    """An array in native byte order and without negative strides; `x` itself where it is one.

    Parameters
    ----------
    x : array, tensor on any device, or nested lists of numbers
    name : str
        What it is, for messages.

    Raises
    ------
    InputError
        `x` makes no array, or is a masked array that hides values: nothing here would see its mask.
    """
    if isinstance(x, np.ma.MaskedArray):
        hidden = int(np.count_nonzero(np.ma.getmaskarray(x)))
        if hidden:
            raise InputError(
                f"{name} is a masked array that hides {hidden} of {x.size} values; give its data, and where "
                "it is visible as the mask: mask=~x.mask"
            )
        x = x.data
    if hasattr(x, "detach"):  # a tensor; this module is imported where torch is not
        x = x.detach().cpu()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        out: NDArray[Any] = np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}".splitlines()[0]) from None
    if out.dtype.kind == "f" and out.dtype.itemsize > 8:
        out = out.astype(np.float64)  # torch has no longer one
    if not out.dtype.isnative:
        out = out.astype(out.dtype.newbyteorder("="))
    return out.copy() if any(s < 0 for s in out.strides) else out


def grey(x: Any, name: str) -> NDArray[np.float32]:
    """Intensities as contiguous float32; of another floating type they are converted.

    Raises
    ------
    InputError
        See `plain`; or whole numbers, whose scale nobody knows.
    """
    out = plain(x, name)
    if out.dtype.kind != "f":
        raise InputError(f"{name} holds {out.dtype}; give floats in [0, 1], that is, scale it first")
    return (
        out if out.dtype == np.float32 and out.flags.c_contiguous else np.ascontiguousarray(out, np.float32)
    )


def region(x: Any, name: str = "mask") -> NDArray[np.bool_]:
    """A mask as bool: True where a number is above 0, so that NaN is outside.

    Raises
    ------
    InputError
        See `plain`; or neither bool nor real numbers.
    """
    out = plain(x, name)
    if out.dtype.kind not in "biuf":
        raise InputError(f"{name} is {out.dtype}; give bool, or numbers above 0 inside")
    return out if out.dtype == np.bool_ else out > 0
