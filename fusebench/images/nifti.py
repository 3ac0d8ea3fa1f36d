"""NIfTI, with nibabel only, from bytes that were decompressed and counted first.

Other readers take truncated files silently, or prefer the qform.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from ..case import Volume
from ..errors import InputError
from . import colour
from .nifti_file import kind_of, parse, read_content
from .picture import over_black
from .raw import (
    RawImage,
    canonical,
    corner_distance,
    first_line,
    turn_to_ras,
    type_range,
    usable,
)

# xyzt_units: unknown, metre, millimetre, micron.
_UNITS = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}

# Only `encode` writes this, no other program: only then is cal_min..cal_max the range of the data.
_OURS = b"fused by FuseBench"

_RGB = np.dtype([(c, "u1") for c in "RGB"])
_COLOUR = (("R", "G", "B"), ("R", "G", "B", "A"))


def _mend(raw: bytearray) -> list[str]:
    """Write the header as the standard means it, where programs write it otherwise; returns notes.

    nibabel refuses a quaternion that rounding made a little too long, a data offset of 0, a qfac of 0 and
    negative voxel sizes beside a qform; other readers take them.
    """
    kind: Any = kind_of(raw).header_class
    size = kind.template_dtype.itemsize
    try:
        header: Any = kind(bytes(raw[:size]), check=False)
    except Exception:
        return []  # too short, or no NIfTI at all: nibabel says so
    notes = []
    quaternion = np.array([header[f"quatern_{n}"] for n in "bcd"], np.float64)
    length = float(np.sqrt((quaternion**2).sum()))
    if 1 < length < 1.01:
        for n, value in zip("bcd", quaternion / length, strict=True):
            # Towards zero: rounded up, the length would be beyond 1 again.
            header[f"quatern_{n}"] = np.nextafter(header[f"quatern_{n}"].dtype.type(value), 0)
    if header["pixdim"][0] == 0:
        header["pixdim"][0] = 1
    if float(header["vox_offset"]) == 0 and bytes(header["magic"])[:2] == b"n+":
        header["vox_offset"] = kind.single_vox_offset
        notes.append(f"its data offset is 0; taken as {kind.single_vox_offset}, behind the header")
    sizes = header["pixdim"][1:4]
    if (sizes < 0).any():
        header["pixdim"][1:4] = np.abs(sizes)
        notes.append("holds negative voxel sizes; taken as positive")
    raw[:size] = header.binaryblock
    return notes


def _image(path: Path) -> tuple[Any, list[str]]:
    """The nibabel image of a single-file NIfTI, its header checked against the bytes there are."""
    raw, size, notes = read_content(path)
    notes = notes + _mend(raw)
    # Damaged headers make nibabel raise almost anything (ValueError, struct.error, OverflowError...).
    try:
        with np.errstate(all="ignore"):
            image: Any
            image, said = parse(raw)
            header = image.header
            shape = tuple(int(n) for n in header.get_data_shape())
            dtype = header.get_data_dtype()
            start = int(image.dataobj.offset)  # nibabel clears it in the header, and the slope
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NIfTI file ({first_line(error)}); convert or download it again"
        ) from None
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: the image is empty (shape {shape}); export it again")
    if dtype.kind not in "iuf" and dtype.names not in _COLOUR:
        raise InputError(f"{path}: voxels of type {dtype} are not grey values; save one scalar per voxel")
    end = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if size < end:
        raise InputError(
            f"{path}: truncated: the header declares {end} bytes, there are {size}; copy or download it again"
        )
    notes += said
    if size > end:
        notes.append(f"holds {size - end} bytes more than its header declares; check the shape {shape}")
    return image, notes


def _geometry(path: Path, image: Any) -> tuple[NDArray[np.float64], list[str]]:
    """Affine in mm, whatever the unit of the file, and notes."""
    header = image.header
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise InputError(
            f"{path}: the header has neither sform nor qform, so left, right and position are unknown; "
            "set one (e.g. nibabel's `set_sform(affine, 1)`)"
        )
    scale = np.diag([*[_unit(path, header)] * 3, 1.0])
    affine = scale @ np.asarray(image.affine, np.float64)
    if not usable(affine):
        raise InputError(f"{path}: the affine in the header is singular or not finite; set a valid sform")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    notes = []
    shape = (*(int(n) for n in image.shape[:3]), 1, 1)[:3]
    xyz = (shape[2], shape[1], shape[0])
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        try:
            with np.errstate(all="ignore"):
                apart = corner_distance(affine, scale @ header.get_qform(), xyz)
        except Exception:
            apart = float("nan")
        if not apart <= 1.0:
            notes.append(f"sform and qform differ by {apart:.1f} mm; the sform is used")
    rows = np.asarray(scale @ header.get_sform(), np.float64)
    if int(header["sform_code"]) <= 0 and usable(rows) and corner_distance(affine, rows, xyz) > 1.0:
        notes.append("holds an sform of code 0 that differs from the qform; the qform is used")
    zooms = scale[0, 0] * np.asarray(header["pixdim"][1:4], np.float64)[: min(3, len(image.shape))]
    with np.errstate(all="ignore"):
        if not np.allclose(np.abs(zooms), size[: len(zooms)], rtol=0.01):
            notes.append(
                f"voxel size in the header {_mm(zooms)} is not that of its affine {_mm(size)}; "
                "the affine is used"
            )
    return affine, notes


def _unit(path: Path, header: Any) -> float:
    """Millimetres in the file's unit of length; no unit means mm, as everywhere."""
    code = int(header["xyzt_units"]) & 7
    if code not in _UNITS:
        raise InputError(f"{path}: unit of length {code} is none of NIfTI's; set xyzt_units to mm")
    return _UNITS[code]


