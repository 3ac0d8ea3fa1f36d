"""Preprocessing steps: each a frozen dataclass of its parameters that turns one `State` into the next.

The functional image keeps its own grid and a matrix to it until the last geometric step, so that it is
interpolated once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fusebench.errors import InputError
from fusebench.images.foreground import foreground
from fusebench.images.read_write import read_raw

from .grid import Image, Matrix, box_affine, resample
from .looks import doubts
from .rigid import mutual_information, overlap, register

# A registration whose overlap is this much higher makes the dataset's transform doubtful.
_BETTER = 0.03


@dataclass(frozen=True, eq=False)
class State:
    """A pair on its way.

    Attributes
    ----------
    mri, pet : Image
        In their own units; on one grid only after the last geometric step.
    names : (str, str)
        Paths, for messages.
    to_pet : ndarray, shape (4, 4)
        World of the MRI to world of the PET.
    known : ndarray, shape (4, 4), or None
        The same as the dataset says it.
    mask : ndarray of bool or None
        On the MRI's grid.
    mask_path : Path or None
        A mask of the user's.
    aligned : bool
        Whether the files are known to be aligned (their layout says so).
    functional : bool
        The second image shows function, and is the smoother one; else it is anatomy, too (CT, another MRI).
    window : (float, float) or None
        Values of the second image that become 0 and 1, the same for every case.
    durations : sequence of float
        Lengths of the PET's frames.
    notes : tuple of str
        Warnings for the report.
    doubts : tuple of str
        Those of them that say the pair may be wrong; the board shows them.
    numbers : dict
        Figures for the report.
    provenance : tuple of dict
        What was done, with parameters.
    """

    mri: Image
    pet: Image
    names: tuple[str, str]
    to_pet: Matrix = field(default_factory=lambda: np.eye(4))
    known: Matrix | None = None
    mask: NDArray[np.bool_] | None = None
    mask_path: Path | None = None
    aligned: bool = False
    bias_corrected: bool = True
    functional: bool = True
    window: tuple[float, float] | None = None
    durations: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    provenance: tuple[dict[str, Any], ...] = ()
    intensity: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0))

    def noting(self, *notes: str, **numbers: Any) -> State:
        """The same with notes and figures added."""
        return replace(self, notes=(*self.notes, *notes), numbers={**self.numbers, **numbers})

    def doubting(self, *doubts: str) -> State:
        """The same with notes added that are doubts about the pair."""
        return replace(self.noting(*doubts), doubts=(*self.doubts, *doubts))


Step = Callable[[State], State]


def run_steps(state: State, steps: tuple[Step, ...]) -> State:
    """Apply `steps` in order and record them."""
    for step in steps:
        state = step(state)
        done = {"step": type(step).__name__, **asdict(step)}  # type: ignore[call-overload]
        state = replace(state, provenance=(*state.provenance, done))
    return state


@dataclass(frozen=True)
class Static:
    """Dynamic PET to one frame: the mean, weighted by frame length where that is known."""

    def __call__(self, state: State) -> State:
        frames = state.pet.data
        if frames.ndim == 3:
            return state
        weights, how = _weights(state.durations, len(frames))
        mean = np.average(frames, axis=0, weights=weights).astype(np.float32)
        note = f"dynamic PET: mean of {len(frames)} frames, {how}"
        return replace(state, pet=Image(mean, state.pet.affine)).noting(note, pet_frames=len(frames))


def _weights(durations: tuple[float, ...], count: int) -> tuple[NDArray[np.float64], str]:
    """Weights of frames, and in words how their mean is taken."""
    if not durations:
        how = "unweighted, their lengths are not known"
    elif len(durations) != count:
        how = f"unweighted, since {len(durations)} lengths are listed"
    elif not all(np.isfinite(d) and d > 0 for d in durations):
        how = "unweighted, since a listed length is not above 0"
    else:
        return np.asarray(durations), "weighted by their lengths"
    return np.ones(count), how


@dataclass(frozen=True)
class CheckHead:
    """Refuse what cannot be a head: few or huge voxels; note doubts, such as an inverted grey scale."""

    min_voxels: int = 32
    max_voxel: float = 8.0

    def __call__(self, state: State) -> State:
        for image, name in ((state.mri, state.names[0]), (state.pet, state.names[1])):
            if image.data.ndim != 3:
                raise InputError(f"{name}: has {image.data.shape[0]} frames; give one 3D volume")
            if min(image.shape) < self.min_voxels:
                raise InputError(
                    f"{name}: only {min(image.shape)} voxels along one axis {image.shape}, at least "
                    f"{self.min_voxels} are needed; give the whole volume"
                )
            if max(image.spacing) > self.max_voxel:
                raise InputError(
                    f"{name}: voxels of {max(image.spacing):.1f} mm, more than {self.max_voxel:g} mm; "
                    "check the header"
                )
        return state.doubting(*doubts(state.mri, state.pet, state.names, functional=state.functional))


@dataclass(frozen=True)
class RegisterRigid:
    """PET to MRI, rigid.  "auto" leaves out what its layout says is aligned, or has a transform for.

    "check" takes the dataset's transform and registers as well, to say how much of both heads overlaps either
    way; "always" takes what was registered.
    """

    when: Literal["auto", "always", "never", "check"] = "auto"
    seed: int = 0

    def __call__(self, state: State) -> State:
        known = state.known
        if known is not None:
            state = state.noting(overlap_dataset=overlap(state.mri, state.pet, known))
        if self.when == "never" or (self.when == "auto" and (state.aligned or known is not None)):
            if known is not None and self.when == "auto":
                state = replace(state, to_pet=known)
            value = mutual_information(state.mri, state.pet, state.to_pet)
            return state.noting(information_before=value, information_after=value, registered=False)
        found = register(state.mri, state.pet, seed=self.seed)
        if known is not None:
            state = state.noting(overlap_registered=overlap(state.mri, state.pet, found.matrix))
            if self.when == "check":
                return _checked(replace(state, to_pet=known), found.information_after)
        return (
            replace(state, to_pet=found.matrix)
            .doubting(*found.warnings)
            .noting(
                registered=True,
                information_before=found.information_before,
                information_after=found.information_after,
                overlap=found.overlap,
                moved_mm=found.moved,
                spread_mm=found.spread,
                to_pet=found.matrix.tolist(),
            )
        )


def _checked(state: State, registered: float) -> State:
    """Figures of the dataset's transform beside those of a registration, and a doubt where it is worse."""
    value = mutual_information(state.mri, state.pet, state.to_pet)
    state = state.noting(
        information_before=value, information_after=value, information_registered=registered, registered=False
    )
    ours, theirs = (state.numbers[f"overlap_{name}"] for name in ("registered", "dataset"))
    if ours <= theirs + _BETTER:
        return state
    return state.doubting(
        f"registration brings {ours:.0%} of both heads together, the dataset's transform {theirs:.0%}; "
        "register=always takes the former"
    )


