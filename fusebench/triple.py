"""`Triple`: two sources and one fused image, validated, on the 8-bit scale, with shared intermediates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .arrays import region
from .errors import InputError
from .levels import planes_of, stack_levels

T = TypeVar("T")
Shared = dict[Any, Any]

_NAMES = ("a", "b", "fused")

# Images that are smaller than this never fill the memory.
_SMALL = 1 << 20
# `Triple.trim` keeps so many bytes, or so many maps of the size of an image.
_KEPT_BYTES, _KEPT_MAPS = 1 << 29, 12
# Larger images make the intermediates of their sources anew for every fused image.
_SHARED = 1 << 22
# Pixels worked on at once where a batch of slices is scored: bounds memory and stays near the cache.
_CHUNK = 1 << 19


class Triple:
    """The two sources and the fused image on which every metric works.

    Parameters
    ----------
    given : Tensor, shape (3, N, H, W) or (3, N, D, H, W)
        Structural, functional, fused; values 0..255: uint8 where all are whole numbers, else floating.
    mask : Tensor of bool, optional
        Foreground, shape (N, H, W) or (N, D, H, W).
    scale : tuple of float, optional
        Per axis, how many voxels make one voxel of the finest axis: a filter of sigma voxels has
        ``sigma * scale`` along that axis.  All 1 on isotropic grids and in 2D.
    truth : mapping, optional
        Ground truth by name.
    sources : dict, optional
        What `of_sources` has made; may be that of another fused image of the same sources and mask.

    Attributes
    ----------
    images : Tensor, shape as `given`
        float64 in 2D, float32 in 3D.
    a, b, fused : Tensor, shape (N, H, W) or (N, D, H, W)
        Views of `images`.
    whole : bool
        All values are whole numbers: 8-bit images, given as bytes or as floats.
    """

    def __init__(
        self,
        given: Tensor,
        mask: Tensor | None = None,
        scale: tuple[float, ...] | None = None,
        truth: Mapping[str, Any] | None = None,
        sources: Shared | None = None,
    ) -> None:
        self.given = given
        self.mask = mask
        self.dims = given.ndim - 2
        self.shape = tuple(given.shape[2:])
        self.device = given.device
        self.whole = given.dtype == torch.uint8
        self.scale = scale or (1.0,) * self.dims
        self.truth = truth
        self._cache: dict[Any, Any] = {}
        self._sources = sources

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
        sources: Shared | None = None,
    ) -> Triple:
        """Check the inputs and put them on the 8-bit scale.

        Parameters
        ----------
        a, b, fused, mask, spacing, truth
            As in `fusebench.metric.Metric.__call__`.
        batch : bool
            The inputs are (N, H, W), N independent 2D images.
        sources : dict, optional
            Kept by the caller for all fused images of the same `a`, `b`, `mask`, `spacing` and `truth`, of
            which intermediates of the sources are made once.  Large images make no use of it.

        Raises
        ------
        InputError
            See `fusebench.metric.Metric.__call__`.
        """
        planes = planes_of({"a": a, "b": b, "fused": fused})
        shape = tuple(planes["a"].shape)
        for name, plane in planes.items():
            if tuple(plane.shape) != shape:
                raise InputError(
                    f"{name} has shape {tuple(plane.shape)} but a has {shape}; resample to one grid"
                )
        if len(shape) not in ((3,) if batch else (2, 3)) or min(shape, default=0) < 1:
            wanted = "(N, H, W)" if batch else "(H, W) or (D, H, W)"
            raise InputError(f"images of shape {shape} cannot be scored; the shape is {wanted}")
        flat = batch or len(shape) == 2 or shape[0] == 1
        view = shape if len(shape) == 3 and flat else (1, *shape)
        given = stack_levels(planes, torch.float64 if flat else torch.float32).view(3, *view)
        if sources is not None:
            small = given[0].numel() <= _SHARED
            sources = sources.setdefault(given.dtype, {}) if small else None
        return cls(
            given,
            mask=None if mask is None else _region(mask, shape).to(given.device).reshape(view),
            scale=None if flat or spacing is None else _axis_scale(spacing),
            truth=truth,
            sources=sources,
        )

    def __len__(self) -> int:
        return self.given.shape[1]

    def __enter__(self) -> Triple:
        return self

    def __exit__(self, *_: object) -> None:
        # Intermediates refer to their triple: without this, memory is held until garbage is looked for.
        self._cache.clear()

    @property
    def images(self) -> Tensor:
        """All three images, floating."""
        if not self.whole:
            return self.given
        # Volumes would need twice the memory in float64.
        dtype = torch.float64 if self.dims == 2 else torch.float32
        return self.cached("images", lambda: self.given.to(dtype))

    @property
    def a(self) -> Tensor:
        """Structural image."""
        return self.images[0]

    @property
    def b(self) -> Tensor:
        """Functional image."""
        return self.images[1]

    @property
    def fused(self) -> Tensor:
        """Fused image."""
        return self.images[2]

    def image(self, name: str) -> Tensor:
        """``a``, ``b`` or ``fused`` by name."""
        return self.images[_NAMES.index(name)]

    def cached(self, key: Any, make: Callable[[], T]) -> T:
        """Value of ``make()``, computed once per triple and key."""
        value = self._cache.pop(key) if key in self._cache else make()
        # Back at the end: `trim` drops what was used longest ago.
        self._cache[key] = value
        return value  # type: ignore[no-any-return]

    def of_sources(self, key: Any, make: Callable[[], T]) -> T:
        """`cached`, of what depends on sources, mask and truth alone; nothing may write to it."""
        if self._sources is None:
            return self.cached(key, make)
        if key not in self._sources:
            self._sources[key] = make()
        return self._sources[key]  # type: ignore[no-any-return]

    def of_image(self, name: str, key: Any, make: Callable[[], T]) -> T:
        """`cached` of what depends on the fused image, `of_sources` of what depends on one source alone."""
        return (self.cached if name == "fused" else self.of_sources)(key, make)

    def shared_with(self, key: Any) -> Shared | None:
        """The `sources` of a triple that is made of this one in the way that `key` names."""
        return None if self._sources is None else self._sources.setdefault(("part", key), {})

    def trim(self) -> None:
        """Drop the intermediates of large images that were used longest ago, beyond a fixed amount."""
        if self.given[0].numel() < _SMALL:
            return
        room = max(_KEPT_BYTES, _KEPT_MAPS * 4 * self.given[0].numel())
        seen: set[int] = {self.given.untyped_storage().data_ptr(), id(self)}
        for key in reversed(list(self._cache)):
            room -= _size(self._cache[key], seen)
            if room < 0:
                room += _size(self._cache.pop(key), set())

    # -- point-wise views ------------------------------------------------------------------------

    def points(self, name: str) -> Tensor:
        """Voxels of an image as ``(N, P)``: inside the mask where N is 1, else all, see `weights`."""
        return self.cached("points", lambda: self._gather(self.images))[_NAMES.index(name)]

    @property
    def given_points(self) -> Tensor:
        """Voxels of all three images ``(3, N, P)``, uint8 where they are whole, see `points`."""
        return self.cached("given points", lambda: self._gather(self.given))

    def pick(self, x: Tensor) -> Tensor:
        """A map ``(N, *shape)`` as ``(N, P)``, as `points`."""
        return self._gather(x[None])[0]

    def _gather(self, x: Tensor) -> Tensor:
        x = x.flatten(2)
        if self.mask is None or len(self) > 1:
            return x
        where = self.of_sources("where", lambda: self.mask.flatten().nonzero()[:, 0])  # type: ignore[union-attr]
        # Image by image: along the last of several axes it takes twenty times as long.
        rows = [image.index_select(0, where) for image in x[:, 0]]
        return torch.stack(rows)[:, None]

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
            self.given[(slice(None), *at)].contiguous(),
            self.mask[at].contiguous(),
            self.scale,
            self.truth,
            self.shared_with(("crop", margin, step)),
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

        return self.of_sources(("inner", tuple(margin)), make)

    def map_sum(self, x: Tensor, margin: Sequence[int]) -> Tensor:
        """Sum ``(N,)`` in float64 of a map of windows of radius `margin`, inside the mask."""
        inside = self.inner(margin)
        if inside is None:
            return x.flatten(1).sum(1, dtype=torch.float64)
        if len(self) == 1:
            where = self.of_sources(("where", tuple(margin)), lambda: inside.flatten().nonzero()[:, 0])
            return x.flatten().index_select(0, where).sum(dtype=torch.float64)[None]
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
            return torch.arange(len(self), device=self.device)
        return self.mask.flatten(1).any(1).nonzero()[:, 0]

    def chunks(self, rows: Tensor) -> Iterator[tuple[Tensor, Triple]]:
        """Yield (rows, sub-triple) over the images `rows` of the batch, a few at a time."""
        count = max(1, _CHUNK // max(1, math.prod(self.shape)))
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            if len(part) == len(self):
                yield part, self
                continue
            mask = None if self.mask is None else self.mask[part]
            with Triple(self.given[:, part], mask, self.scale, self.truth) as chunk:
                yield part, chunk

    def slice_mean(self, core: Callable[[Triple], Tensor]) -> Tensor:
        """Mean of a 2D metric over the axial slices that hold foreground: ``(1,)``."""
        return torch.cat([core(chunk) for chunk in self.slices()]).mean(0, keepdim=True)

    def slices(self) -> Iterator[Triple]:
        """Batches of the axial slices that hold foreground."""
        stack = Triple(self.given[:, 0], None if self.mask is None else self.mask[0])
        for _, chunk in stack.chunks(stack.foreground()):
            with chunk if chunk.whole else Triple(chunk.given.double(), chunk.mask) as batch:
                yield batch


def _size(x: Any, seen: set[int]) -> int:
    """Bytes of the tensors that `x` refers to and that were not `seen` before."""
    if isinstance(x, Tensor):
        storage = x.untyped_storage()
        if storage.data_ptr() in seen:
            return 0
        seen.add(storage.data_ptr())
        return storage.nbytes()
    if id(x) in seen:
        return 0
    seen.add(id(x))
    if isinstance(x, Mapping):
        x = list(x.values())
    elif hasattr(x, "__dict__"):
        x = list(vars(x).values())
    return sum(_size(v, seen) for v in x) if isinstance(x, list | tuple) else 0


def _region(mask: Any, shape: tuple[int, ...]) -> Tensor:
    on_device = isinstance(mask, Tensor) and mask.device.type != "cpu"
    found = (mask if mask.dtype == torch.bool else mask > 0) if on_device else torch.tensor(region(mask))
    if found.shape != shape:
        raise InputError(f"mask has shape {tuple(found.shape)} but the images have {shape}")
    if not bool(found.any()):
        raise InputError("mask is empty; there is no foreground to score")
    return found


def _axis_scale(spacing: Sequence[float]) -> tuple[float, ...]:
    sizes = [float(s) for s in spacing]
    if len(sizes) != 3 or not all(np.isfinite(s) and s > 0 for s in sizes):
        raise InputError(f"spacing {tuple(spacing)} is not three positive numbers (D, H, W)")
    finest = min(sizes)
    # Header rounding must not turn an isotropic grid into an anisotropic one.
    return tuple(1.0 if s < 1.01 * finest else finest / s for s in sizes)
