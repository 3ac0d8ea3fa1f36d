"""Reading and writing images: NIfTI, PNG/TIFF, and through SimpleITK MHA/NRRD and DICOM series.

NIfTI is read with nibabel only, from bytes that were decompressed and counted first: other readers take
truncated files silently, or prefer the qform.  What is read is in RAS+ order ``(D, H, W)`` (see
`fusebench.case`).  2D images, one slice in a volume's format among them, keep the row order of the file (row
0 is the top, as every 2D method expects); the affine of a picture says so with a negative second axis.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..case import Pair, Volume
from ..errors import InputError
from ..files import atomic_path
from ..limits import naming_file
from . import colour, nifti, picture
from .foreground import foreground
from .picture import Plane
from .raw import EXTENSIONS, ITK, NIFTI, PICTURES, RawImage, corner_distance, extension, overlap

Intensity = Literal["minmax", "robust", "stored"] | tuple[float, float]

REMEDY = "resample it first, or use --register"

_log = logging.getLogger("fusebench")


def read_image(
    path: str | os.PathLike[str],
    *,
    plane: Plane = colour.luminance,
    intensity: Intensity = "minmax",
    max_nan: float = 0.0,
) -> Volume:
    """Read one image as a `Volume`.

    Parameters
    ----------
    path : path
        NIfTI, PNG, TIFF, MHA, NRRD, or a folder that holds one DICOM series.
    plane : callable
        ``(H, W, 3)`` to ``(H, W)``: which plane of a colour picture is fused.
    intensity : {"minmax", "robust", "stored"} or (float, float)
        What becomes 0 and 1.  "minmax": the extremes of the data, and 0..255 for pictures of 8 bits (as
        every 2D paper does).  "robust": percentiles 0.1 and 99.9, values beyond are clipped.  "stored": the
        range in the header of an image that `write_image` made, else as "minmax".  Or the range itself.
    max_nan : float
        Share of voxels that may be NaN or infinite; they become the lowest value.

    Returns
    -------
    Volume

    Raises
    ------
    InputError
        One line: the file, what is wrong, what to do.
    """
    with naming_file(Path(path)):
        raw = read_raw(path, plane=plane, max_nan=max_nan)
        for note in raw.notes:
            _log.warning("%s: %s", raw.path, note)
        return scale(raw, intensity)


def read_raw(
    path: str | os.PathLike[str],
    *,
    plane: Plane = colour.luminance,
    max_nan: float = 0.0,
    frames: bool = False,
) -> RawImage:
    """Read one image in its own units; `frames` allows a 4D one, shape (T, D, H, W)."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not (path.is_file() or path.is_dir()):  # a pipe would keep us waiting for ever
        raise InputError(f"{path}: neither a file nor a folder; copy what it holds to a file")
    if path.is_file() and path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); copy or download it again")
    with naming_file(path):
        raw = _read(path, plane)
        if raw.data.ndim == 4 and not frames:
            raise InputError(
                f"{path}: is 4D ({raw.data.shape[0]} frames of {raw.data.shape[1:]}); reduce it to one frame "
                "first (`fuse --register` and `prepare` average the frames)"
            )
        return _finite(raw, max_nan)


def _read(path: Path, plane: Plane) -> RawImage:
    """Read a file or folder by its name."""
    kind = extension(path)
    if path.is_dir() or kind in (*ITK, ".dcm"):
        from . import dicom_itk  # SimpleITK and pydicom are an extra

        return dicom_itk.read(path)
    if kind in PICTURES:
        return picture.read(path, plane)
    if kind in NIFTI:
        return nifti.read(path)
    raise InputError(
        f"{path}: cannot tell the format from the name; use {', '.join(EXTENSIONS)} or a DICOM folder"
    )


def scale(raw: RawImage, intensity: Intensity = "minmax") -> Volume:
    """Map a 3D `RawImage` to [0, 1]; see `read_image` for `intensity`."""
    low, high = intensity_range(raw, intensity)
    data = (raw.data - np.float32(low)) / np.float32(high - low)
    return Volume(np.clip(data, 0, 1, out=data), raw.affine, (low, high), raw.chroma)


