"""The data of one fusion: `Volume` (one image) and `Case` (one structural + functional pair, read lazily).

Axis order, once for the whole project: ``data[d, h, w]`` in RAS+, so ``w`` runs left to right, ``h``
posterior to anterior, ``d`` inferior to superior, and ``data[d]`` is an axial slice.  An affine is
nibabel's: 4x4, on voxel indices ``(x, y, z) = (w, h, d)``, giving millimetres.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import grey, region
from .errors import InputError
from .names import check_file_name, check_text, shown


@dataclass(frozen=True, eq=False)
class Volume:
    """One image.

    Parameters
    ----------
    data : ndarray, shape (D, H, W), float32
        Intensities in [0, 1].  A 2D image has ``D = 1``.  Other floating types, byte orders and views are
        converted; whole numbers and masked arrays that hide values are refused.
    affine : ndarray, shape (4, 4)
        Voxel indices (w, h, d) to millimetres, RAS+.
    intensity : tuple of float
        Original ``(low, high)``: ``original = low + data * (high - low)``.  Used to write back.
    chroma : ndarray, shape (2, D, H, W), uint8, optional
        Full-range BT.601 Cb and Cr of a colour image, carried for display and saving; `data` is then
        the plane that is fused.
    """

    data: NDArray[np.float32]
    affine: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    intensity: tuple[float, float] = (0.0, 1.0)
    chroma: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", grey(self.data, "the data of a volume"))
        if self.data.ndim != 3:
            raise InputError(f"a volume has 3 axes (D, H, W), got shape {self.data.shape}")
        object.__setattr__(self, "affine", _affine(self.affine))
        object.__setattr__(self, "intensity", _intensity(self.intensity))
        if self.chroma is not None and np.shape(self.chroma) != (2, *self.data.shape):
            raise InputError(f"chroma has shape {np.shape(self.chroma)}, not {(2, *self.data.shape)}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        d, h, w = self.data.shape
        return d, h, w

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, in the order (D, H, W)."""
        w, h, d = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(d), float(h), float(w)

    def __repr__(self) -> str:
        size, step = (" x ".join(f"{n:.3g}" for n in three) for three in (self.shape, self.spacing))
        return f"Volume({size}, {step} mm{', colour' if self.chroma is not None else ''})"


@dataclass(frozen=True, eq=False)
class Pair:
    """The loaded images of one case: `a` structural, `b` functional, `mask` foreground (bool).

    `reference` is the functional image that results are scored against where it is not the one that is fused:
    of a simulated head whose PET was displaced, the PET where it belongs.
    """

    a: Volume
    b: Volume
    mask: NDArray[np.bool_]
    reference: Volume | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask", region(self.mask))
        if not self.a.shape == self.b.shape == self.mask.shape:
            raise InputError(
                f"structural {self.a.shape}, functional {self.b.shape} and mask {self.mask.shape} "
                "differ in shape; bring them to one grid first (see --register)"
            )

    def __repr__(self) -> str:
        return f"Pair(a={self.a!r}, b={self.b!r}, {self.mask.mean():.0%} foreground)"