@dataclass(frozen=True)
class BiasField:
    """N4 bias field correction of the MRI, the field estimated at `voxel` mm; "auto": only originals."""

    when: Literal["auto", "always", "never"] = "auto"
    voxel: float = 4.0

    def __call__(self, state: State) -> State:
        if self.when == "never" or (self.when == "auto" and state.bias_corrected):
            return state
        from fusebench.images.dicom_itk import need, to_itk

        sitk = need("SimpleITK")

        image = state.mri
        image = Image(image.data - image.data.min(), image.affine)
        shape = tuple(
            max(8, round(n * s / self.voxel)) for n, s in zip(image.shape, image.spacing, strict=True)
        )
        ratio = [n / k for n, k in zip(image.shape, shape, strict=True)][::-1]
        shrink = np.diag([*ratio, 1.0])
        shrink[:3, 3] = [(r - 1) / 2 for r in ratio]
        affine = image.affine @ shrink
        small = to_itk(resample(image, shape, affine), np.diag([self.voxel] * 3 + [1.0]))  # type: ignore[arg-type]
        head = to_itk(
            foreground(sitk.GetArrayFromImage(small)).astype(np.float32), np.diag([self.voxel] * 3 + [1.0])
        )
        filter_ = sitk.N4BiasFieldCorrectionImageFilter()
        filter_.SetNumberOfThreads(1)
        filter_.SetMaximumNumberOfIterations([50, 50, 30])
        filter_.Execute(small, sitk.Cast(head, sitk.sitkUInt8))
        log_field = sitk.GetArrayFromImage(filter_.GetLogBiasFieldAsImage(small)).astype(np.float32)
        # Not `resample`: beyond the outer voxel centres the field must go on, not drop to its minimum.
        inverse = np.linalg.inv(shrink)[[2, 1, 0]][:, [2, 1, 0, 3]]
        field_ = ndimage.affine_transform(
            log_field, inverse[:, :3], inverse[:, 3], output_shape=image.shape, order=1, mode="nearest"
        )
        data = (image.data / np.exp(field_)).astype(np.float32)
        span = float(np.exp(np.ptp(field_)))
        return replace(state, mri=Image(data, image.affine)).noting(bias_span=span)


