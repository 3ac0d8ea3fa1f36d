"""Formats that nibabel and Pillow do not read: DICOM series (pydicom) and MHA/NRRD (SimpleITK).

DICOM is sorted and scaled here, slice by slice: PET stores one rescale slope per slice, and frames of a
dynamic series share positions, which a plain file-name reader mixes up.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .raw import ITK, RawImage, canonical, check_inside, extension, first_line, image_files, usable

# DICOM and ITK are LPS, nibabel is RAS.
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def need(module: str) -> Any:
    """Import a module of the extra ``adni``, or say in one line how to get it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"{module} is not installed; it is needed here: `pip install {module}`") from None


def read(path: Path) -> RawImage:
    """Read a DICOM folder, one DICOM file, or MHA/NRRD."""
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith(".")]
        return read_dicom(files, path)
    if extension(path) in ITK:
        return _read_itk(path)
    return read_dicom([path], path)


# -- DICOM ---------------------------------------------------------------------------------------


def read_dicom(files: Sequence[Path], origin: Path) -> RawImage:
    """Read one DICOM series.

    Parameters
    ----------
    files : sequence of Path
        Its files, in any order; what is not DICOM is passed over.
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
        No image, several series, missing slices, or uneven spacing.
    """
    slices, broken = _headers(files)
    if not slices:
        why = f"; {broken[0]}" if broken else ""
        raise InputError(f"{origin}: no readable DICOM image among {len(files)} files{why}")
    series = {str(getattr(s, "SeriesInstanceUID", "")) for s in slices}
    if len(series) > 1:
        raise InputError(f"{origin}: holds {len(series)} DICOM series; give a folder with one")
    first = slices[0]
    if int(getattr(first, "NumberOfFrames", 1) or 1) > 1:
        raise InputError(f"{origin}: multi-frame DICOM; convert it to NIfTI first (e.g. with dcm2niix)")
    if int(getattr(first, "SamplesPerPixel", 1) or 1) != 1:
        raise InputError(f"{origin}: colour DICOM (a screenshot?); give the original series")
    frames, positions, notes = _sorted(slices, origin)
    try:
        data = np.stack([np.stack([_pixels(s) for s in frame]) for frame in frames])
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{origin}: pixels cannot be decoded ({first_line(error)}); convert it to NIfTI"
        ) from None
    affine = _dicom_affine(frames[0], positions, origin)
    if broken:
        notes.append(f"{len(broken)} of {len(files)} files are not readable DICOM: {broken[0]}")
    durations = [float(getattr(f[0], "ActualFrameDuration", 0) or 0) for f in frames]
    extra = {"frame_durations": durations} if len(frames) > 1 and all(d > 0 for d in durations) else {}
    return _turned(origin, data if len(frames) > 1 else data[0], affine, tuple(notes), extra)


def _headers(files: Sequence[Path]) -> tuple[list[Any], list[str]]:
    pydicom = need("pydicom")
    slices, broken = [], []
    for file in files:
        try:
            # force=False: a file without the DICOM preamble is something else.
            dataset = pydicom.dcmread(file, force=False)
            if "Rows" in dataset and "PixelData" in dataset:
                # A truncated file reads without complaint and fails here, or at the pixels.
                dataset.filename_for_messages = file
                slices.append(dataset)
            elif file.name.upper() != "DICOMDIR":
                broken.append(f"{file.name}: holds no pixels")
        except Exception as error:
            broken.append(f"{file.name}: {first_line(error)}")
    return slices, broken


def _sorted(slices: list[Any], origin: Path) -> tuple[list[list[Any]], NDArray[np.float64], list[str]]:
    """Frames of slices in order along the normal, and the positions of the first frame."""
    try:
        orientation = np.array([float(v) for v in slices[0].ImageOrientationPatient])
        if any(
            not np.allclose([float(v) for v in s.ImageOrientationPatient], orientation, atol=1e-3)
            or (s.Rows, s.Columns) != (slices[0].Rows, slices[0].Columns)
            for s in slices
        ):
            raise InputError(f"{origin}: slices differ in size or direction (a localizer?); give one volume")
        places = [np.array([float(v) for v in s.ImagePositionPatient]) for s in slices]
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"{origin}: DICOM without slice position and direction; export the original series"
        ) from None
    normal = np.cross(orientation[:3], orientation[3:])
    along: dict[float, list[int]] = defaultdict(list)
    for i, place in enumerate(places):
        along[round(float(place @ normal), 2)].append(i)
    keys = sorted(along)
    counts = {len(v) for v in along.values()}
    if len(counts) > 1:
        raise InputError(
            f"{origin}: {len(keys)} slice positions hold {min(counts)} to {max(counts)} images; "
            "slices are missing or doubled, download it again"
        )
    notes = []
    if len(keys) > 1:
        steps = np.diff(keys)
        if steps.max() > 1.05 * steps.min():
            raise InputError(
                f"{origin}: slices are {steps.min():.2f} to {steps.max():.2f} mm apart; "
                "one is missing or the spacing is uneven, download it again"
            )
    for group in along.values():
        group.sort(key=lambda i: (_time(slices[i]), int(getattr(slices[i], "InstanceNumber", 0) or 0)))
    count = counts.pop()
    if count > 1:
        notes.append(f"{count} frames per slice position (dynamic)")
    frames = [[slices[along[k][t]] for k in keys] for t in range(count)]
    return frames, np.array([places[along[k][0]] for k in keys]), notes