def read(path: Path) -> RawImage:
    """Read a `.nii` or `.nii.gz`, 4D allowed; of colour the luminance, over 0..255 as of pictures."""
    image: Any
    image, notes = _image(path)
    affine, more = _geometry(path, image)
    header = image.header
    colours = header.get_data_dtype().names is not None
    full = (0.0, 255.0) if colours else None
    try:
        with np.errstate(all="ignore"):
            if colours:
                voxels = np.asarray(image.dataobj)
                rgb = np.stack([voxels[c] for c in "RGB"], axis=-1)
                if "A" in (voxels.dtype.names or ()) and voxels["A"].any():  # all 0: nobody set it
                    rgb, unseen = over_black(rgb, voxels["A"])
                    more += unseen
                data = colour.luminance(rgb).astype(np.float32)
            else:
                data = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{path}: voxels cannot be read ({first_line(error)}); download it again") from None
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 4:
        raise InputError(f"{path}: has {data.ndim} axes {data.shape}; save a 3D image")
    data = data.reshape(data.shape + (1,) * (3 - data.ndim))
    scaled = (float(image.dataobj.slope), float(image.dataobj.inter)) != (1.0, 0.0)
    return canonical(
        path,
        data,
        affine,
        notes=(*notes, *more),
        stored_range=_stored_range(header, data),
        full_range=full,
        type_range=full or (None if scaled else type_range(header.get_data_dtype())),
    )


def _stored_range(header: Any, data: NDArray[np.floating[Any]]) -> tuple[float, float] | None:
    """The range that `encode` wrote.  In a file of another program it is a hint for a viewer.

    Values beyond it show that another program changed an image of ours and kept the header.
    """
    low, high = float(header["cal_min"]), float(header["cal_max"])
    ours = bytes(header["descrip"]).rstrip(b"\0") == _OURS
    if not (ours and np.isfinite([low, high]).all() and low < high):
        return None
    slack = 0.01 * (high - low) + 1.0  # integers round
    inside = low - slack <= float(data.min()) and float(data.max()) <= high + slack
    return (low, high) if inside else None