@dataclass(frozen=True)
class Mask:
    """Foreground mask: the user's file where given, else of the head or (approximately) the brain."""

    kind: Literal["head", "brain"] = "head"

    def __call__(self, state: State) -> State:
        image = state.mri
        if state.mask_path is not None:
            given = read_raw(state.mask_path)
            mask = (
                resample(Image((given.data > 0).astype(np.float32), given.affine), image.shape, image.affine)
                > 0.5
            )
            if not mask.any():
                raise InputError(
                    f"{state.mask_path}: no foreground where the MRI is; give a mask in its space"
                )
        elif self.kind == "brain":
            from .template import brain_mask

            mask, notes = brain_mask(image)
            state = state.noting(*notes)
        else:
            mask = foreground(image.data)
        share = float(mask.mean())
        notes_ = () if 0.02 < share < 0.98 else (f"the foreground mask holds {share:.0%} of the volume",)
        return replace(state, mask=mask).noting(*notes_, mask_share=share)


@dataclass(frozen=True)
class ToBox:
    """Both images, once, onto a cube around the head: `size` voxels of `voxel` mm for every subject."""

    size: int = 128
    voxel: float = 1.75

    def __call__(self, state: State) -> State:
        assert state.mask is not None
        box = _bounds(state.mask)
        # Necks differ in length: a head higher than the box is cut below, never above.
        high = state.mri.affine @ np.array([*[(s.start + s.stop - 1) / 2 for s in box[::-1]], 1.0])
        span = self.size * self.voxel
        top = state.mri.affine @ np.array([0, 0, box[0].stop - 1, 1.0])
        centre = high[:3].copy()
        if (box[0].stop - box[0].start) * state.mri.spacing[0] > span:
            centre[2] = top[2] - span / 2 + 2 * self.voxel
        affine = box_affine(centre, self.size, self.voxel)
        return _onto(state, (self.size,) * 3, affine)


@dataclass(frozen=True)
class ToMri:
    """PET onto the grid of the MRI, which stays as it is (write-back needs no second interpolation)."""

    def __call__(self, state: State) -> State:
        pet = resample(state.pet, state.mri.shape, state.mri.affine, to_image=state.to_pet)
        return replace(state, pet=Image(pet, state.mri.affine), to_pet=np.eye(4))


