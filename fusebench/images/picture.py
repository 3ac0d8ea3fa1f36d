"""PNG, TIFF, JPEG and the like, by what their tags say: one slice or a stack, grey or colour.

One gate for sources, masks and fused images.  Palettes, transparency, orientation and inverted scales are
resolved; what cannot be read right (animations, CMYK, 16-bit colour of a PNG) is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import open_plain
from ..limits import check_memory
from . import colour
from .raw import RawImage, extension, first_line, type_range

Plane = Callable[[NDArray[Any]], NDArray[Any]]

# Affine of a picture: 1 mm pixels, rows run from the top (anterior) down.
UPRIGHT = np.diag([1.0, -1.0, 1.0, 1.0])

_FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Bytes of pixels: never more than the first; than the second only where the file is large too.
_MOST, _LARGE = 4 << 30, 64 << 20
_UNSEEN = "has transparent pixels; they are taken as black"


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels of a picture as it is seen.

    Attributes
    ----------
    values : ndarray, shape (N, H, W) or, in colour, (N, H, W, 3)
        Upright, over the whole range of its type where that is uint8 or uint16.
    coloured : bool
    notes : tuple of str
    """

    values: NDArray[Any]
    coloured: bool = False
    notes: tuple[str, ...] = ()


def read(path: Path, plane: Plane) -> RawImage:
    """Read a picture; `plane` says what of colour is fused."""
    try:
        if _head(path, 4) in _TIFF:
            from . import tiff as reader

            picture = reader.read(path)
        else:
            picture = read_pillow(path)
    except (InputError, MemoryError):
        raise
    # Pillow and tifffile raise many types on damaged files (OSError, SyntaxError, struct.error...).
    except Exception as error:
        raise InputError(
            f"{path}: not a readable picture ({first_line(error)}); save or download it again"
        ) from None
    pixels, kind, cb_cr = picture.values, type_range(picture.values.dtype), None
    if min(pixels.shape) < 1:
        raise InputError(f"{path}: the picture is empty (shape {pixels.shape}); save it again")
    if picture.coloured and (np.ptp(pixels, axis=-1) == 0).all():
        pixels = pixels[..., 0]
    elif picture.coloured:
        if pixels.dtype not in (np.uint8, np.uint16):
            raise InputError(f"{path}: colour of type {pixels.dtype}; save it with 8 or 16 bits")
        cb_cr = colour.chroma(pixels)
        # A plane takes one picture, (H, W, 3).
        pixels = np.stack([plane(picture) for picture in pixels])
    full = (0.0, 255.0) if pixels.dtype == np.uint8 else None
    if picture.coloured and not np.issubdtype(pixels.dtype, np.integer):
        full = kind = (0.0, 1.0)  # a plane that computes its own scale returns [0, 1]
    return RawImage(path, pixels.astype(np.float32), UPRIGHT, full, cb_cr, picture.notes, type_range=kind)


def read_pillow(path: Path) -> Pixels:
    """Pixels of a PNG, JPEG, GIF, BMP or WebP."""
    from PIL import Image, ImageOps

    notes: tuple[str, ...] = ()
    with Image.open(path, formats=_FORMATS) as image:
        kind = image.format
        frames = int(getattr(image, "n_frames", 1))
        if frames > 1:
            raise InputError(f"{path}: holds {frames} pictures (an animation?); save the one that is meant")
        check_size(path, image.width * image.height, _bytes_of(image))
        if kind == "PNG":
            _check_png(path)
        if kind in ("JPEG", "MPO"):
            notes = ("JPEG is lossy; scores of it include its artefacts",)
        if kind == "GIF":
            notes = ("GIF keeps 256 colours at most; scores of it include what that cost",)
        if kind == "WEBP" and b"VP8L" not in _head(path, 4096):
            notes = ("WebP without VP8L is lossy; scores of it include its artefacts",)
        image.load()
        # Viewers turn a picture by its tag, so that is how it was looked at, cropped and paired.
        upright = ImageOps.exif_transpose(image)
        found = resolve(path, upright)
    return Pixels(found.values, found.coloured, notes + found.notes)