@dataclass(frozen=True, eq=False)
class Case:
    """One pair of a dataset.  Nothing is read before `a`, `b`, `mask` or `truth` is asked for.

    Parameters
    ----------
    id, dataset : str
        Unique together; `id` is used in file names, so that it must be able to be one.
    group : str
        Subject.  Statistics and splits are by group.
    fingerprint : str
        Content key of the case data and its preprocessing; equal keys mean equal voxels.
    loader : callable
        Picklable, returns the `Pair` (a top-level function in a `functools.partial`, say).
    truth_loader : callable, optional
        Picklable, returns arrays by name: ground truth of simulated data.  Numbers, texts and times; workers
        do not get objects.
    meta : mapping
        Anything worth a column: plane, diagnosis, colour handling.  Texts, numbers, and lists of them.
    voxels : int, optional
        Of an image, where that is known unread: for the time that a run will take.
    origin : str
        Content key of what the case is made from, without the code that reads it: seeds what is drawn for a
        case, which a changed reader or library must not move.  "" where `fingerprint` has to do.

    Raises
    ------
    InputError
        `id` or `dataset` cannot name a file, or another of the texts cannot be printed.
    """

    id: str
    dataset: str
    group: str
    fingerprint: str
    loader: Callable[[], Pair]
    truth_loader: Callable[[], Mapping[str, NDArray[Any]]] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    voxels: int | None = None
    origin: str = ""

    def __post_init__(self) -> None:
        check_file_name(self.id, f"dataset {shown(self.dataset)}: the case id")
        check_file_name(self.dataset, "dataset")
        check_text(self.group, f"case {self.id}: the group")
        check_text(self.fingerprint, f"case {self.id}: the fingerprint")
        check_text(self.origin, f"case {self.id}: the origin")

    @cached_property
    def pair(self) -> Pair:
        """The images, read when they are first asked for.

        Raises
        ------
        InputError
            One has no voxels, or some that are not finite; and whatever the loader raises.
        """
        pair = self.loader()
        for volume, role in ((pair.a, "structural"), (pair.b, "functional")):
            _check_voxels(volume.data, f"case {self.id}: the {role} image")
        return pair

    @property
    def is_loaded(self) -> bool:
        """`pair` has been read."""
        return "pair" in self.__dict__

    @property
    def is_foreign(self) -> bool:
        """A plugin that does not come with FuseBench loads it or its truth, or has made a class for it."""
        return not all(_is_ours(found) for found in (type(self), self.loader, self.truth_loader))

    @property
    def a(self) -> Volume:
        """Structural image (MRI, CT)."""
        return self.pair.a

    @property
    def b(self) -> Volume:
        """Functional image (PET, SPECT)."""
        return self.pair.b

    @property
    def functional(self) -> bool:
        """`b` shows function (PET, SPECT), so that results can be coloured by it; `meta` may deny that."""
        return bool(self.meta.get("functional", True))

    @property
    def roles(self) -> tuple[str, str]:
        """What `a` and `b` are called: ``meta["a"]`` and ``meta["b"]``, else MRI and PET."""
        return str(self.meta.get("a", "MRI")), str(self.meta.get("b", "PET"))

    @property
    def reference(self) -> Volume:
        """Functional image that results are scored against: `b`, unless the pair has another."""
        return self.pair.reference or self.pair.b

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Foreground, (D, H, W) bool, from the sources only."""
        return self.pair.mask

    @cached_property
    def truth(self) -> Mapping[str, NDArray[Any]] | None:
        """Ground truth by name, or None where the dataset has none."""
        found = None if self.truth_loader is None else self.truth_loader()
        return copy.deepcopy(found) if self.is_foreign else found

    def __repr__(self) -> str:
        """Short, and without reading the images: what was read already is said."""
        subject = f" of {self.group}" if self.group not in ("", self.id) else ""
        read = f": {self.a!r}" if self.is_loaded else ""
        return f"<case {self.id}{subject}, dataset {self.dataset}{read}>"

    def load(self) -> None:
        """Read it now; of a plugin's case the truth as well, so that all of its code has run."""
        fresh = not self.is_loaded
        _ = self.pair
        if self.is_foreign:
            if fresh:  # its arrays may be a buffer that the next case is read into
                self.__dict__["pair"] = copy.deepcopy(self.pair)
            with suppress(Exception):  # which whoever asks for it is told
                _ = self.truth

    def __getstate__(self) -> dict[str, Any]:
        # Workers get paths and parameters, not arrays.
        return {k: v for k, v in self.__dict__.items() if k not in ("pair", "truth")}


def _affine(given: Any) -> NDArray[np.float64]:
    try:
        found = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.shape != (4, 4):
        raise InputError(f"an affine has 4 x 4 numbers, got {type(given).__name__} {np.shape(found)}")
    return found


def _intensity(given: Any) -> tuple[float, float]:
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        raise InputError(f"intensity is (low, high), got {str(given)[:40]}") from None
    return low, high


def _is_ours(found: Any) -> bool:
    """It is None, or defined in FuseBench."""
    while isinstance(found, partial):
        found = found.func
    return found is None or str(getattr(found, "__module__", "")).startswith("fusebench.")


def _check_voxels(data: NDArray[Any], what: str) -> None:
    """Raise `InputError` for an image without voxels, or with some that are not finite."""
    if not data.size:
        raise InputError(f"{what} has shape {data.shape}: no voxels")
    if not np.isfinite(float(data.min()) - float(data.max())):  # NaN where there is one
        bad = data.size - int(np.isfinite(data).sum())
        raise InputError(
            f"{what} holds NaN or infinity in {bad} of {data.size} voxels; give it finite values"
        )
