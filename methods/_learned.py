"""The base of the learned 2D methods: constructor, weights, input checks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from fusebench.errors import InputError
from fusebench.method import MethodInfo, SliceMethod

from ._precision import full_precision
from ._weights import Layout, load_weights, with_weights

Choice = TypeVar("Choice", str, bool)


class LearnedSliceMethod(SliceMethod):
    """A 2D network with shipped weights, that also runs a file of the authors.

    Parameters
    ----------
    weights : str, optional
        A weights file: ours, or the published one; None is the shipped one.
    compat : bool
        Reproduce the authors' program, bugs included; each method says what that means.
    planes : {"axial", "coronal", "sagittal", "tri"}
        Slicing direction in volumes.
    fast : bool
        Take all shortcuts that change a result by no more than rounding: a faster form of the network on a
        CPU where there is one (`_fast`), black borders left out, black slices fused once.  False: the plain
        network on whole slices, on every device.

    Attributes
    ----------
    network : Module
    quick : object or None
        The faster form in use; set by `setup`.
    """

    # Pixels from what is not black at which black gives the same value everywhere; 0 where there is no such.
    reach: int = 0
    network: nn.Module
    quick: Any = None
    layouts: ClassVar[Sequence[Layout]] = ()

    def published(self) -> Sequence[Layout]:
        """Layouts of the published files that fit the network as it is set."""
        return self.layouts

    def __init__(
        self, weights: str | None = None, compat: bool = False, planes: str = "axial", fast: bool = True
    ) -> None:
        self.planes = choose("planes", planes, ("axial", "coronal", "sagittal", "tri"))
        self.weights, self.compat = weights, choose("compat", compat, (True, False))
        self.fast = choose("fast", fast, (True, False))
        self.origin = ""
        if weights is not None:  # before the run: a wrong file ends it, and the board says whose they are
            self.origin = load_weights(self.build(), weights, self.published())

    def describe(self) -> MethodInfo:
        info = with_weights(self.info, self.weights, self.origin) if self.weights else self.info
        return info if self.fast else replace(info, notes="the plain network on every device (fast=False)")

    def build(self) -> nn.Module:
        """A fresh network."""
        raise NotImplementedError

    def setup(self, device: torch.device | str = "cpu") -> None:
        """Load the weights and move them to `device`."""
        super().setup(device)
        self.network = self.build()
        self.origin = load_weights(self.network, self.weights or self._shipped(), self.published())
        self.network.to(self.device).eval().requires_grad_(False)
        self.quick = self.faster() if self.fast and self.device.type == "cpu" else None

    def faster(self) -> Any:
        """Make the faster form of `network` on a CPU; None where there is none."""
        return None

    def _shipped(self) -> Path:
        cls = type(self)
        if cls.info.weights is None:
            raise InputError(
                f"{cls.info.name} ships no weights; give a file with --weights {cls.info.name}=FILE"
            )
        return Path(inspect.getfile(cls)).parent / cls.info.weights.file

    def fuse_slices(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim != 4 or a.shape[1] != 1 or a.shape != b.shape:
            raise InputError(
                f"two stacks of slices (N, 1, H, W) are needed, got {tuple(a.shape)}, {tuple(b.shape)}"
            )
        if not a.numel():
            raise InputError(f"{self.info.name}: there is nothing to fuse in slices {tuple(a.shape)}")
        a, b = (x.to(self.device, torch.float32) for x in (a, b))
        if not (a.isfinite().all() and b.isfinite().all()):
            raise InputError(
                f"{self.info.name}: an input holds NaN or infinite values; clean the images first"
            )
        with torch.inference_mode(), full_precision():
            if not self.fast:
                fused = self.run(a, b)
            elif self.reach and not at_once(a):
                fused = self._run_content(a, b)
            else:
                fused = self._run_distinct(a, b)
        return fused.clamp(0, 1)

    def _run_content(self, a: Tensor, b: Tensor) -> Tensor:
        """`run` on the box around what is not black; beyond its reach lies what black gives."""
        black = a.new_zeros(1, 1, 4, 4)
        fused = torch.empty_like(a)
        fused[:] = self.run(black, black)[..., :1, :1]
        for x, y, out in zip(a, b, fused, strict=True):
            box = content_box(x[0], y[0], self.reach)
            if box is not None:
                out[:, *box] = self.run(x[None, :, *box], y[None, :, *box])[0]
        return fused

    def _run_distinct(self, a: Tensor, b: Tensor) -> Tensor:
        """`run`, once for all slices that are black in both images: a third of a head volume."""
        black = ~(a.flatten(1).any(1) | b.flatten(1).any(1))
        if black.sum() < 2:
            return self.run(a, b)
        kept = ~black
        kept[black.nonzero()[0, 0]] = True
        where = kept.cumsum(0) - 1
        where[black] = where[black.nonzero()[0, 0]].clone()
        return self.run(a[kept], b[kept])[where]

    def run(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse checked slices (N, 1, H, W); the result is clipped to [0, 1] afterwards."""
        raise NotImplementedError


def at_once(x: Tensor) -> bool:
    """True if slices go through a network as one batch, which fills a GPU; a CPU is faster one by one."""
    return x.is_cuda


def content_box(a: Tensor, b: Tensor, margin: int = 0) -> tuple[slice, slice] | None:
    """Box of what is not black in both images (H, W), and `margin` pixels more; None: all is black."""
    content = a.abs() + b.abs()
    where = [torch.nonzero(content.amax(axis)) for axis in (1, 0)]
    if not len(where[0]):
        return None
    rows, columns = (slice(max(int(i[0]) - margin, 0), int(i[-1]) + 1 + margin) for i in where)
    return rows, columns


def stretch(images: Tensor) -> Tensor:
    """Each of (N, 1, H, W) to its own range; constant ones as they are."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp_min(1e-12), images)


def choose(what: str, value: Choice, known: Sequence[Choice]) -> Choice:
    """Return `value`, refuse one that is not among the `known` ones."""
    if value not in known:
        raise InputError(f"{what}={value!r} is not known; choose one of {', '.join(map(str, known))}")
    return value
