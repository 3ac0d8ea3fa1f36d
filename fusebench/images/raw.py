"""`RawImage`, which every reader returns, the names of the formats, and the turn to RAS+."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any
from unicodedata import normalize

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray

from ..errors import InputError
from ..files import open_plain
from ..text import printable

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".gif", ".webp")
MHA = (".mha", ".mhd")
ITK = (*MHA, ".nrrd", ".nhdr")
EXTENSIONS = NIFTI + PICTURES + ITK

# Voxels in mm: finer is a unit mistaken (1 mm in metres is 0.001), coarser too (1 mm in microns is 1000).
MIN_VOXEL, MAX_VOXEL = 0.01, 50.0

_DATA_FILE = re.compile(
    r"^(?:ElementDataFile\s*=|data ?file:)[ \t]*(.*?)[ \t]*$", re.IGNORECASE | re.MULTILINE
)
HEADER_BYTES = 1 << 20
_MOST_FILES = 10_000


@dataclass(frozen=True, eq=False)
class RawImage:
    """An image in its own units, before scaling.

    Attributes
    ----------
    path : Path
    data : ndarray, shape (D, H, W), or (T, D, H, W) where frames were asked for, float32
    affine : ndarray, shape (4, 4)
    full_range : (float, float) or None
        What a source is divided by: 0..255 for pictures of 8 bits; None where the range is the data's.
    chroma : ndarray, shape (2, D, H, W), uint8, or None
    notes : tuple of str
        What a reader of a report should know; also logged as warnings.
    stored_range : (float, float) or None
        The display range written in the header (``cal_min``, ``cal_max``), as `write_image` does.
    type_range : (float, float) or None
        Range of the file's voxel type, where that is unsigned with 8 or 16 bits and nothing scales it.
    extra : mapping
        Facts by name, ``frame_durations`` of a dynamic series among them.
    """

    path: Path
    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    full_range: tuple[float, float] | None = None
    chroma: NDArray[np.uint8] | None = None
    notes: tuple[str, ...] = ()
    stored_range: tuple[float, float] | None = None
    type_range: tuple[float, float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def extension(path: Path) -> str:
    """Lower-case extension, ``.nii.gz`` as one."""
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """Name without its extension, in composed characters (macOS decomposes accents)."""
    return normalize("NFC", path.name[: len(path.name) - len(extension(path))])


def folder_images(folder: Path, wanted: Container[str] | None = None) -> dict[str, Path]:
    """Images of a folder by `stem`; hidden files are passed over, but for those that are asked for.

    Parameters
    ----------
    folder : Path
    wanted : container of str, optional
        Only these stems.

    Raises
    ------
    InputError
        Two images of one stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = stem(path)
        if extension(path) not in EXTENSIONS or not path.is_file():
            continue
        # macOS leaves ._name.nii beside name.nii on other file systems.
        if name.startswith(".") if wanted is None else name not in wanted:
            continue
        if name in found:
            raise InputError(f"{path}: {found[name].name} has the same name; keep one of them")
        found[name] = path
    return found


def header_text(path: Path) -> str:
    """The header of an MHA or NRRD file; of an MHA the voxels behind it too, which match nothing."""
    head = _head(path)
    if head.startswith(b"NRRD"):
        head = head.split(b"\n\n")[0]  # what follows is voxels
    return head.decode(errors="surrogateescape")


def _head(path: Path) -> bytes:
    """The beginning of a file, its lines ended as ITK ends them."""
    with open_plain(path) as handle:
        return handle.read(HEADER_BYTES).replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def image_files(path: Path) -> list[Path]:
    """The file and, where it is an MHA or NRRD header, those of its detached data files that exist."""
    files = (path.parent / name for name in detached(path)[:_MOST_FILES])
    return [path, *(f for f in files if f.is_file())]


def check_inside(path: Path) -> None:
    """Refuse an MHA or NRRD header whose data are no files of its folder: a stranger's could name any file.

    Raises
    ------
    InputError
    """
    head = _head(path)
    if head.startswith(b"NRRD") and b"\n\n" not in head and path.stat().st_size > HEADER_BYTES:
        raise InputError(
            f"{path}: its header is longer than {HEADER_BYTES >> 20} MiB; save it without its text"
        )
    for name in detached(path):
        parts = PurePath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or PureWindowsPath(name).drive:
            raise InputError(
                f"{path}: its data are to be read from {printable(name)[:120]}, outside its folder; move "
                "that file beside it and correct the header"
            )
        if (path.parent / parts).exists() and not (path.parent / parts).is_file():
            raise InputError(
                f"{path}: its data are to be read from {printable(name)[:120]}, which is no file; copy them "
                "to one"
            )


