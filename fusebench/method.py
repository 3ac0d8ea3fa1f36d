"""The fusion method contract: `MethodInfo` (what it is), `Method` (3D) and `SliceMethod` (2D)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from .arrays import grey
from .errors import InputError
from .method_info import MethodInfo as MethodInfo
from .method_info import Weights as Weights
from .store.contents import files_named


class Method:
    """Base of all fusion methods.  A plugin sets `info` and overrides `fuse`.

    Constructor arguments are the method's parameters; store each under its own name (as scikit-learn
    estimators do), so that `parameters` and the content key see them.

    A learned method names its training recipes in `recipes`: name -> ``"module:Class"``, the module
    absolute, relative to the plugin's package (leading dot) or empty (the plugin's own file).  The first
    is the default.

    Attributes
    ----------
    info : MethodInfo
        Facts of the method at its defaults, a literal.
    variants : mapping
        Named settings, ``{variant: {parameter: value}}``, written in the class as a dict with literal keys.
        Each is an entry of its own on the board, ``name@variant``.
    default_variant : str
        The variant that the plain name stands for; "" where the plain name is an entry of its own.
    variant_facts : mapping
        Fields of `info` that are others in a variant, ``{variant: {field: value}}``, in literals as well:
        ``{"large": {"cost": 12.0}}``.  `describe` has to say the same.
    unlisted_variants : tuple of str
        Variants that ``--methods all`` and wildcards pass over, since they need a file of the user's.
    progress : callable, optional
        Called by a method that fuses part after part (slices, tiles) with the parts done and of all.
    """

    info: ClassVar[MethodInfo]
    recipes: ClassVar[Mapping[str, str]] = {}
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    variant_facts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    default_variant: ClassVar[str] = ""
    unlisted_variants: ClassVar[tuple[str, ...]] = ()
    device: torch.device = torch.device("cpu")
    progress: Callable[[int, int], object] | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("fuse", "fuse_slices"):
            if callable(given := vars(cls).get(name)):
                setattr(cls, name, _of_arrays(given))

    def setup(self, device: torch.device | str = "cpu") -> None:
        """Load weights and move to `device`.  Called once before `fuse`."""
        self.device = torch.device(device)

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse one pair.

        A plugin gets tensors; called with NumPy arrays, as in a notebook, this returns one.

        Parameters
        ----------
        a, b : Tensor, shape (D, H, W), float32 in [0, 1], on `self.device`
            Structural and functional image.  They must not be changed.

        Returns
        -------
        Tensor, shape (D, H, W), float32 in [0, 1]
        """
        raise NotImplementedError

    def describe(self) -> MethodInfo:
        """Facts of this instance: `info`, and what its parameters change in it, the weights above all.

        By default, the `variant_facts` of the variant whose parameters are set.
        """
        for variant, facts in self.variant_facts.items():
            if all(getattr(self, name, None) == value for name, value in self.variants[variant].items()):
                return replace(self.info, **facts)
        return self.info

    def files(self) -> Sequence[Path]:
        """Files besides the source that decide what `fuse` returns: weights, and those that parameters name.

        Of a folder that a parameter names all count.  Override it for files that no parameter and no text of
        the source names.
        """
        parameters = dict(self.parameters())
        given = parameters.pop("weights", None)  # a method of that name, as of `pca`, is no file
        others = [file for value in parameters.values() for file in files_named(value)]
        if given:
            return [Path(str(given)), *others]
        shipped = self.describe().weights
        beside = Path(inspect.getfile(type(self))).parent
        return [beside / shipped.file, *others] if shipped else others

    def parameters(self) -> Mapping[str, Any]:
        """The constructor's arguments as they are set."""
        names = inspect.signature(type(self).__init__).parameters
        return {n: getattr(self, n) for n in names if n != "self" and hasattr(self, n)}

    def __repr__(self) -> str:
        """The call that makes it: parameters that differ from their defaults."""
        known = inspect.signature(type(self).__init__).parameters
        given = {n: v for n, v in self.parameters().items() if repr(v) != repr(known[n].default)}
        info = getattr(self, "info", None)
        words = [repr(info.name if info else type(self).__name__), *(f"{n}={v!r}" for n, v in given.items())]
        return f"create_method({', '.join(words)})"


def _of_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """`fuse` or `fuse_slices` for tensors as it is, and for arrays, of which it makes an array."""

    @wraps(function)
    def call(self: Method, *images: Any) -> Any:
        if all(isinstance(x, Tensor) for x in images):
            return function(self, *images)
        arrays = [grey(x, name) for x, name in zip(images, "ab", strict=False)]
        out = function(self, *(torch.tensor(x, device=self.device) for x in arrays))
        return out.detach().cpu().numpy()

    return call


class SliceMethod(Method):
    """Base of 2D methods: a plugin overrides `fuse_slices`; the core runs it over a volume.

    Attributes
    ----------
    planes : {"axial", "coronal", "sagittal", "tri"}
        Slicing direction of `fuse`; "tri" averages the three.
    batch_pixels : int
        Slices are batched up to about this many pixels at a time; on a GPU 16 times as many, and
        fewer where its memory runs out.
    """

    planes: str = "axial"
    batch_pixels: int = 1 << 18

    _AXES: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "axial": (0,),
        "coronal": (1,),
        "sagittal": (2,),
        "tri": (0, 1, 2),
    }

    def fuse_slices(self, a: Tensor, b: Tensor) -> Tensor:
        """Fuse slices, each independently of the others.

        Parameters
        ----------
        a, b : Tensor, shape (N, 1, H, W), float32 in [0, 1]

        Returns
        -------
        Tensor, shape (N, 1, H, W), float32 in [0, 1]
        """
        raise NotImplementedError

    @property
    def by_axial_slice(self) -> bool:
        """True if `fuse` makes each axial slice from that slice of the inputs alone."""
        return self.planes == "axial" and type(self).fuse is SliceMethod.fuse

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        if a.ndim != 3 or a.shape != b.shape or not a.numel():
            raise InputError(
                f"{self.info.name}: two volumes (D, H, W) of one shape are needed, "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        # A 2D image (D = 1) has one plane only, whatever `planes` says.
        axes = (0,) if a.shape[0] == 1 else self._AXES[self.planes]
        out = torch.zeros_like(a, dtype=torch.float32)
        done, total = 0, sum(a.shape[axis] for axis in axes)
        for axis in axes:
            sa, sb = (x.movedim(axis, 0).unsqueeze(1) for x in (a, b))
            parts = []
            for stop, part in self._batches(sa, sb):
                parts.append(part)
                if self.progress:
                    self.progress(done + stop, total)
            done += len(sa)
            out += torch.cat(parts).squeeze(1).movedim(0, axis)
        return out / len(axes)

    def _batches(self, a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Fused batches of slices (N, 1, H, W), each with the index at which it stops."""
        pixels = self.batch_pixels * (16 if a.is_cuda else 1)
        step = max(1, pixels // max(1, a.shape[-1] * a.shape[-2]))
        start = 0
        while start < len(a):
            stop = min(start + step, len(a))
            try:
                part = self.fuse_slices(a[start:stop].contiguous(), b[start:stop].contiguous())
            except torch.OutOfMemoryError:
                step = (stop - start) // 2
                if not step:
                    raise
                continue
            wanted = (stop - start, *a.shape[1:])
            if tuple(part.shape) != wanted:  # adding up planes would stretch a smaller one in silence
                raise InputError(
                    f"{self.info.name}: fuse_slices returned shape {tuple(part.shape)} "
                    f"for input shape {wanted}"
                )
            yield stop, part
            start = stop
