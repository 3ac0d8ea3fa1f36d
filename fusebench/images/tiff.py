"""TIFF by its tags: photometric interpretation, bits, planes, alpha, orientation, pages.

Decoded by tifffile, and by Pillow where a compression needs a package that tifffile leaves to others.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import open_plain
from .picture import Pixels, check_size, over_black, resolve

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = (6, 7)
_MOST_PAGES = 10_000
_NAMES = {4: "a transparency mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab", 9: "ICCLab", 10: "ITULab"}
# Letters of tifffile's axes that may be the slices of one volume; Q and I: pages of one kind.
_SLICES = "ZIQR"
_AXES = {"C": "channels", "T": "time points", "S": "samples"}


def read(path: Path) -> Pixels:
    """Pixels of a TIFF: one plane, or a stack of planes of one kind.

    Raises
    ------
    InputError
        Pages that differ, channels or time points, complex values, colour spaces other than grey, palette,
        RGB and JPEG's YCbCr, and samples that nobody declares.
    """
    import tifffile

    _check_chain(path)
    with tifffile.TiffFile(path) as file:
        series, notes = _series(path, file)
        page = series.keyframe
        pixels = max(1, series.size // max(1, page.samplesperpixel))
        check_size(path, pixels, -(-int(series.nbytes) // pixels))
        if int(page.compression) in _JPEG:
            notes += ("JPEG is lossy; scores of it include its artefacts",)
        pages = [p.aspage() for p in series.pages if p is not None]
        _check(path, page, pages)
        try:
            values = _stack(path, series, page)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            found = _pillow(path, page, [p.index for p in pages])
            return Pixels(found.values, found.coloured, notes + found.notes)
    values, coloured, more = _meaning(path, page, values)
    return Pixels(_upright(values, _orientation(page)), coloured, notes + more)


def _check_chain(path: Path) -> None:
    """Refuse pages that lead in a circle, which tifffile follows for ever."""
    seen: set[int] = set()
    with open_plain(path) as handle:
        head = handle.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack(f"{order}H", head[2:4])[0] == 43
        # Formats of a place and of a number of entries, and bytes of an entry.
        place, count, entry = ("Q", "Q", 20) if big else ("I", "H", 12)
        at = struct.unpack_from(f"{order}{place}", head, 8 if big else 4)[0]
        while at:
            if at in seen or len(seen) >= _MOST_PAGES:
                raise InputError(f"{path}: its pages lead in a circle; save or download it again")
            seen.add(at)
            handle.seek(at)
            (entries,) = struct.unpack(f"{order}{count}", handle.read(struct.calcsize(f"{order}{count}")))
            handle.seek(entries * entry, 1)
            size = struct.calcsize(f"{order}{place}")
            tail = handle.read(size)
            at = struct.unpack(f"{order}{place}", tail)[0] if len(tail) == size else 0


def _series(path: Path, file: Any) -> tuple[Any, tuple[str, ...]]:
    """The one series of full-size pages, and a note on smaller copies."""
    found = [s for s in file.series if not all(p is not None and p.is_reduced for p in s.pages)]
    pages = [p.aspage() for p in file.pages]
    subs = [sub for p in pages for sub in (p.pages or ())]
    if not all(sub.is_reduced for sub in subs):
        raise InputError(f"{path}: pages hold further images (SubIFD); save the one that is meant")
    if len(found) != 1:
        raise InputError(f"{path}: holds {len(pages)} pages that differ; save the one that is meant")
    [series] = found
    small = bool(subs) or len(file.series) > 1 or len(series.levels) > 1
    return series, ("holds smaller copies (thumbnails), which are passed over",) if small else ()


def _check(path: Path, page: Any, pages: list[Any]) -> None:
    """Refuse what cannot be read right, by the tags of every page."""
    first = _facts(page)
    if any(_facts(p) != first for p in pages):
        raise InputError(f"{path}: its {len(pages)} pages differ in kind or orientation; save them alike")
    photometric = int(page.photometric) if page.photometric is not None else _BLACK_IS_ZERO
    jpeg = photometric == _YCBCR and int(page.compression) in _JPEG
    if photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE) and not jpeg:
        name = _NAMES.get(photometric, f"of colour space {photometric}")
        raise InputError(f"{path}: the TIFF is {name}; save it as grey or RGB")
    if page.dtype is None or page.dtype.kind not in "buif":
        raise InputError(f"{path}: voxels of type {page.dtype} are not grey values; save real numbers")
    if photometric == _WHITE_IS_ZERO and page.dtype.kind not in "bu":
        raise InputError(f"{path}: white is zero, which {page.dtype} has no top for; save black as zero")


def _facts(page: Any) -> tuple[Any, ...]:
    table = page.colormap
    return (
        page.photometric,
        page.bitspersample,
        page.sampleformat,
        page.samplesperpixel,
        tuple(page.extrasamples or ()),
        _orientation(page),
        None if table is None else table.tobytes(),
    )


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return int(tag.value) if tag is not None else 1


def _stack(path: Path, series: Any, page: Any) -> NDArray[Any]:
    """Pixels (N, H, W, S)."""
    values, axes = np.asarray(series.asarray()), series.axes
    if values.dtype.byteorder == ">":
        values = values.astype(values.dtype.newbyteorder("="))
    if "S" in axes:
        values = np.moveaxis(values, axes.index("S"), -1)
        axes = axes.replace("S", "")
    else:
        values = values[..., None]
    extra = axes.replace("Y", "").replace("X", "")
    if "Y" not in axes or "X" not in axes or len(extra) > 1 or not set(extra) <= set(_SLICES):
        what = ", ".join(_AXES.get(letter, letter) for letter in extra) or series.axes
        raise InputError(
            f"{path}: TIFF of shape {series.shape} ({what}); save one plane, one stack or an RGB image"
        )
    if extra and axes.index(extra) != 0:
        raise InputError(f"{path}: TIFF with axes {series.axes}; save its slices one after the other")
    return values if extra else values[None]


def _meaning(path: Path, page: Any, values: NDArray[Any]) -> tuple[NDArray[Any], bool, tuple[str, ...]]:
    """(N, H, W) or (N, H, W, 3) of samples (N, H, W, S), whether they are colours, and notes."""
    photometric = int(page.photometric) if page.photometric is not None else _BLACK_IS_ZERO
    bits = int(page.bitspersample)
    if photometric == _PALETTE:
        if page.colormap is None or values.shape[-1] != 1:
            raise InputError(f"{path}: a palette TIFF without a palette; save it as RGB")
        table = np.asarray(page.colormap).T
        table = (table if table.max() < 256 else table >> 8).astype(np.uint8)
        index = values[..., 0]
        if int(index.max()) >= len(table):
            raise InputError(f"{path}: pixels beyond the {len(table)} colours of its palette; save it again")
        return table[index], True, ()
    values = _whole_range(values, bits)
    if photometric == _WHITE_IS_ZERO:
        values = np.iinfo(values.dtype).max - values
    count = 3 if photometric in (_RGB, _YCBCR) else 1
    colours, others = values[..., :count], values[..., count:]
    notes: tuple[str, ...] = ()
    kinds = [int(k) for k in page.extrasamples or ()]
    if others.shape[-1]:
        [kind, *more] = [*kinds, *[0] * others.shape[-1]][: others.shape[-1]]
        if kind in (1, 2) and not more:
            alpha = others[..., 0]
            full: Any = 1 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
            opaque = bool((alpha == full).all())
            colours, notes = over_black(colours, alpha if kind == 2 or opaque else None)
        elif np.ptp(others.reshape(-1, others.shape[-1]), axis=0).any():
            raise InputError(
                f"{path}: {values.shape[-1]} values per pixel, and nothing says what they are; "
                "save it as grey or RGB"
            )
    return (colours, True, notes) if count == 3 else (colours[..., 0], False, notes)


def _whole_range(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Unsigned values of odd widths (1, 4, 12 bits...) over the whole range of 8 or 16."""
    if values.dtype.kind not in "bu" or values.dtype.itemsize > 2:
        return values
    room = 8 * values.dtype.itemsize if values.dtype.kind == "u" else 8
    kind: np.dtype[Any] = np.dtype(np.uint8 if room == 8 else np.uint16)
    if bits == room:
        return values.astype(kind)
    top = 2**bits - 1
    return np.asarray(np.rint(np.minimum(values, top) * (np.iinfo(kind).max / top)), kind)