def detached(path: Path) -> list[str]:
    """Names of data files in an MHA or NRRD header."""
    if extension(path) not in ITK:
        return []
    text = header_text(path)
    names: list[str] = []
    for match in _DATA_FILE.finditer(text):
        first, *numbers = match.group(1).split()[:4] or [""]
        if first.upper() == "LIST":
            names += text[match.end() :].split("\n")
        elif "%" in first and len(numbers) == 3 and all(n.isdigit() for n in numbers):
            low, high, step = map(int, numbers)
            numbered = range(low, min(high, low + _MOST_FILES - 1) + 1, step or 1)
            names += [re.sub(r"%(\d{0,2})d", lambda m, n=n: f"{n:{m[1]}d}", first) for n in numbered]
        else:
            names.append(match.group(1))
        if first.upper() == "LOCAL" or not text.startswith("NRRD"):
            break  # what follows in an MHA file is voxels, or the list
    return [name.strip() for name in names if name.strip() and name.strip().upper() != "LOCAL"]


def canonical(path: Path, data: NDArray[Any], affine: NDArray[np.float64], **fields: Any) -> RawImage:
    """Turn (x, y, z) or (x, y, z, t) data with its RAS affine to a `RawImage` in the nearest RAS+ order.

    Raises
    ------
    InputError
        Voxels of a size that no scan of a head has, or slices on the axis of time.
    """
    _plausible(path, data.shape, affine)
    turn = turn_to_ras(affine, data.shape)
    affine = affine @ orientations.inv_ornt_aff(turn, data.shape[:3])
    order = (2, 1, 0) if data.ndim == 3 else (3, 2, 1, 0)
    data = orientations.apply_orientation(data, turn).transpose(order)
    return RawImage(path, np.ascontiguousarray(data, np.float32), affine, **fields)


def _plausible(path: Path, shape: tuple[int, ...], affine: NDArray[np.float64]) -> None:
    if len(shape) == 4 and 1 in shape[:3] and shape[3] > 1:
        raise InputError(
            f"{path}: shape {shape} has one voxel along an axis of space and {shape[3]} along the fourth, "
            "which is time; if a converter put the slices there, save them as the third axis"
        )
    size = np.linalg.norm(affine[:3, :3], axis=0)
    size = [float(v) for v, n in zip(size, shape, strict=False) if n > 1]
    wrong = [v for v in size if not MIN_VOXEL <= v <= MAX_VOXEL]
    if wrong:
        raise InputError(
            f"{path}: voxels of {wrong[0]:.3g} mm are none of a scan ({MIN_VOXEL:g} to {MAX_VOXEL:g} mm); "
            "check the unit of length and the voxel size in its header"
        )


def turn_to_ras(affine: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Orientation of (x, y, z) data for nibabel; one slice stays as it is, so that it fits its pictures."""
    turn: NDArray[np.float64] = orientations.io_orientation(np.eye(4) if shape[2] == 1 else affine)
    return turn


def usable(affine: NDArray[np.float64]) -> bool:
    """True if an affine is finite and spans three dimensions."""
    if not np.isfinite(affine).all():
        return False
    size = np.linalg.norm(affine[:3, :3], axis=0)
    return bool((size > 1e-3).all() and abs(np.linalg.det(affine[:3, :3] / size)) > 1e-3)


def corner_distance(
    one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, int, int]
) -> float:
    """Largest distance in mm between the corners of a (D, H, W) grid under two affines."""
    return float(np.linalg.norm(_corners(one, shape) - _corners(other, shape), axis=0).max())


def overlap(one: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """True if the boxes along the axes of space that hold a (D, H, W) grid under two affines meet."""
    a, b = _corners(one, shape), _corners(other, shape)
    return bool((np.maximum(a.min(1), b.min(1)) <= np.minimum(a.max(1), b.max(1))).all())


def _corners(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Corners of a (D, H, W) grid in mm, shape (3, 8)."""
    d, h, w = shape
    corners = np.array([[x, y, z, 1.0] for x in (0, w - 1) for y in (0, h - 1) for z in (0, d - 1)]).T
    return np.asarray((affine @ corners)[:3], np.float64)


def type_range(dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """0 and the largest value of an unsigned type of 8 or 16 bits; None for other types."""
    return (0.0, float(np.iinfo(dtype).max)) if dtype.kind == "u" and dtype.itemsize <= 2 else None


# -- checks --------------------------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."
