"""A sheet of pictures: some volumes side by side, three planes each and one in colour, as PNG."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from ..files import atomic_path
from .colour import ramp, to_rgb

Spacing = tuple[float, float, float]
Place = tuple[int, int, int]

PLANES = ("axial", "coronal", "sagittal")
NEUROLOGICAL = "patient's left on the left"
RADIOLOGICAL = "radiological view: patient's right on the left"
# Images per line before a new band of rows starts; keeps labels legible on an A4 page.
PER_BAND = 8
# In pixels: width of a panel, space between panels, height of a label and of its letters.
WIDTH, GAP, LABEL, LETTERS = 250, 6, 24, 17


@dataclass(frozen=True)
class View:
    """How a sheet shows its volumes.

    Attributes
    ----------
    spacing : tuple of float
        Voxel size (D, H, W) in mm; panels keep true proportions.
    radiological : bool
        The patient's right on the left, as at a workstation; else the patient's left.
    at : tuple of int, optional
        The voxel (d, h, w) that all planes go through; default the middle.
    map : str
        The colour map behind the chroma, for the legend; "" where a picture carries its own colours.
    """

    spacing: Spacing = (1.0, 1.0, 1.0)
    radiological: bool = False
    at: Place | None = None
    map: str = ""


def sheet(
    images: Sequence[tuple[str, Any]],
    path: str | Path,
    chroma: NDArray[np.uint8] | None = None,
    view: View | None = None,
    *,
    controls: Collection[str] = (),
    note: str = "",
) -> Path:
    """Draw slices of some volumes.

    Parameters
    ----------
    images : sequence of (label, volume)
        Volumes are arrays (D, H, W) in [0, 1], or have such an array as ``data``.  A 2D image (D = 1) has
        one plane, a volume three, with the patient's left and right marked.
    path : path
        PNG to write.
    chroma : ndarray, shape (2, D, H, W), uint8, optional
        Full-range BT.601 Cb and Cr: a further row has each image's luminance in this colour.
    view : View, optional
    controls : collection of str
        Labels that stand apart, below the others.
    note : str
        Kept in the file as the text ``fusebench``.

    Returns
    -------
    Path
    """
    view = view or View()
    volumes = [(label, np.asarray(getattr(v, "data", v), dtype=np.float32)) for label, v in images]
    # A volume is RAS+, so its first column is the patient's left; of a picture the sides are not known.
    sides = not all(v.shape[0] == 1 for _, v in volumes)
    rows = [(plane, False) for plane in (PLANES if sides else PLANES[:1])]
    rows += [("axial", True)] if chroma is not None else []
    groups = [[x for x in volumes if x[0] not in controls], [x for x in volumes if x[0] in controls]]
    bands = [band for group in groups for band in bands_of(group)]
    across = max(len(band) for band in bands)
    drawn = []
    for band in bands:
        heading = LABEL if band[0][0] in controls and band[0] is groups[1][0] else 0
        drawn.append((heading, _band(band, rows, chroma, view, sides=sides)))
    legend = _legend(volumes[0][1].shape, view, across, sides=sides, coloured=chroma is not None)
    height = sum(h + b.height for h, b in drawn) + legend.height + GAP
    page = Image.new("L" if chroma is None else "RGB", (across * (WIDTH + GAP) + GAP, height), "white")
    draw, top = ImageDraw.Draw(page), 0
    for heading, band_image in drawn:
        if heading:
            draw.line([(GAP, top + 2), (page.width - GAP, top + 2)], "black")
            draw.text((GAP, top + GAP + heading / 2), "Controls", "black", font(), anchor="lm")
        page.paste(band_image, (0, top + heading))
        top += heading + band_image.height
    page.paste(legend, (0, top))
    path = Path(path)
    about = PngImagePlugin.PngInfo()
    about.add_text("fusebench", note)
    with atomic_path(path) as temporary:
        page.save(temporary, "png", dpi=(150, 150), pnginfo=about)
    return path


def bands_of(group: Sequence[Any]) -> list[Sequence[Any]]:
    """Parts of at most `PER_BAND`, about as long as one another."""
    count = -(-len(group) // PER_BAND)
    length = -(-len(group) // max(1, count))
    return [group[i * length : (i + 1) * length] for i in range(count)]


def _band(
    volumes: Sequence[tuple[str, NDArray[np.float32]]],
    rows: Sequence[tuple[str, bool]],
    chroma: NDArray[np.uint8] | None,
    view: View,
    *,
    sides: bool,
) -> Image.Image:
    """One line of images: labels, and below each its panels."""
    columns = [
        (label, [panel(v, plane, view, chroma if tinted else None) for plane, tinted in rows])
        for label, v in volumes
    ]
    heights = [max(panels[row].height for _, panels in columns) for row in range(len(rows))]
    page = Image.new(
        "RGB", (len(columns) * (WIDTH + GAP) + GAP, GAP + LABEL + sum(heights) + GAP * len(rows)), "white"
    )
    draw = ImageDraw.Draw(page)
    for i, (label, panels) in enumerate(columns):
        x, top = GAP + i * (WIDTH + GAP), GAP + LABEL
        draw.text((x + WIDTH / 2, GAP + LABEL / 2), _shorten(label), "black", font(), anchor="mm")
        for (plane, _), picture, height in zip(rows, panels, heights, strict=True):
            left = x + (WIDTH - picture.width) // 2
            page.paste(picture, (left, top + (height - picture.height) // 2))
            if sides and plane != "sagittal":
                letters = "RL" if view.radiological else "LR"
                ends = ((left + 4, "lm"), (left + picture.width - 4, "rm"))
                for side, (at, anchor) in zip(letters, ends, strict=True):
                    where = (at, top + height / 2)
                    draw.text(where, side, "white", font(), anchor, stroke_width=1, stroke_fill="black")
            top += height + GAP
    return page


def _legend(shape: tuple[int, ...], view: View, across: int, *, sides: bool, coloured: bool) -> Image.Image:
    """What is shown, in words: slices, sides, and the colours with their bar."""
    at = view.at or tuple(n // 2 for n in shape)
    parts = []
    if sides:
        parts.append(", ".join(f"{p} {i + 1} of {n}" for p, i, n in zip(PLANES, at, shape, strict=True)))
        parts.append(RADIOLOGICAL if view.radiological else NEUROLOGICAL)
    if coloured:
        parts.append("in colour: light as the image above, hue by the functional image")
    width, letters = across * (WIDTH + GAP) + GAP, font()
    lines = _lines(parts, width - 2 * GAP, letters)
    bar = LABEL if coloured and view.map else 0
    page = Image.new("RGB", (width, len(lines) * LABEL + bar), "white")
    draw = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        draw.text((GAP, (i + 0.5) * LABEL), line, "black", letters, anchor="lm")
    if bar:
        y = len(lines) * LABEL
        draw.text((GAP, y + LABEL / 2), "no uptake", "black", letters, anchor="lm")
        left = GAP * 3 + round(letters.getlength("no uptake"))
        strip = Image.fromarray(ramp(view.map)[None]).resize((180, LETTERS))
        page.paste(strip, (left, y + (LABEL - LETTERS) // 2))
        draw.text((left + 180 + 2 * GAP, y + LABEL / 2), "high", "black", letters, anchor="lm")
    return page


def _lines(parts: Sequence[str], width: float, letters: Any) -> list[str]:
    """Parts joined to lines no longer than `width`, where a part fits at all."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]} · {part}" if lines else part
        if lines and letters.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return lines


