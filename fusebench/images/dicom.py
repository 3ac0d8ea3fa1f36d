"""DICOM series with pydicom, sorted and scaled here, slice by slice.

PET stores one rescale slope per slice, and frames of a dynamic series share positions, which a reader of
file names mixes up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..limits import check_memory
from .dicom_files import read_headers
from .dicom_itk import LPS, need, turned
from .raw import EXTENSIONS, RawImage, extension, usable

# Positions of one slice differ by rounding only; slices of a scan are further apart.
_SAME_PLACE = 0.02
# Values of these are measured quantities, however they are shown.
_QUANTITIES = ("PT", "CT", "NM")


def read_dicom(files: Sequence[Path], origin: Path) -> RawImage:
    """Read one DICOM series.

    Parameters
    ----------
    files : sequence of Path
        Its files, in any order; what is not DICOM is passed over, and copies of a slice count once.
    origin : Path
        Named in messages.

    Returns
    -------
    RawImage
        (T, D, H, W) where the series has several frames per position; ``extra["frame_durations"]`` then
        holds their lengths in ms.

    Raises
    ------
    InputError
        No image, several series, missing slices, uneven spacing, or pixels that are no grey values.
    """
    config = need("pydicom.config")
    try:
        with config.disable_value_validation():
            return _read(files, origin)
    except (InputError, MemoryError):
        raise
    # Values are parsed when they are asked for, and damaged ones raise almost anything.
    except Exception:
        raise InputError(f"{origin}: a DICOM header is damaged; download or export it again") from None


def _read(files: Sequence[Path], origin: Path) -> RawImage:
    slices, broken = read_headers(files)
    if not slices:
        raise InputError(f"{origin}: no readable DICOM image among {len(files)} files{_why(files, broken)}")
    series = {str(getattr(s, "SeriesInstanceUID", "")) for s in slices}
    if len(series) > 1:
        raise InputError(f"{origin}: holds {len(series)} DICOM series; give a folder with one")
    slices, notes = _once(slices, origin)
    _check_kind(slices, origin)
    frames, positions, more = _sorted(slices, origin)
    pixels = int(slices[0].Rows) * int(slices[0].Columns)
    # Of each slice what is stored, and up to five copies as float32; of one what decoding takes.
    check_memory(origin, 24 * pixels * len(slices) + 40 * pixels)
    data = np.stack([np.stack([_pixels(s, origin) for s in frame]) for frame in frames])
    data, grey = _grey(data, slices[0], origin)
    affine = _affine(frames[0], positions, origin)
    notes += [*more, *grey]
    if broken:
        notes.append(f"{len(broken)} of {len(files)} files are not readable DICOM: {broken[0]}")
    if not usable(affine):
        raise InputError(f"{origin}: pixel spacing or direction is zero or not finite; export it again")
    durations = [_number(f[0], "ActualFrameDuration", 0.0) for f in frames]
    extra = {"frame_durations": durations} if len(frames) > 1 and all(d > 0 for d in durations) else {}
    return turned(origin, data if len(frames) > 1 else data[0], affine, tuple(notes), extra)


def _why(files: Sequence[Path], broken: list[str]) -> str:
    images = [f.name for f in files if extension(f) in EXTENSIONS]
    if images:
        return f"; a folder is read as one DICOM series, but it holds {images[0]}: give that file itself"
    return f"; {broken[0]}" if broken else ""


def _once(slices: list[Any], origin: Path) -> tuple[list[Any], list[str]]:
    """Every image once: copies have the identity, or place, time and pixels, of another one."""
    seen: dict[Any, Any] = {}
    kept = []
    for dataset in slices:
        pixels = hashlib.sha256(dataset.PixelData).digest()
        place = tuple(
            str(getattr(dataset, n, "")) for n in ("ImagePositionPatient", "ImageOrientationPatient")
        )
        uid = str(getattr(dataset, "SOPInstanceUID", ""))
        if uid and uid in seen:
            if seen[uid] != (pixels, place):
                raise InputError(
                    f"{origin}: two different images have one SOPInstanceUID, {uid}; export it again"
                )
            continue
        alike = (pixels, place, _time(dataset), str(getattr(dataset, "EchoTime", "")))
        if alike in seen:
            continue
        seen[uid] = (pixels, place)
        seen[alike] = True
        kept.append(dataset)
    copies = len(slices) - len(kept)
    return kept, [
        f"{copies} of {len(slices)} images are copies of others; each is read once"
    ] if copies else []


def _check_kind(slices: list[Any], origin: Path) -> None:
    """Refuse what is no plain grey slice, and slices that do not belong together."""
    first = slices[0]
    for dataset in slices:
        file = Path(dataset.filename_for_messages).name
        if _number(dataset, "NumberOfFrames", 1) > 1:
            raise InputError(f"{origin}: multi-frame DICOM; convert it to NIfTI first (e.g. with dcm2niix)")
        shown = str(getattr(dataset, "PhotometricInterpretation", "MONOCHROME2"))
        if _number(dataset, "SamplesPerPixel", 1) != 1 or not shown.startswith("MONOCHROME"):
            raise InputError(f"{origin}: colour DICOM (a screenshot?); give the original series")
        if "MOSAIC" in [str(v).upper() for v in getattr(dataset, "ImageType", None) or ()]:
            raise InputError(f"{origin}: {file} is a mosaic of many slices; convert it to NIfTI (dcm2niix)")
        if getattr(dataset, "ModalityLUTSequence", None):
            raise InputError(f"{origin}: {file} stores values through a table; convert it to NIfTI")
    for name, what in (
        ("PhotometricInterpretation", "in which end is white"),
        ("PixelSpacing", "in pixel spacing"),
        ("Units", "in units"),
    ):
        if len({str(getattr(s, name, "")) for s in slices}) > 1:
            raise InputError(f"{origin}: slices differ {what}; give one volume")
    size = (first.Rows, first.Columns)
    try:
        wanted = np.array([float(v) for v in first.ImageOrientationPatient])
        others = [np.array([float(v) for v in s.ImageOrientationPatient]) for s in slices]
        same = all(len(o) == 6 and np.allclose(o, wanted, atol=1e-3) for o in others)
    except (AttributeError, TypeError, ValueError):
        raise _no_place(origin) from None
    if not same or any((s.Rows, s.Columns) != size for s in slices):
        raise InputError(f"{origin}: slices differ in size or direction (a localizer?); give one volume")


def _no_place(origin: Path) -> InputError:
    return InputError(f"{origin}: DICOM without slice position and direction; export the original series")


def _number(dataset: Any, name: str, default: float) -> float:
    try:
        value = float(getattr(dataset, name, default) or default)
    except (TypeError, ValueError):
        return default
    return value if np.isfinite(value) else default


def _time(dataset: Any) -> float:
    for name in ("FrameReferenceTime", "AcquisitionTime", "TemporalPositionIdentifier"):
        value = getattr(dataset, name, None)
        try:
            if value not in (None, ""):
                return float(value)
        except (TypeError, ValueError):
            continue
    return 0.0


# -- geometry ------------------------------------------------------------------------------------


def _sorted(slices: list[Any], origin: Path) -> tuple[list[list[Any]], NDArray[np.float64], list[str]]:
    """Frames of slices in order along the normal, and the positions of the first frame."""
    orientation = np.array([float(v) for v in slices[0].ImageOrientationPatient])
    try:
        places = np.array([[float(v) for v in s.ImagePositionPatient] for s in slices])
    except (AttributeError, TypeError, ValueError):
        raise _no_place(origin) from None
    if places.shape != (len(slices), 3) or not np.isfinite(places).all():
        raise _no_place(origin)
    along = places @ np.cross(orientation[:3], orientation[3:])
    groups: list[list[int]] = []
    last = -np.inf
    for i in np.argsort(along, kind="stable"):
        if along[i] - last > _SAME_PLACE:
            groups.append([])
        groups[-1].append(int(i))
        last = along[i]
    counts = {len(group) for group in groups}
    if len(counts) > 1:
        raise InputError(
            f"{origin}: {len(groups)} slice positions hold {min(counts)} to {max(counts)} images; "
            "slices are missing or doubled, download it again"
        )
    first = np.array([places[group].mean(axis=0) for group in groups])
    _check_steps(np.array([along[group].mean() for group in groups]), first, origin)
    for group in groups:
        group.sort(key=lambda i: (_time(slices[i]), _number(slices[i], "InstanceNumber", 0)))
    count = counts.pop()
    notes = [f"{count} frames per slice position (dynamic)"] if count > 1 else []
    return [[slices[group[t]] for group in groups] for t in range(count)], first, notes


def _check_steps(along: NDArray[np.float64], places: NDArray[np.float64], origin: Path) -> None:
    """Refuse gaps between slices, and slices that do not lie on one line."""
    if len(along) < 2:
        return
    steps = np.diff(along)
    if steps.max() > 1.05 * steps.min():
        raise InputError(
            f"{origin}: slices are {steps.min():.2f} to {steps.max():.2f} mm apart; "
            "one is missing or the spacing is uneven, download it again"
        )
    line = np.linspace(places[0], places[-1], len(places))
    aside = float(np.linalg.norm(places - line, axis=1).max())
    if aside > 0.5:
        raise InputError(
            f"{origin}: slices lie up to {aside:.1f} mm beside one line; give the slices of one volume"
        )


def _affine(frame: list[Any], positions: NDArray[np.float64], origin: Path) -> NDArray[np.float64]:
    first = frame[0]
    row, column = np.array([float(v) for v in first.ImageOrientationPatient]).reshape(2, 3)
    try:
        between_rows, between_columns = (float(v) for v in first.PixelSpacing)
    except (AttributeError, TypeError, ValueError):
        raise InputError(f"{origin}: DICOM without PixelSpacing; export the original series") from None
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    if len(positions) > 1:
        affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    else:
        affine[:3, 2] = np.cross(row, column) * _number(first, "SliceThickness", 1.0)
    affine[:3, 3] = positions[0]
    return np.asarray(LPS @ affine)


# -- pixels --------------------------------------------------------------------------------------


def _pixels(dataset: Any, origin: Path) -> NDArray[np.float32]:
    """Values of one slice in its units, NaN outside of the field of view."""
    file = dataset.filename_for_messages
    slope, inter = _number(dataset, "RescaleSlope", 1.0), _number(dataset, "RescaleIntercept", 0.0)
    padding = _padding(dataset)
    try:
        stored = dataset.pixel_array
        if stored.shape != (dataset.Rows, dataset.Columns):
            raise ValueError
    except MemoryError:
        raise
    except Exception:  # pydicom raises almost anything on damaged pixels
        if not dataset.file_meta.TransferSyntaxUID.is_compressed:
            raise InputError(
                f"{origin}: {Path(file).name} is truncated or damaged; download it again"
            ) from None
        values: NDArray[Any] = _pixels_of_itk(dataset, origin)  # rescaled
        low, high = (v * slope + inter for v in padding) if padding else (np.nan, np.nan)
        outside = (values >= min(low, high) - 1e-3) & (values <= max(low, high) + 1e-3)
    else:
        outside = np.zeros(stored.shape, bool)
        if padding:
            # The tag's type may be the wrong one of two: -2000 is 63536 without a sign.
            span = 1 << int(dataset.BitsAllocated)
            outside = (stored.astype(np.int64) - padding[0]) % span <= padding[1] - padding[0]
        values = _without_overlay(dataset, stored, outside) * slope + inter
    return np.where(outside, np.nan, values).astype(np.float32)


def _padding(dataset: Any) -> tuple[int, int] | None:
    """Lowest and highest stored value that marks pixels outside of the field of view."""
    try:
        value = int(dataset.PixelPaddingValue)
        other = int(getattr(dataset, "PixelPaddingRangeLimit", value))
    except (AttributeError, TypeError, ValueError):
        return None
    return min(value, other), max(value, other)


def _without_overlay(dataset: Any, stored: NDArray[Any], outside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Stored values; drawings in the bits above them, which old scanners put there, are cut off."""
    bits = int(getattr(dataset, "BitsStored", dataset.BitsAllocated) or dataset.BitsAllocated)
    overlays = [dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    drawn = any(o is not None and int(o.value or 0) >= bits for o in overlays)
    if not drawn or stored.dtype.kind not in "iu":
        return stored.astype(np.float64)
    values = stored.astype(np.int64) & ((1 << bits) - 1)
    if stored.dtype.kind == "i":
        values = np.where(values >= 1 << (bits - 1), values - (1 << bits), values)
    return values.astype(np.float64)


def _pixels_of_itk(dataset: Any, origin: Path) -> NDArray[np.float32]:
    """JPEG codecs are plug-ins of pydicom; SimpleITK brings its own, and applies the rescale."""
    sitk = need("SimpleITK")
    try:
        image = sitk.ReadImage(str(dataset.filename_for_messages), sitk.sitkFloat32)
        values = np.asarray(sitk.GetArrayFromImage(image)[0], np.float32)
        if values.shape != (dataset.Rows, dataset.Columns):
            raise RuntimeError
    except (RuntimeError, IndexError):
        file = Path(dataset.filename_for_messages).name
        raise InputError(
            f"{origin}: pixels of {file} cannot be decoded ({dataset.file_meta.TransferSyntaxUID.name}); "
            "convert the series to NIfTI (e.g. with dcm2niix)"
        ) from None
    return values


def _grey(data: NDArray[np.float32], first: Any, origin: Path) -> tuple[NDArray[np.float32], list[str]]:
    """The whole series with high values bright and the outside dark, and notes."""
    notes = []
    outside = np.isnan(data)
    if outside.all():
        raise InputError(f"{origin}: every pixel is marked as padding; this is not an image of anything")
    inside = data[~outside]
    low, high = float(inside.min()), float(inside.max())
    if str(getattr(first, "PhotometricInterpretation", "")) == "MONOCHROME1":
        if str(getattr(first, "Modality", "")) in _QUANTITIES:
            notes.append("MONOCHROME1 is how it is to be shown; its values are quantities and kept")
        else:
            data = (low + high) - data
            notes.append("MONOCHROME1 (the lowest value is white): inverted")
    if outside.any():
        data = np.where(outside, np.float32(low), data)
        notes.append(f"{outside.mean():.0%} of the pixels are padding; taken as the lowest value")
    return data, notes