@dataclass(frozen=True)
class PaperTensor:
    """The DC2Fusion authors' chain: crop to MRI > 0, pad to `pad` per axis, resize (area) to `size`."""

    pad: int = 224
    size: int = 128

    def __call__(self, state: State) -> State:
        import torch
        from torch.nn.functional import interpolate

        state = ToMri()(state)
        positive = state.mri.data > 0
        notes = []
        if not positive.any():
            raise InputError(f"{state.names[0]}: no voxel is above 0; check the scaling in the header")
        box = _bounds(positive)
        if positive.mean() > 0.95:
            notes.append("MRI air is above 0: the paper's crop to MRI > 0 removes nothing")
        sizes = [s.stop - s.start for s in box]
        long = [n for n in sizes if n > self.pad]
        if long:
            notes.append(f"{max(long)} voxels exceed the paper's {self.pad}: that axis shrinks more")
        before = [max(0, self.pad - n) // 2 for n in sizes]
        after = [max(0, self.pad - n) - b for n, b in zip(sizes, before, strict=True)]
        padded = [n + b + e for n, b, e in zip(sizes, before, after, strict=True)]
        assert state.mask is not None
        out = []
        for data in (state.mri.data, state.pet.data, state.mask.astype(np.float32)):
            block = np.pad(data[box], list(zip(before, after, strict=True)))
            tensor = torch.from_numpy(np.ascontiguousarray(block))[None, None]
            out.append(interpolate(tensor, size=(self.size,) * 3, mode="area")[0, 0].numpy())
        scale = [n / self.size for n in padded]
        change = np.diag([*scale[::-1], 1.0])
        change[:3, 3] = [
            s.start - b + (r - 1) / 2 for s, b, r in zip(box[::-1], before[::-1], scale[::-1], strict=True)
        ]
        affine = state.mri.affine @ change
        return replace(
            state, mri=Image(out[0], affine), pet=Image(out[1], affine), mask=out[2] >= 0.5
        ).noting(*notes)


@dataclass(frozen=True)
class Window:
    """Clip the second image to a range in its own units, which becomes [0, 1]: that of a CT in HU, say."""

    low: float
    high: float

    def __call__(self, state: State) -> State:
        data = np.clip(state.pet.data, np.float32(self.low), np.float32(self.high))
        return replace(state, pet=Image(data, state.pet.affine), window=(self.low, self.high))


@dataclass(frozen=True)
class Intensity:
    """Both images to [0, 1]: "minmax", or "robust" (percentiles 0.1 and 99.9, clipped)."""

    kind: Literal["minmax", "robust"] = "robust"

    def __call__(self, state: State) -> State:
        scaled, ranges = [], []
        fixed = (None, state.window)
        for image, name, window in zip((state.mri, state.pet), state.names, fixed, strict=True):
            low, high = window or (float(image.data.min()), float(image.data.max()))
            if self.kind == "robust" and high > low and window is None:
                a, b = (float(v) for v in np.percentile(image.data, [0.1, 99.9]))
                low, high = (a, b) if b > a else (low, high)
            if not high > low:
                raise InputError(f"{name}: nothing but {low:g} in view after alignment; look at it")
            data = np.clip((image.data - np.float32(low)) / np.float32(high - low), 0, 1)
            scaled.append(Image(data.astype(np.float32), image.affine))
            ranges.append((low, high))
        return replace(state, mri=scaled[0], pet=scaled[1], intensity=(ranges[0], ranges[1]))


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Bounding box of a mask."""
    sides = []
    for axis in range(3):
        line = np.flatnonzero(mask.any(axis=tuple(k for k in range(3) if k != axis)))
        sides.append(slice(int(line[0]), int(line[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _onto(state: State, shape: tuple[int, int, int], affine: Matrix) -> State:
    assert state.mask is not None
    mri = resample(state.mri, shape, affine, order=3)
    pet = resample(state.pet, shape, affine, to_image=state.to_pet)
    mask = resample(Image(state.mask.astype(np.float32), state.mri.affine), shape, affine) >= 0.5
    return replace(state, mri=Image(mri, affine), pet=Image(pet, affine), mask=mask, to_pet=np.eye(4))