def _upright(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (N, H, W, ...) as its tag says that it is looked at."""
    if orientation in (5, 6, 7, 8):
        values = np.swapaxes(values, 1, 2)
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    return np.ascontiguousarray(values)


def _pillow(path: Path, page: Any, numbers: list[Any]) -> Pixels:
    """The same from Pillow, which brings most codecs, but cuts 16-bit colour and forgets what is white."""
    from PIL import Image, ImageOps

    bits, samples = int(page.bitspersample), int(page.samplesperpixel)
    white = int(page.photometric) == _WHITE_IS_ZERO
    if (bits > 8 and (samples > 1 or white)) or (bits > 16 and page.dtype.kind == "u"):
        raise InputError(
            f"{path}: compressed TIFF of this kind cannot be read ({bits} bits); save it without compression"
        )
    found = []
    with Image.open(path, formats=("TIFF",)) as image:
        for number in numbers:
            image.seek(int(number))
            image.load()
            found.append(resolve(path, ImageOps.exif_transpose(image)))
    values = np.concatenate([p.values for p in found])
    if bits in range(9, 16):
        values = _whole_range(values.astype(np.uint16), bits)
    notes = dict.fromkeys(n for p in found for n in p.notes)
    return Pixels(values, found[0].coloured, tuple(notes))
