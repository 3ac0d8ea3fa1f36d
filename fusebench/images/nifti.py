"""NIfTI, with nibabel only, from bytes that were decompressed and counted first.

Other readers take truncated files silently, or prefer the qform.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from ..case import Volume
from ..errors import InputError
from . import colour
from .packed import MAX_BYTES, TooMuch, beginning, unpack
from .raw import (
    RawImage,
    canonical,
    corner_distance,
    extension,
    first_line,
    turn_to_ras,
    type_range,
    usable,
)

# A file may hold this much beyond what its header declares, and as much again as that, with a note.
_SLACK = 16 << 20

# NIfTI-2 says so in its first four bytes, in either byte order.
_SECOND = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
_COLOUR = (("R", "G", "B"), ("R", "G", "B", "A"))


def _bytes(path: Path) -> tuple[bytes, list[str]]:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: holds more than {MAX_BYTES >> 30} GiB; this is no image of a head")
    raw = path.read_bytes()
    packed = raw[:2] == b"\x1f\x8b"
    notes = []
    if not packed and extension(path) == ".nii.gz":
        notes.append("is named .nii.gz but is not compressed")
    if packed:
        try:
            declared = _declared(beginning(raw, 540))
            most = min(MAX_BYTES, _SLACK + 2 * declared)
            raw = unpack(raw, most)
        except TooMuch:
            raise InputError(
                f"{path}: unpacks to more than {most >> 20} MiB, while its header declares {declared} bytes; "
                "this is no image: download it again"
            ) from None
        except (EOFError, zlib.error, OSError) as error:
            raise InputError(
                f"{path}: compressed file truncated or damaged ({first_line(error)}); download it again"
            ) from None
    return raw, notes


def _declared(head: bytes) -> int:
    """Bytes of the file that a header declares; 0 where that cannot be read, which reading the image says."""
    second = head[:4] in _SECOND
    kind, length = (nib.Nifti2Header, 540) if second else (nib.Nifti1Header, 348)
    try:
        with np.errstate(all="ignore"):
            header = kind(head[:length], check=False)
            voxels = int(np.prod(header.get_data_shape(), dtype=object))
            return max(0, int(header["vox_offset"])) + max(0, voxels) * header.get_data_dtype().itemsize
    except Exception:
        return 0


def _image(path: Path) -> tuple[Any, list[str]]:
    """The nibabel image of a single-file NIfTI, its header checked against the bytes there are."""
    raw, notes = _bytes(path)
    kind = nib.Nifti2Image if raw[:4] in _SECOND else nib.Nifti1Image
    # Damaged headers make nibabel raise almost anything (ValueError, struct.error, OverflowError...).
    try:
        with np.errstate(all="ignore"):
            image: Any = kind.from_bytes(raw)
            header = image.header
            shape = tuple(int(n) for n in header.get_data_shape())
            dtype = header.get_data_dtype()
            start = int(image.dataobj.offset)  # nibabel clears it in the header, and the slope
    except Exception as error:
        raise InputError(
            f"{path}: not a readable NIfTI file ({first_line(error)}); convert or download it again"
        ) from None
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: the image is empty (shape {shape}); export it again")
    if dtype.kind not in "iuf" and dtype.names not in _COLOUR:
        raise InputError(f"{path}: voxels of type {dtype} are not grey values; save one scalar per voxel")
    end = start + dtype.itemsize * int(np.prod(shape, dtype=object))
    if len(raw) < end:
        raise InputError(
            f"{path}: truncated: the header declares {end} bytes, there are {len(raw)}; "
            "copy or download it again"
        )
    if len(raw) > end:
        notes.append(f"holds {len(raw) - end} bytes more than its header declares; check the shape {shape}")
    return image, notes


def _geometry(path: Path, image: Any) -> tuple[NDArray[np.float64], list[str]]:
    header = image.header
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise InputError(
            f"{path}: the header has neither sform nor qform, so left, right and position are unknown; "
            "set one (e.g. nibabel's `set_sform(affine, 1)`)"
        )
    affine = np.asarray(image.affine, np.float64)
    if not usable(affine):
        raise InputError(f"{path}: the affine in the header is singular or not finite; set a valid sform")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    notes = []
    shape = (*(int(n) for n in image.shape[:3]), 1, 1)[:3]
    xyz = (shape[2], shape[1], shape[0])
    if int(header["sform_code"]) > 0 and int(header["qform_code"]) > 0:
        try:
            with np.errstate(all="ignore"):
                apart = corner_distance(affine, np.asarray(header.get_qform(), np.float64), xyz)
        except Exception:
            apart = float("nan")
        if not apart <= 1.0:
            notes.append(f"sform and qform differ by {apart:.1f} mm; the sform is used")
    rows = np.asarray(header.get_sform(), np.float64)
    if int(header["sform_code"]) <= 0 and usable(rows) and corner_distance(affine, rows, xyz) > 1.0:
        notes.append("holds an sform of code 0 that differs from the qform; the qform is used")
    zooms = np.asarray(header["pixdim"][1:4], np.float64)[: min(3, len(image.shape))]
    with np.errstate(all="ignore"):
        if not np.allclose(np.abs(zooms), size[: len(zooms)], rtol=0.01):
            notes.append(
                f"voxel size in the header {_mm(zooms)} is not that of its affine {_mm(size)}; "
                "the affine is used"
            )
    return affine, notes


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
                data = colour.luminance(np.stack([voxels[c] for c in "RGB"], axis=-1)).astype(np.float32)
            else:
                data = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except Exception as error:
        raise InputError(f"{path}: voxels cannot be read ({first_line(error)}); download it again") from None
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim > 4:
        raise InputError(f"{path}: has {data.ndim} axes {data.shape}; save a 3D image")
    data = data.reshape(data.shape + (1,) * (3 - data.ndim))
    low, high = float(header["cal_min"]), float(header["cal_max"])
    scaled = (float(image.dataobj.slope), float(image.dataobj.inter)) != (1.0, 0.0)
    return canonical(
        path,
        data,
        affine,
        notes=(*notes, *more),
        stored_range=(low, high) if np.isfinite([low, high]).all() and low < high else None,
        full_range=full,
        type_range=full or (None if scaled else type_range(header.get_data_dtype())),
    )


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
    image.header["descrip"] = b"fused by FuseBench"
    blob: bytes = image.to_bytes()
    # mtime=0: the same image is the same file.
    return gzip.compress(blob, compresslevel=6, mtime=0) if compress else blob


def _in_original_space(
    data: NDArray[np.float32], like: Path, intensity: tuple[float, float] | None, as_float: bool
) -> tuple[Any, float, float]:
    source, _ = _image(like)
    affine, _ = _geometry(like, source)
    shape = tuple(int(n) for n in source.shape)
    xyz = (*shape, 1, 1, 1)[:3]
    turn = turn_to_ras(affine, xyz)
    back = orientations.ornt_transform(np.array([[0, 1], [1, 1], [2, 1]]), turn)
    out = orientations.apply_orientation(data.transpose(2, 1, 0), back)
    if out.shape != xyz:
        raise InputError(f"{like}: its shape {xyz} is not that of the fused image {out.shape}")
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