def intensity_range(raw: RawImage, intensity: Intensity = "minmax") -> tuple[float, float]:
    """Intensities that become 0 and 1; refuses constant images and such as are nowhere above 0."""
    if isinstance(intensity, tuple):
        if not intensity[1] > intensity[0]:
            raise InputError(f"intensity range {intensity} is empty; give (low, high) with low < high")
        return intensity
    low, high = float(raw.data.min()), float(raw.data.max())
    if intensity == "stored" and raw.stored_range is not None:
        return raw.stored_range
    if low == high:
        raise InputError(
            f"{raw.path}: every voxel is {low:g}; this is not an image of anything, check the file"
        )
    if high <= 0:
        raise InputError(
            f"{raw.path}: no voxel is above 0 (largest {high:g}); check the scaling in the header"
        )
    if intensity == "robust":
        a, b = (float(v) for v in np.percentile(raw.data, [0.1, 99.9]))
        return (a, b) if b > a else (low, high)
    return raw.full_range or (low, high)


def read_pair(
    mri: str | os.PathLike[str],
    pet: str | os.PathLike[str],
    *,
    mask: str | os.PathLike[str] | None = None,
    plane: Plane = colour.luminance,
    intensity: Intensity = "minmax",
    remedy: str = REMEDY,
) -> Pair:
    """Read a structural and a functional image that lie on one grid.

    The mask is the file `mask` (non-zero is foreground) or the filled foreground of the structural image;
    `remedy` is what a message about different grids advises.

    Raises
    ------
    InputError
        A file is unusable, or the grids differ.
    """
    a = read_image(mri, intensity=intensity)
    b = read_image(pet, plane=plane, intensity=intensity)
    check_grid(a, b, mri, pet, remedy)
    return Pair(a, b, foreground(a.data) if mask is None else read_mask(mask, a))


def read_mask(path: str | os.PathLike[str], like: Volume) -> NDArray[np.bool_]:
    """Read a mask on the grid of `like`; non-zero is foreground."""
    raw = read_raw(path)
    if any("lossy" in note for note in raw.notes):
        raise InputError(f"{path}: lossy compression smears the edge of a mask; save it as PNG or NIfTI")
    if raw.data.shape != like.shape:
        raise InputError(f"{path}: the mask's shape {raw.data.shape} is not the image's {like.shape}")
    check_grid(like, Volume(raw.data, raw.affine), "the image", path, "resample it to that grid")
    mask: NDArray[np.bool_] = raw.data > 0
    if not mask.any():
        raise InputError(f"{path}: the mask is empty; it must be non-zero in the foreground")
    return mask


def check_grid(a: Volume, b: Volume, path_a: object, path_b: object, remedy: str = REMEDY) -> None:
    """Refuse two images of different shape or without overlap, warn where their positions differ.

    Parameters
    ----------
    a, b : Volume
    path_a, path_b
        Their names in messages.
    remedy : str
        What the caller's user can do to `b`, unless they are pictures, which have no position.
    """
    drawn = any(np.array_equal(image.affine, picture.UPRIGHT) for image in (a, b))
    if a.shape != b.shape:
        advice = "crop or resize it to that size" if drawn else remedy
        raise InputError(f"{path_b}: shape {b.shape} differs from {a.shape} of {path_a}; {advice}")
    if drawn:
        return
    apart = corner_distance(a.affine, b.affine, a.shape)
    # Single slices of one place may differ by less than the gap between them.
    if a.shape[0] > 1 and not overlap(a.affine, b.affine, a.shape):
        raise InputError(
            f"{path_b}: lies up to {apart:.0f} mm from {path_a} by its header, they do not overlap; "
            f"{remedy}; or copy the header, if voxel fits voxel"
        )
    if apart > max(a.spacing):
        _log.warning(
            "%s: lies up to %.1f mm from %s by its header; taken voxel by voxel: where that is wrong, %s",
            path_b,
            apart,
            path_a,
            remedy,
        )


def _finite(raw: RawImage, max_nan: float) -> RawImage:
    bad = ~np.isfinite(raw.data)
    count = int(bad.sum())
    if count == 0:
        return raw
    share = count / bad.size
    if share > max_nan:
        raise InputError(
            f"{raw.path}: {count} of {bad.size} voxels ({share:.2%}) are NaN or infinite; "
            "replace them by the background value and save it again"
        )
    data = np.where(bad, raw.data[~bad].min(), raw.data)
    note = f"{count} voxels ({share:.2%}) were NaN or infinite and are now the lowest value"
    return replace(raw, data=data, notes=(*raw.notes, note))


