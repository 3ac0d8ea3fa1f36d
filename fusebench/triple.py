"""`Triple`: two sources and one fused image, validated, on the 8-bit scale, with shared intermediates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

T = TypeVar("T")

# Networks overshoot [0, 1] by rounding; more than this is a wrong range.
_SLACK = 1e-4
# A float32 k/255 comes back as k plus at most 2e-5: it is put on k, so that uint8 and float inputs agree.
_SNAP = 5e-5
# Pixels worked on at once where a batch of slices is scored: bounds memory and stays near the cache.
_CHUNK = 1 << 19


class Triple:
    """What every metric works on.

    Attributes
    ----------
    images : Tensor, shape (3, N, H, W) or (3, N, D, H, W)
        Structural, functional, fused; values 0..255.  float64 in 2D, float32 in 3D.
    a, b, fused : Tensor, shape (N, H, W) or (N, D, H, W)
        Views of `images`.
    mask : Tensor of bool or None
        Foreground, same shape.
    scale : tuple of float
        Per axis, how many voxels make one voxel of the finest axis: a filter of sigma voxels has
        ``sigma * scale`` along that axis.  All 1 on isotropic grids and in 2D.
    truth : mapping or None
        Ground truth by name.
    """

    def __init__(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        scale: tuple[float, ...] | None = None,
        truth: Mapping[str, Any] | None = None,
    ) -> None:
        self.images = images
        self.a, self.b, self.fused = images
        self.mask = mask
        self.dims = self.a.ndim - 1
        self.scale = scale or (1.0,) * self.dims
        self.truth = truth
        self._cache: dict[Any, Any] = {}

    @classmethod
    def make(
        cls,
        a: Any,
        b: Any,
        fused: Any,
        *,
        mask: Any = None,
        spacing: Sequence[float] | None = None,
        truth: Mapping[str, Any] | None = None,
        batch: bool = False,
    ) -> Triple:
        """Check the inputs and put them on the 8-bit scale.

        Parameters
        ----------
        a, b, fused, mask, spacing, truth
            As in `fusebench.metric.Metric.__call__`.
        batch : bool
            The inputs are (N, H, W), N independent 2D images.

        Raises
        ------
        InputError
            See `fusebench.metric.Metric.__call__`.
        """
        given = {"a": a, "b": b, "fused": fused}
        device = next((x.device for x in given.values() if isinstance(x, Tensor)), torch.device("cpu"))
        planes = {name: _tensor(x, name).to(device) for name, x in given.items()}
        shape = planes["a"].shape
        for name, plane in planes.items():
            if plane.shape != shape:
                raise InputError(
                    f"{name} has shape {tuple(plane.shape)} but a has {tuple(shape)}; resample to one grid"
                )
        if len(shape) not in ((3,) if batch else (2, 3)) or min(shape, default=0) < 1:
            wanted = "(N, H, W)" if batch else "(H, W) or (D, H, W)"
            raise InputError(f"images of shape {tuple(shape)} cannot be scored; the shape is {wanted}")
        flat = batch or len(shape) == 2 or shape[0] == 1
        view = shape if len(shape) == 3 and flat else (1, *shape)
        dtype = torch.float64 if flat else torch.float32
        region = None if mask is None else _region(mask, shape).to(device).reshape(view)
        images = torch.empty(3, *shape, dtype=dtype, device=device)
        for out, (name, plane) in zip(images, planes.items(), strict=True):
            _put(plane, name, out)
        return cls(
            images.view(3, *view),
            mask=region,
            scale=None if flat or spacing is None else _axis_scale(spacing),
            truth=truth,
        )

    def __len__(self) -> int:
        return len(self.a)

    @property
    def shape(self) -> tuple[int, ...]:
        """Spatial shape."""
        return tuple(self.a.shape[1:])

    def image(self, name: str) -> Tensor:
        """``a``, ``b`` or ``fused`` by name."""
        return getattr(self, name)  # type: ignore[no-any-return]

    def cached(self, key: Any, make: Callable[[], T]) -> T:
        """Value of ``make()``, computed once per triple and key."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]  # type: ignore[no-any-return]

    # -- point-wise views ------------------------------------------------------------------------

    def points(self, name: str) -> Tensor:
        """Voxels of an image as ``(N, P)``: inside the mask where N is 1, else all, see `weights`."""
        return self.stacked[("a", "b", "fused").index(name)]

    @property
    def stacked(self) -> Tensor:
        """`points` of all three images, ``(3, N, P)``."""
        return self.cached("stacked", lambda: self._gather(self.images))

    def pick(self, x: Tensor) -> Tensor:
        """A map ``(N, *shape)`` as ``(N, P)``, as `points`."""
        return self._gather(x[None])[0]

    def _gather(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        if self.mask is None or len(self) > 1:
            return x
        where = self.cached("where", lambda: self.mask.flatten().nonzero()[:, 0])  # type: ignore[union-attr]
        return x.index_select(2, where)

    @property
    def weights(self) -> Tensor | None:
        """Weights ``(N, P)`` of `points`; None where all count."""
        if self.mask is None or len(self) == 1:
            return None
        return self.cached("weights", lambda: self.mask.flatten(1).double())  # type: ignore[union-attr]

    def mean(self, x: Tensor) -> Tensor:
        """Mean ``(N,)`` in float64 over the foreground of point-wise values ``(N, P)``."""
        w = self.weights
        if w is None:
            return x.mean(1, dtype=torch.float64)
        return (x * w).sum(1) / w.sum(1)

    # -- maps of windows -------------------------------------------------------------------------

    def crop(self, margin: Sequence[int], step: int = 1) -> Triple:
        """Sub-triple around the mask: what windows of radius `margin` centred in it can see.

        Scores inside the mask are exactly those of the whole image.  The crop starts at a multiple of
        `step`, so that decimation by `step` keeps its phase.
        """
        if self.mask is None:
            return self
        return self.cached(("crop", tuple(margin), step), lambda: self._crop(tuple(margin), step))

    def _crop(self, margin: tuple[int, ...], step: int) -> Triple:
        assert self.mask is not None
        box: list[slice] = [slice(None)]
        for axis, n in enumerate(self.shape):
            others = [k for k in range(self.mask.ndim) if k != axis + 1]
            inside = self.mask.any(dim=others).nonzero()[:, 0]
            first, last = int(inside[0]) - margin[axis], int(inside[-1]) + margin[axis] + 1
            box.append(slice(max(0, first) // step * step, min(n, last)))
        if all(b.start == 0 and b.stop == n for b, n in zip(box[1:], self.shape, strict=True)):
            return self
        at = tuple(box)
        return Triple(
            self.images[(slice(None), *at)].contiguous(), self.mask[at].contiguous(), self.scale, self.truth
        )

    def inner(self, margin: Sequence[int]) -> Tensor | None:
        """The mask where windows of radius `margin` fit, None where all count.

        An image whose mask lies wholly in the border is averaged over all its windows.
        """

        def make() -> Tensor | None:
            if self.mask is None:
                return None
            at = tuple(slice(m, n - m) for m, n in zip(margin, self.shape, strict=True))
            inside = self.mask[(slice(None), *at)]
            empty = ~inside.flatten(1).any(1)
            return inside | empty.view(-1, *[1] * self.dims)

        return self.cached(("inner", tuple(margin)), make)

    def map_sum(self, x: Tensor, margin: Sequence[int]) -> Tensor:
        """Sum ``(N,)`` in float64 of a map of windows of radius `margin`, inside the mask."""
        inside = self.inner(margin)
        if inside is None:
            return x.flatten(1).sum(1, dtype=torch.float64)
        if len(self) == 1:
            return x[inside].sum(dtype=torch.float64)[None]
        return torch.where(inside, x, 0).flatten(1).sum(1, dtype=torch.float64)

    def map_mean(self, x: Tensor, margin: Sequence[int]) -> Tensor:
        """Mean ``(N,)`` in float64 of a map of windows of radius `margin`, inside the mask."""
        inside = self.inner(margin)
        if inside is None:
            return x.flatten(1).mean(1, dtype=torch.float64)
        return self.map_sum(x, margin) / inside.flatten(1).sum(1)

    # -- slices and chunks -----------------------------------------------------------------------

    def foreground(self) -> Tensor:
        """Indices of the images of the batch that hold foreground."""
        if self.mask is None:
            return torch.arange(len(self), device=self.a.device)
        return self.mask.flatten(1).any(1).nonzero()[:, 0]

    def chunks(self, rows: Tensor) -> Iterator[tuple[Tensor, Triple]]:
        """Yield (rows, sub-triple) over the images `rows` of the batch, a few at a time."""
        count = max(1, _CHUNK // max(1, self.a[0].numel()))
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            if len(part) == len(self):
                yield part, self
                continue
            mask = None if self.mask is None else self.mask[part]
            yield part, Triple(self.images[:, part], mask, self.scale, self.truth)

    def slice_mean(self, core: Callable[[Triple], Tensor]) -> Tensor:
        """Mean of a 2D metric over the axial slices that hold foreground: ``(1,)``."""
        return torch.cat([core(chunk) for chunk in self._slices()]).mean(0, keepdim=True)

    def _slices(self) -> list[Triple]:
        def make() -> list[Triple]:
            stack = Triple(self.images[:, 0].double(), None if self.mask is None else self.mask[0])
            return [chunk for _, chunk in stack.chunks(stack.foreground())]

        return self.cached("slices", make)


def _tensor(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor):
        return x.detach()
    try:
        array = np.asarray(x)
        if not array.flags.writeable or any(s < 0 for s in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}".splitlines()[0]) from None


def _put(x: Tensor, name: str, out: Tensor) -> None:
    """Check an image and write it to `out` on the 8-bit scale."""
    if x.dtype == torch.uint8:
        out.copy_(x)
        return
    if not x.dtype.is_floating_point:
        raise InputError(f"{name} is {x.dtype}; give uint8, or floats scaled to [0, 1]".replace("torch.", ""))
    low, high = (float(v) for v in x.aminmax())
    # NaN compares false with everything, so this refuses it as well.
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        if np.isfinite(low) and np.isfinite(high):
            raise InputError(
                f"{name} has values from {low:.4g} to {high:.4g}, expected [0, 1]; "
                "scale it, or give 8-bit data as uint8"
            )
        raise InputError(f"{name} has values that are not finite; replace NaN and inf first")
    out.copy_(x).mul_(255).clamp_(0, 255)
    whole = out.round()
    torch.where((out - whole).abs_() < _SNAP, whole, out, out=out)


def _region(mask: Any, shape: tuple[int, ...]) -> Tensor:
    region = _tensor(mask, "mask")
    if region.shape != shape:
        raise InputError(f"mask has shape {tuple(region.shape)} but the images have {tuple(shape)}")
    if region.dtype != torch.bool:
        region = region > 0
    if not bool(region.any()):
        raise InputError("mask is empty; there is no foreground to score")
    return region


def _axis_scale(spacing: Sequence[float]) -> tuple[float, ...]:
    sizes = [float(s) for s in spacing]
    if len(sizes) != 3 or not all(np.isfinite(s) and s > 0 for s in sizes):
        raise InputError(f"spacing {tuple(spacing)} is not three positive numbers (D, H, W)")
    finest = min(sizes)
    # Header rounding must not turn an isotropic grid into an anisotropic one.
    return tuple(1.0 if s < 1.01 * finest else finest / s for s in sizes)
