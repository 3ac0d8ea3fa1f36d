"""Formats that nibabel and Pillow do not read: MHA and NRRD with SimpleITK, and the way to DICOM."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import open_plain
from ..limits import check_memory
from .mha import Header
from .raw import (
    HEADER_BYTES,
    ITK,
    MHA,
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
        mha = None if header_text(path).startswith("NRRD") or extension(path) not in MHA else Header(path)
        if mha is not None:
            mha.check()
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        if reader.GetNumberOfComponents() != 1:
            raise InputError(f"{path}: {reader.GetNumberOfComponents()} values per voxel; save grey values")
        if reader.GetDimension() not in (2, 3, 4):
            raise InputError(f"{path}: has {reader.GetDimension()} axes; save a 3D image")
        declared = _declared_bytes(path, reader)
        if mha is not None and declared:
            mha.check_voxels(declared)
        unit, notes = _unit(path)
        spare = _spare_in_nrrd(path, declared) if mha is None else mha.spare(declared)
        if declared and spare > 0:
            notes += (f"holds {spare} bytes more than its header declares; check the sizes",)
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


def _declared_bytes(path: Path, reader: Any) -> int:
    """Bytes of the stored voxels; 0 of an odd type.

    A header that promises far more than the file can hold is refused before anything is allocated.
    """
    voxels = int(np.prod(reader.GetSize(), dtype=object))
    held = sum(f.stat().st_size for f in image_files(path))
    if voxels < 1 or voxels > 1100 * max(1, held):
        raise InputError(f"{path}: the header declares {voxels} voxels, the file cannot hold them; check it")
    # The stored voxels, and up to three copies as float32.
    check_memory(path, voxels * (_SIZES.get(reader.GetPixelID(), 8) + 12))
    return voxels * _SIZES.get(reader.GetPixelID(), 0)


def _spare_in_nrrd(path: Path, declared: int) -> int:
    """Bytes more than `declared` behind the header of an NRRD file, of voxels that are not compressed."""
    with open_plain(path) as handle:
        head = handle.read(HEADER_BYTES)
    end = re.search(rb"\r?\n\r?\n", head)
    plain = re.search(rb"^encoding:\s*raw\s*$", head, re.IGNORECASE | re.MULTILINE)
    if end is None or plain is None or len(image_files(path)) > 1:
        return 0
    return path.stat().st_size - end.end() - declared


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
