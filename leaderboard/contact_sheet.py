"""The contact sheet: sources and every method's result side by side, as one PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fusebench.files import atomic_path
from fusebench.images.colour import to_rgb
from fusebench.store.folder import RunFolder

from .volumes import StoredCase, geometry, read, stored_cases

PLANES = ("axial", "coronal", "sagittal")
# Images per line before a new band of rows starts; keeps labels legible on an A4 page.
PER_BAND = 8
# In pixels: width of a panel, space between panels, height of a label and of its letters.
WIDTH, GAP, LABEL, LETTERS = 250, 6, 24, 17


def of_run(folder: Path) -> Path | None:
    """Draw the first case of a run folder whose volumes are kept, unless the sheet there is up to date.

    Returns
    -------
    Path or None
        ``figures/<case>.png``; None where no case is kept.
    """
    case = next(stored_cases(folder), None)
    if case is None:
        return None
    out = RunFolder(folder).figures / f"{case.case}.png"
    newest = _newest(case)
    if out.exists() and out.stat().st_mtime_ns == newest:
        return out
    labels = {"mri": "MRI", "pet": "PET"}
    images = [
        (labels.get(name, name), read(path)[0]) for name, path in {**case.sources, **case.fused}.items()
    ]
    chroma = np.asarray(read(case.chroma)[0], np.uint8) if case.chroma else None
    sheet(images, out, chroma, tuple(geometry(case.sources["mri"])["spacing"]))
    # The time of what it shows: a volume written while it was drawn makes it out of date.
    os.utime(out, ns=(newest, newest))
    return out


def _newest(case: StoredCase) -> int:
    files = [*case.sources.values(), *case.fused.values(), *([case.chroma] if case.chroma else [])]
    # A folder's time changes with its list of files.
    return max(p.stat().st_mtime_ns for p in [*files, *{f.parent for f in files}])


def sheet(
    images: Sequence[tuple[str, Any]],
    path: str | Path,
    chroma: NDArray[np.uint8] | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Path:
    """Draw the centre slices of some volumes.

    Parameters
    ----------
    images : sequence of (label, volume)
        Volumes are arrays (D, H, W) in [0, 1], or have such an array as ``data``.  A 2D image (D = 1) has
        one panel, a volume three, with the patient's left and right marked.  The first image (the structural
        one) stays grey where there is chroma.
    path : path
        PNG to write.
    chroma : ndarray, shape (2, D, H, W), uint8, optional
        Full-range BT.601 Cb and Cr, for a coloured functional source and what is fused with it.
    spacing : tuple of float
        Voxel size (D, H, W); panels keep true proportions.

    Returns
    -------
    Path
    """
    volumes = [(label, np.asarray(getattr(v, "data", v), dtype=np.float32)) for label, v in images]
    # A volume is RAS+, so its first column is the patient's left; of a picture the sides are not known.
    sides = not all(v.shape[0] == 1 for _, v in volumes)
    planes = PLANES if sides else PLANES[:1]
    columns = [
        (label, [_panel(volume, plane, spacing, chroma if i else None) for plane in planes])
        for i, (label, volume) in enumerate(volumes)
    ]
    per_band = min(PER_BAND, len(columns))
    heights = [max(panels[row].height for _, panels in columns) for row in range(len(planes))]
    band = LABEL + sum(heights) + GAP * len(planes)
    bands = -(-len(columns) // per_band)
    page = Image.new(
        "L" if chroma is None else "RGB", (per_band * (WIDTH + GAP) + GAP, bands * band + GAP), "white"
    )
    draw, font = ImageDraw.Draw(page), _font()
    for i, (label, panels) in enumerate(columns):
        x, top = GAP + i % per_band * (WIDTH + GAP), GAP + i // per_band * band
        draw.text((x + WIDTH / 2, top + LABEL / 2), _shorten(label), "black", font, anchor="mm")
        top += LABEL
        for plane, panel, height in zip(planes, panels, heights, strict=True):
            left = x + (WIDTH - panel.width) // 2
            page.paste(panel, (left, top + (height - panel.height) // 2))
            if sides and plane != "sagittal":
                for side, at, anchor in (("L", left + 4, "lm"), ("R", left + panel.width - 4, "rm")):
                    where = (at, top + height / 2)
                    draw.text(where, side, "white", font, anchor, stroke_width=1, stroke_fill="black")
            top += height + GAP
    path = Path(path)
    with atomic_path(path) as temporary:
        page.save(temporary, "png", dpi=(150, 150))
    return path


def _panel(
    volume: NDArray[np.float32],
    plane: str,
    spacing: tuple[float, float, float],
    chroma: NDArray[np.uint8] | None,
) -> Image.Image:
    picture, aspect = centre_slice(volume, plane, spacing)
    if chroma is not None:
        levels = to_rgb(picture, np.stack([centre_slice(c, plane)[0] for c in chroma]))
    else:
        levels = np.rint(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
    height, width = picture.shape[0] * aspect, picture.shape[1]
    scale = WIDTH / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(np.ascontiguousarray(levels)).resize(size, Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib ships it: knows Greek, Cyrillic and symbols.  matplotlib is not imported."""
    spec = find_spec("matplotlib")
    for folder in spec.submodule_search_locations or () if spec else ():
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.exists():
            return ImageFont.truetype(str(file), LETTERS)
    return ImageFont.load_default(LETTERS)


def centre_slice(
    volume: NDArray[Any], plane: str, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[NDArray[Any], float]:
    """The middle slice of a (D, H, W) volume, anterior or superior up, and its pixel aspect.

    A 2D image is a picture: its first row is the top already.
    """
    axis = PLANES.index(plane)
    picture = np.take(volume, volume.shape[axis] // 2, axis=axis)
    rest = [s for i, s in enumerate(spacing) if i != axis]
    return (picture if len(volume) == 1 else picture[::-1]), rest[0] / rest[1]


def _shorten(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"