# -- writing -------------------------------------------------------------------------------------


def write_image(
    path: str | os.PathLike[str],
    data: NDArray[np.floating[Any]],
    *,
    like: Volume | str | os.PathLike[str],
    chroma: NDArray[np.uint8] | None = None,
    intensity: tuple[float, float] | None = None,
    dtype: Literal["original", "float32"] = "original",
) -> Path:
    """Write a fused volume.

    Parameters
    ----------
    path : path
        ``.nii``, ``.nii.gz``, ``.png``, ``.tif``/``.tiff`` (pictures hold one slice), ``.mha`` or ``.nrrd``.
    data : ndarray, shape (D, H, W), float in [0, 1]
        On the RAS+ grid that `read_image` gave for `like`.
    like : Volume or path
        A path to the structural NIfTI gives its orientation, affine, shape, header codes, voxel type and
        range: [0, 1] is mapped to the range the source had, so that the file can stand in for it.  A
        `Volume` gives RAS+ float32 in [0, 1].  Either way the range is kept in ``cal_min``/``cal_max`` and
        ``read_image(..., intensity="stored")`` gives `data` back.
    chroma : ndarray, shape (2, D, H, W), uint8, optional
        Colour of the functional picture; default that of `like` where it is a `Volume`.
    intensity : (float, float), optional
        The source's range, where it was not read with "minmax".
    dtype : {"original", "float32"}
        Voxel type of a NIfTI: that of `like` (integers round), or float32.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        Shapes do not fit, or the place cannot be written.
    """
    path = Path(path)
    kind = extension(path)
    data = np.asarray(data, np.float32)
    if data.ndim != 3 or not np.isfinite(data).all():
        raise InputError(f"{path}: the fused image must be finite and (D, H, W), got shape {data.shape}")
    if not isinstance(like, Volume):
        like = Path(like) if extension(Path(like)) in NIFTI else read_image(like)
    if chroma is None and isinstance(like, Volume):
        chroma = like.chroma
    if kind in NIFTI:
        blob = nifti.encode(data, like, intensity, dtype, compress=kind == ".nii.gz")
    elif kind in (".png", ".tif", ".tiff"):
        blob = picture.encode(path, data, chroma)
    elif kind in (".mha", ".nrrd"):
        from . import dicom_itk

        affine = like.affine if isinstance(like, Volume) else nifti.read(like).affine
        blob = dicom_itk.encode(path, data, affine)
    else:
        raise InputError(f"{path}: cannot write this format; use .nii.gz, .nii, .png, .tif, .mha or .nrrd")
    return _put(path, blob)


def write_colour(
    path: str | os.PathLike[str],
    data: NDArray[np.floating[Any]],
    chroma: NDArray[np.uint8],
    *,
    like: Volume | str | os.PathLike[str],
) -> Path:
    """Write a fused volume in colour, as NIfTI of datatype 128 (RGB, 8 bits each).

    Its luminance is the fused volume, so that `read_image` gives `data` back but for rounding to 8 bits.

    Parameters
    ----------
    path : path
        ``.nii`` or ``.nii.gz``.
    data : ndarray, shape (D, H, W), float in [0, 1]
    chroma : ndarray, shape (2, D, H, W), uint8
        Of the functional image; see `fusebench.images.colour.chroma_of`.
    like : Volume or path
        A path to the structural NIfTI gives orientation and affine, a `Volume` its affine.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        Another format, shapes that do not fit, or a place that cannot be written.
    """
    path = Path(path)
    if extension(path) not in NIFTI:
        raise InputError(f"{path}: a volume in colour is written as NIfTI; use .nii.gz or .nii")
    if chroma.shape != (2, *data.shape):
        raise InputError(f"{path}: chroma of shape {chroma.shape} does not fit a volume {data.shape}")
    like = like if isinstance(like, Volume) else Path(like)
    compress = extension(path) == ".nii.gz"
    return _put(path, nifti.encode_colour(colour.to_rgb(data, chroma), like, compress=compress))


def _put(path: Path, blob: bytes) -> Path:
    try:
        with atomic_path(path) as temporary:
            temporary.write_bytes(blob)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from None
    return path