def _mm(size: NDArray[np.float64]) -> str:
    return "×".join(f"{v:.3g}" for v in size) + " mm"


# -- writing ------------------------------


def encode(
    data: NDArray[np.float32],
    like: Volume | Path,
    intensity: tuple[float, float] | None,
    dtype: str,
    *,
    compress: bool,
) -> bytes:
    """File content for a fused volume; see `fusebench.images.read_write.write_image`."""
    if isinstance(like, Volume):
        image: Any = nib.Nifti1Image(data.transpose(2, 1, 0), like.affine)
        image.header.set_xyzt_units("mm")
        low, high = 0.0, 1.0
    else:
        image, low, high = _in_original_space(data, like, intensity, dtype == "float32")
    image.header["cal_min"], image.header["cal_max"] = low, high
    image.header["descrip"] = _OURS
    blob: bytes = image.to_bytes()
    # mtime=0: the same image is the same file.
    return gzip.compress(blob, compresslevel=6, mtime=0) if compress else blob


def encode_colour(rgb: NDArray[np.uint8], like: Volume | Path, *, compress: bool) -> bytes:
    """File content of a colour volume (D, H, W, 3): NIfTI of datatype 128, in the space of `like`."""
    voxels = rgb.transpose(2, 1, 0, 3)
    image: Any
    if isinstance(like, Volume):
        stored = np.ascontiguousarray(voxels).view(_RGB)[..., 0]
        image = nib.Nifti1Image(stored, like.affine)
        image.header.set_xyzt_units("mm")
    else:
        source, voxels = _turned_back(voxels, like)
        stored = np.ascontiguousarray(voxels).view(_RGB)[..., 0].reshape(source.shape)
        header = source.header.copy()
        header.set_data_dtype(_RGB)
        image = type(source)(stored, source.affine, header)
    image.header.set_slope_inter(1, 0)
    image.header["cal_min"], image.header["cal_max"] = 0, 0  # colours have no window
    blob: bytes = image.to_bytes()
    return gzip.compress(blob, compresslevel=6, mtime=0) if compress else blob


def _turned_back(xyz: NDArray[Any], like: Path) -> tuple[Any, NDArray[Any]]:
    """The image of a file, and voxels (x, y, z, ...) of its RAS+ grid in the order in which it keeps them."""
    source, _ = _image(like)
    affine, _ = _geometry(like, source)
    shape = (*(int(n) for n in source.shape), 1, 1, 1)[:3]
    back = orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), turn_to_ras(affine, shape))
    out = orientations.apply_orientation(xyz, back)
    if out.shape[:3] != shape:
        raise InputError(f"{like}: its shape {shape} is not that of the fused image {out.shape[:3]}")
    return source, out


def _in_original_space(
    data: NDArray[np.float32], like: Path, intensity: tuple[float, float] | None, as_float: bool
) -> tuple[Any, float, float]:
    source, out = _turned_back(data.transpose(2, 1, 0), like)
    shape = tuple(int(n) for n in source.shape)
    if intensity is None:
        voxels = read(like).data
        intensity = float(voxels.min()), float(voxels.max())
    low, high = intensity
    values = low + np.clip(out, 0, 1).astype(np.float64) * (high - low)
    header = source.header.copy()
    dtype = header.get_data_dtype()
    slope, inter = float(source.dataobj.slope), float(source.dataobj.inter)
    if dtype.kind in "iu" and not as_float:
        limits = np.iinfo(dtype)
        stored = np.clip(np.rint((values - inter) / slope), limits.min, limits.max).astype(dtype)
    else:
        dtype = np.dtype(np.float32)
        stored, slope, inter = values.astype(dtype), 1.0, 0.0
        header.set_data_dtype(dtype)
    image = type(source)(stored.reshape(shape), source.affine, header)
    # After the constructor, which resets them: with a slope set, nibabel stores the voxels as they are.
    image.header.set_slope_inter(slope, inter)
    return image, low, high
