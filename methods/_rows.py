"""Networks on a CPU some rows at a time: what a layer gives is in the cache when the next one takes it.

Images are (H, W, C), which the processor's libraries convolve and multiply faster than (C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from . import _packed

# Numbers of an image that go through the layers together, a compromise of cache and calls.
_NUMBERS = 1 << 17


def windows(
    make: Callable[[int, int], Tensor], shape: Sequence[int], reflect: bool, numbers: int = _NUMBERS
) -> Iterator[tuple[int, int, Tensor]]:
    """Go down an image in steps of some rows, for 3x3 convolutions.

    Parameters
    ----------
    make : callable
        (start, stop) to rows (stop - start, W, C), perhaps none; asked for every row once, in order.
    shape : (H, W, C)
        Of the image; the more channels, the fewer rows.
    reflect : bool
        Reflected borders, repeated along an axis of one pixel; else zeros.
    numbers : int
        How many of the image are in one step.

    Yields
    ------
    start, stop : int
    rows : Tensor, shape (stop - start + 2, W + 2, C)
        What `make` gave, with a pixel around it.
    """
    height, width, depth = shape
    step = max(1, numbers // (width * depth))
    kept = None
    for start in range(0, height, step):
        stop = min(start + step, height)
        first, last = 0 if kept is None else start + 1, min(stop + 1, height)
        new = make(first, last)
        rows = new.new_empty(stop - start + 2, width + 2, new.shape[-1])
        inner = rows[:, 1:-1]
        inner[first - start + 1 : last - start + 1] = new
        if kept is not None:
            inner[:2] = kept
        for edge, at, back in ((0, start == 0, 1), (-1, stop == height, -1)):
            if at:
                inner[edge] = inner[edge + back * (2 if height > 1 else 1)] if reflect else 0
        kept = inner[-2:]
        for edge, back in ((0, 1), (-1, -1)):
            rows[:, edge] = rows[:, edge + back * (2 if width > 1 else 1)] if reflect else 0
        yield start, stop, rows


def handed_on(strips: Iterator[Tensor]) -> Callable[[int, int], Tensor]:
    """A `make` for `windows` out of the rows (n, W, C) that another layer gives, some at a time."""
    left: list[Tensor] = []

    def make(start: int, stop: int) -> Tensor:
        wanted = stop - start
        while sum(map(len, left)) < wanted:
            left.append(next(strips))
        rows = torch.cat(left) if len(left) > 1 else left[0]
        left[:] = [rows[wanted:]]
        return rows[:wanted]

    return make


def convolve(
    rows: Tensor, kernel: Tensor, groups: int = 1, bias: Tensor | None = None, stride: int = 1
) -> Tensor:
    """3x3 convolution without borders, (H + 2, W + 2, inputs) to (H, W, outputs)."""
    # Strides as of a batch, or torch does not see that channels come last.
    rows = rows[None].movedim(-1, 1)
    return _packed.conv2d(rows, kernel, bias, groups, stride).movedim(1, -1)[0]


def convolve_image(x: Tensor, kernel: Tensor, bias: Tensor | None = None, reflect: bool = False) -> Tensor:
    """3x3 convolution of an image (H, W, inputs) to (H, W, outputs)."""
    strips = windows(lambda i, j: x[i:j], x.shape, reflect)
    return torch.cat([convolve(rows, kernel, bias=bias) for *_, rows in strips])


def in_turn(layers: Iterable[Callable[[Tensor], Tensor]], x: Tensor) -> Tensor:
    """Apply `layers` one after another."""
    for layer in layers:
        x = layer(x)
    return x
