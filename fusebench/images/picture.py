"""PNG, TIFF and the like: one slice, grey or colour."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import colour
from .raw import RawImage, extension, first_line, type_range

Plane = Callable[[NDArray[Any]], NDArray[Any]]

# Affine of a picture: 1 mm pixels, rows run from the top (anterior) down.
UPRIGHT = np.diag([1.0, -1.0, 1.0, 1.0])


def read(path: Path, plane: Plane) -> RawImage:
    """Read a picture; `plane` says what of colour is fused."""
    pixels, notes = _pixels(path)
    if pixels.dtype not in (np.uint8, np.uint16):
        if pixels.ndim == 3 and pixels.shape[-1] == 3:
            raise InputError(f"{path}: colour of type {pixels.dtype}; save it with 8 or 16 bits")
        return RawImage(path, _stack(pixels).astype(np.float32), UPRIGHT, notes=notes)
    kind = type_range(pixels.dtype)
    cb_cr = None
    colourful = pixels.ndim >= 3 and pixels.shape[-1] == 3
    if colourful and (np.ptp(pixels, axis=-1) == 0).all():
        pixels = pixels[..., 0]
    elif colourful:
        cb_cr = colour.chroma(pixels)
        cb_cr = cb_cr.reshape(2, -1, *cb_cr.shape[-2:])
        pixels = plane(pixels)
    full = (0.0, 255.0) if pixels.dtype == np.uint8 else None
    if full is None and not np.issubdtype(pixels.dtype, np.integer):
        full = kind = (0.0, 1.0)  # a plane that computes its own scale returns [0, 1]
    return RawImage(path, _stack(pixels).astype(np.float32), UPRIGHT, full, cb_cr, notes, type_range=kind)


def _pixels(path: Path) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Pixels (H, W), (N, H, W) or (..., H, W, 3) of a picture; alpha and palettes resolved."""
    from PIL import Image

    notes: tuple[str, ...] = ()
    if extension(path) in (".jpg", ".jpeg"):
        notes = ("JPEG is lossy; scores of it include its artefacts",)
    try:
        if extension(path) in (".tif", ".tiff"):
            import tifffile

            try:
                pixels = np.asarray(tifffile.imread(path))
                if pixels.dtype.kind in "uif" and pixels.dtype.byteorder == ">":
                    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
                if pixels.ndim in (3, 4) and pixels.shape[-1] == 4:
                    pixels = pixels[..., :3]
                if pixels.ndim in (2, 3) or (pixels.ndim == 4 and pixels.shape[-1] == 3):
                    return pixels, notes
                raise InputError(f"{path}: TIFF of shape {pixels.shape}; save one plane, stack or RGB image")
            except ValueError as error:
                if "imagecodecs" not in str(error):
                    raise
                # Pillow brings the codecs of compressed TIFF that tifffile leaves to a package of its own.
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(("I", "F")):
                pixels = np.asarray(image)
                if image.mode == "I" and pixels.min() >= 0 and pixels.max() < 1 << 16:
                    pixels = pixels.astype(np.uint16)
                return pixels, notes
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("L")), notes
            if image.mode in ("P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "RGB"):
                return np.asarray(image.convert("RGB")), notes
            raise InputError(f"{path}: pictures of mode {image.mode} are not supported; save as grey or RGB")
    except InputError:
        raise
    # Pillow and tifffile raise many types on damaged files (OSError, SyntaxError, struct.error...).
    except Exception as error:
        raise InputError(
            f"{path}: not a readable picture ({first_line(error)}); save or download it again"
        ) from None


def _stack(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[None] if pixels.ndim == 2 else pixels


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
