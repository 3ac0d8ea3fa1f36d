"""Formats that nibabel and Pillow do not read: MHA and NRRD with SimpleITK, and the way to DICOM."""

from __future__ import annotations

import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import open_plain
from ..limits import check_memory
from .packed import CHECKED, TooMuch, length
from .raw import (
    HEADER_BYTES,
    ITK,
    RawImage,
    canonical,
    check_inside,
    extension,
    first_line,
    header_text,
    image_files,
    usable,
)

# DICOM and ITK are LPS, nibabel is RAS.
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


# Millimetres in a unit of length, as NRRD and MHA spell it; and what stands where there is none.
_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers", "micrometre"), 1e-3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre"), 1e-6),
}
# Bytes of a voxel by SimpleITK's number of its type: 8 to 64 bits, signed and not, then floats.
_SIZES = dict(enumerate((1, 1, 2, 2, 4, 4, 8, 8, 4, 8)))
# Where the header of an MHA ends and its voxels begin.
_LOCAL = re.compile(rb"^ElementDataFile\s*=\s*LOCAL[^\S\n]*\n", re.IGNORECASE | re.MULTILINE)
_NO_LENGTH = ("", "?", "???", "none", "unknown", "s", "sec", "ms", "second", "seconds")


def need(module: str) -> Any:
    """Import a module of the extra ``adni``, or say in one line how to get it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"{module} is not installed; it is needed here: `pip install {module}`") from None


def read(path: Path) -> RawImage:
    """Read a DICOM folder, one DICOM file, or MHA/NRRD."""
    from .dicom import read_dicom

    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith(".")]
        return read_dicom(files, path)
    if extension(path) in ITK:
        return _read_itk(path)
    return read_dicom([path], path)


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
        _check_packed(path, reader)
        unit, notes = _unit(path)
        notes += _spare_bytes(path, reader)
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
    return turned(path, data, np.diag([unit, unit, unit, 1.0]) @ LPS @ affine, notes, {})


def _unit(path: Path) -> tuple[float, tuple[str, ...]]:
    """Millimetres in the unit of length that the header names, which ITK passes over, and notes."""
    header = header_text(path)
    nrrd = header.startswith("NRRD")
    pattern = r"^(?:space )?units:(.*)$" if nrrd else r"^DistanceUnits\s*=(.*)$"
    found = re.findall(pattern, header, re.IGNORECASE | re.MULTILINE)
    words = {w for text in found for w in (re.findall(r'"([^"]*)"', text) if nrrd else [text.strip()])}
    # Axes of other things have units of their own, or none.
    units = {_UNITS[w.strip().lower()] for w in words if w.strip().lower() in _UNITS}
    other = sorted(w for w in words if w.strip().lower() not in (*_UNITS, *_NO_LENGTH))
    if len(units) > 1 or other:
        raise InputError(f"{path}: units {', '.join(sorted(words))} are not understood; save it in mm")
    notes: tuple[str, ...] = ()
    if nrrd and not re.search(r"^space:", header, re.IGNORECASE | re.MULTILINE):
        notes = ("names no space, so left and right are taken as in DICOM (LPS); check them",)
    return (units.pop() if units else 1.0), notes


def _declared_bytes(path: Path, reader: Any) -> None:
    """Refuse a header that promises far more than the file can hold, before anything is allocated."""
    voxels = int(np.prod(reader.GetSize(), dtype=object))
    held = sum(f.stat().st_size for f in image_files(path))
    if voxels < 1 or voxels > 1100 * max(1, held):
        raise InputError(f"{path}: the header declares {voxels} voxels, the file cannot hold them; check it")
    # The stored voxels, and up to three copies as float32.
    check_memory(path, voxels * (_SIZES.get(reader.GetPixelID(), 8) + 12))


def _check_packed(path: Path, reader: Any) -> None:
    """Refuse an MHA whose compressed voxels are damaged: ITK looks at no checksum and gives what it got."""
    with open_plain(path) as handle:
        head = handle.read(HEADER_BYTES)
    local = _LOCAL.search(head)
    header = head[: local.end()] if local else head
    if head.startswith(b"NRRD") or not re.search(rb"^\s*CompressedData\s*[=:]\s*[Tt1]", header, re.MULTILINE):
        return  # NRRD's are checked
    declared = _SIZES.get(reader.GetPixelID(), 0) * int(np.prod(reader.GetSize(), dtype=object))
    before = re.search(rb"^HeaderSize\s*=\s*(\d+)", header, re.MULTILINE)
    start = local.end() if local else int(before[1]) if before else 0
    files = [path] if local else image_files(path)[1:]
    stated = re.search(rb"^CompressedDataSize\s*=\s*(\d+)", header, re.MULTILINE)
    there = unpacked = 0
    try:
        for file in files:
            with open_plain(file) as packed:
                packed.seek(start)
                unpacked += length(packed, CHECKED, declared)
                there += packed.tell() - start
    except TooMuch:
        unpacked = declared + 1
    except (EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: compressed voxels truncated or damaged ({first_line(error)}); download it again"
        ) from None
    # Behind a header ITK finds voxels only by the length that it states.
    shorter = int(stated[1]) < there if stated else local
    if unpacked != declared or shorter:
        raise InputError(
            f"{path}: its compressed voxels are not as the header declares ({declared} bytes unpacked, and "
            "their length packed); download or save it again"
        )


def _spare_bytes(path: Path, reader: Any) -> tuple[str, ...]:
    """A note where plain voxels behind the header are more than it declares, so that rows may be shifted."""
    with open_plain(path) as handle:
        head = handle.read(HEADER_BYTES)
    if head.startswith(b"NRRD"):
        end = re.search(rb"\r?\n\r?\n", head)
        plain = re.search(rb"^encoding:\s*raw\s*$", head, re.IGNORECASE | re.MULTILINE)
    else:
        end = _LOCAL.search(head)
        plain = None if re.search(rb"^CompressedData\s*=\s*True", head, re.MULTILINE) else end
    if end is None or plain is None or len(image_files(path)) > 1:
        return ()
    size = _SIZES.get(reader.GetPixelID(), 0)
    declared = size * int(np.prod(reader.GetSize(), dtype=object))
    spare = path.stat().st_size - end.end() - declared
    return (
        (f"holds {spare} bytes more than its header declares; check the sizes",) if size and spare > 0 else ()
    )


def turned(
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
    lps = LPS @ affine
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