def _time(dataset: Any) -> float:
    for name in ("FrameReferenceTime", "AcquisitionTime", "TemporalPositionIdentifier"):
        value = getattr(dataset, name, None)
        try:
            if value not in (None, ""):
                return float(value)
        except (TypeError, ValueError):
            continue
    return 0.0


def _pixels(dataset: Any) -> NDArray[np.float32]:
    try:
        values = dataset.pixel_array.astype(np.float64)
    except Exception as error:
        # JPEG codecs are plug-ins of pydicom; SimpleITK brings its own, and applies the rescale.
        if not dataset.file_meta.TransferSyntaxUID.is_compressed:
            file = Path(dataset.filename_for_messages).name
            raise InputError(
                f"{dataset.filename_for_messages}: {file} is truncated or damaged "
                f"({first_line(error)}); download it again"
            ) from None
        sitk = need("SimpleITK")
        image = sitk.ReadImage(str(dataset.filename_for_messages), sitk.sitkFloat32)
        return np.asarray(sitk.GetArrayFromImage(image)[0], np.float32)
    slope = float(getattr(dataset, "RescaleSlope", 1) or 1)
    inter = float(getattr(dataset, "RescaleIntercept", 0) or 0)
    return np.asarray(values * slope + inter, np.float32)


def _dicom_affine(frame: list[Any], positions: NDArray[np.float64], origin: Path) -> NDArray[np.float64]:
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
        thickness = float(getattr(first, "SliceThickness", 1) or 1)
        affine[:3, 2] = np.cross(row, column) * thickness
    affine[:3, 3] = positions[0]
    return np.asarray(_LPS @ affine)


# -- MHA, NRRD -----------------------------------------------------------------------------------


def _read_itk(path: Path) -> RawImage:
    sitk = need("SimpleITK")
    try:
        check_inside(path)
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1:
            raise InputError(f"{path}: {reader.GetNumberOfComponents()} values per voxel; save grey values")
        if reader.GetDimension() not in (2, 3, 4):
            raise InputError(f"{path}: has {reader.GetDimension()} axes; save a 3D image")
        _declared_bytes(path, reader)
        reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    except InputError:
        raise
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"{path}: not readable ({reason[:160]}); convert or download it again") from None
    data = sitk.GetArrayFromImage(image)
    n = min(3, image.GetDimension())
    size = np.array(image.GetSpacing())[:n]
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:n, :n]
    affine = np.eye(4)
    affine[:n, :n] = direction * size
    affine[:n, 3] = np.array(image.GetOrigin())[:n]
    if data.ndim == 2:
        data = data[None]
    if data.ndim == 4 and data.shape[0] == 1:
        data = data[0]
    return _turned(path, data, _LPS @ affine, (), {})


def _declared_bytes(path: Path, reader: Any) -> None:
    """Refuse a header that promises far more than the file can hold, before anything is allocated."""
    voxels = int(np.prod(reader.GetSize(), dtype=object))
    held = sum(f.stat().st_size for f in image_files(path))
    if voxels < 1 or voxels > 1100 * max(1, held):
        raise InputError(f"{path}: the header declares {voxels} voxels, the file cannot hold them; check it")


def _turned(
    path: Path,
    data: NDArray[np.floating[Any]],
    affine: NDArray[np.float64],
    notes: tuple[str, ...],
    extra: dict[str, Any],
) -> RawImage:
    """Turn (T, D, H, W) or (D, H, W) with its affine to RAS+."""
    if not usable(affine):
        raise InputError(f"{path}: voxel size or direction is zero or not finite; export it again")
    xyz = data.transpose((2, 1, 0) if data.ndim == 3 else (3, 2, 1, 0))
    return canonical(path, xyz, affine, notes=notes, extra=extra)


def to_itk(data: NDArray[np.floating[Any]], affine: NDArray[np.float64]) -> Any:
    """SimpleITK image of a (D, H, W) array and its RAS affine (which must have no shear)."""
    sitk = need("SimpleITK")
    lps = _LPS @ affine
    size = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data, np.float32))
    image.SetSpacing([float(v) for v in size])
    image.SetOrigin([float(v) for v in lps[:3, 3]])
    # ITK refuses a direction that is not orthonormal to the last digits; the nearest rotation is.
    u, _, vt = np.linalg.svd(lps[:3, :3] / size)
    image.SetDirection((u @ vt).ravel().tolist())
    return image


def encode(path: Path, data: NDArray[np.float32], affine: NDArray[np.float64]) -> bytes:
    """File content of MHA or NRRD, float32, compressed."""
    sitk = need("SimpleITK")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"image{extension(path)}")  # SimpleITK writes files only, of known names
        try:
            sitk.WriteImage(to_itk(data, affine), str(file), useCompression=True)
        except RuntimeError as error:
            raise InputError(f"{path}: cannot be written ({first_line(error)})") from None
        return file.read_bytes()