def check_size(path: Path, pixels: int, each: int) -> None:
    """Refuse a picture that declares more than its file can hold, any slice has, or there is memory for.

    Parameters
    ----------
    path : Path
    pixels : int
        In all planes.
    each : int
        Bytes of a pixel.
    """
    declared = pixels * each
    if declared > _MOST or declared > _LARGE + 1100 * path.stat().st_size:
        raise InputError(
            f"{path}: the header declares {declared >> 20} MiB of pixels; this is no slice, check it"
        )
    # Decoded, turned, resolved; then luminance and chroma, and up to three planes of float32.
    check_memory(path, pixels * (3 * each + 12))


def _bytes_of(image: Any) -> int:
    """Bytes of a pixel as it is resolved: of a palette, those of its colours."""
    wide = 4 if image.mode.startswith(("I", "F")) else 1
    return wide * (4 if image.mode in ("P", "PA") else len(image.getbands()))


def _head(path: Path, length: int) -> bytes:
    with open_plain(path) as handle:
        return handle.read(length)


def _check_png(path: Path) -> None:
    """Refuse the 16-bit kinds that Pillow cuts to 8 bits without a word."""
    head = _head(path, 26)
    depth, kind = head[24], head[25]
    names = {2: "colour", 4: "grey with alpha", 6: "colour with alpha"}
    if depth == 16 and kind in names:
        raise InputError(
            f"{path}: PNG of 16-bit {names[kind]} would lose its low bits; save it as 16-bit grey PNG, "
            "or as TIFF"
        )


def resolve(path: Path, image: Any) -> Pixels:
    """Pixels of a loaded Pillow image: palette and transparency resolved by its mode and tags."""
    mode, unseen = image.mode, image.info.get("transparency")
    if mode.startswith(("I", "F")):
        values = np.asarray(image)
        values = values.astype(values.dtype.newbyteorder("="))
        if mode == "I" and values.min() >= 0 and values.max() < 1 << 16:
            values = values.astype(np.uint16)
        notes: tuple[str, ...] = ()
        if unseen is not None and (values == unseen).any():
            values, notes = np.where(values == unseen, 0, values).astype(values.dtype), (_UNSEEN,)
        return Pixels(values[None], notes=notes)
    if mode in ("La", "RGBa"):  # multiplied by alpha already, which is how it looks on black
        values = np.asarray(image)
        return _opaque(values[..., :-1], None)
    if mode in ("LA", "PA", "RGBA") or (mode in ("1", "L", "P", "RGB") and unseen is not None):
        values = np.asarray(image.convert("RGBA"))
        return _opaque(values[..., :3], values[..., 3])
    if mode in ("1", "L"):
        return Pixels(np.asarray(image.convert("L"))[None])
    if mode in ("P", "RGB", "RGBX"):
        return Pixels(np.asarray(image.convert("RGB"))[None], True)
    raise InputError(f"{path}: pictures of mode {mode} have no colours of their own; save as grey or RGB")


def _opaque(values: NDArray[Any], alpha: NDArray[Any] | None) -> Pixels:
    shown, notes = over_black(values[None], None if alpha is None else alpha[None])
    coloured = shown.shape[-1] == 3
    return Pixels(shown if coloured else shown[..., 0], coloured, notes)


def over_black(values: NDArray[Any], alpha: NDArray[Any] | None) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Colours (..., C) as they look on black; no colour that nobody sees gets through.

    Black is the background of heads.  On white, the air of a head that was cut out would be the brightest.
    """
    if alpha is None:
        return values, (_UNSEEN,)
    full = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1.0
    if (alpha == full).all():
        return values, ()
    colours, opacity = values.reshape(-1, values.shape[-1]), alpha.reshape(-1)
    shown = np.empty(colours.shape, values.dtype)
    for some in colour.blocks(len(colours)):
        light = colours[some] * (opacity[some, None] / full)
        shown[some] = np.rint(light) if values.dtype.kind in "ui" else light
    return shown.reshape(values.shape), (_UNSEEN,)


def encode(path: Path, data: NDArray[np.float32], chroma: NDArray[np.uint8] | None) -> bytes:
    """PNG or TIFF content of one slice (1, H, W) in [0, 1], coloured by `chroma`, 8 bits."""
    from PIL import Image

    if data.shape[0] != 1:
        raise InputError(f"{path}: a picture holds one slice, the image has {data.shape[0]}; use .nii.gz")
    if chroma is not None:
        pixels = colour.to_rgb(data, chroma)[0]
    else:
        pixels = np.rint(np.clip(data[0], 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG" if extension(path) == ".png" else "TIFF")
    return buffer.getvalue()