def panel(
    volume: NDArray[np.float32],
    plane: str,
    view: View,
    chroma: NDArray[np.uint8] | None = None,
    width: int = WIDTH,
) -> Image.Image:
    """One slice of a volume as a picture whose longer side is `width`, in colour where there is chroma."""
    picture, aspect = slice_of(volume, plane, view)
    if chroma is not None:
        levels = to_rgb(picture, np.stack([slice_of(c, plane, view)[0] for c in chroma]))
    else:
        levels = np.rint(np.clip(np.nan_to_num(picture), 0, 1) * 255).astype(np.uint8)
    height, across = picture.shape[0] * aspect, picture.shape[1]
    scale = width / max(across, height)
    size = (max(1, round(across * scale)), max(1, round(height * scale)))
    return Image.fromarray(np.ascontiguousarray(levels)).resize(size, Image.Resampling.NEAREST)


def slice_of(volume: NDArray[Any], plane: str, view: View) -> tuple[NDArray[Any], float]:
    """A slice of a (D, H, W) volume, anterior or superior up, and its pixel aspect.

    A 2D image is a picture: its first row is the top already, and its sides are not known.
    """
    axis = PLANES.index(plane)
    at = (view.at or tuple(n // 2 for n in volume.shape))[axis]
    picture = np.take(volume, at, axis=axis)
    rest = [s for i, s in enumerate(view.spacing) if i != axis]
    if len(volume) > 1:
        picture = picture[::-1]
        if view.radiological and plane != "sagittal":
            picture = picture[:, ::-1]
    return picture, rest[0] / rest[1]


def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu Sans as matplotlib ships it: knows Greek, Cyrillic and symbols.  matplotlib is not imported."""
    spec = find_spec("matplotlib")
    for folder in spec.submodule_search_locations or () if spec else ():
        file = Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if file.exists():
            return ImageFont.truetype(str(file), LETTERS)
    return ImageFont.load_default(LETTERS)


def _shorten(label: str) -> str:
    return label if len(label) <= 20 else label[:19] + "…"
