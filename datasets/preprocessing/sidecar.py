"""JSON sidecars of images, those inherited from higher levels of a BIDS dataset included."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from fusebench.files import read_json
from fusebench.images.raw import EXTENSIONS, extension

_MAX_BYTES = 4 << 20


def sidecars(image: Path) -> list[Path]:
    """JSON files that speak of an image, the farthest first; a nearer one overrides.

    Beside the image, the file of its name.  Below a folder ``sub-*`` also files of its suffix with some of
    its entities, in its own folder or one above, up to the one that holds the subjects (``pet.json``).
    """
    end = extension(image) if extension(image) in EXTENSIONS else ""
    name = image.name[: len(image.name) - len(end)]
    subjects = [i for i, parent in enumerate(image.parents) if parent.name.startswith("sub-")]
    if not subjects:
        own = image.with_name(f"{name}.json")
        return [own] if own.is_file() else []
    *entities, suffix = name.split("_")
    found = []
    for folder in reversed(image.parents[: subjects[-1] + 2]):
        here = [p for p in folder.glob("*.json") if _applies(p.stem, entities, suffix)]
        found += sorted(here, key=lambda p: (p.stem.count("_"), p.name))
    return found


def _applies(stem: str, entities: list[str], suffix: str) -> bool:
    *some, last = stem.split("_")
    return last == suffix and set(some) <= set(entities)


def read_sidecars(image: Path) -> tuple[dict[str, Any], list[str]]:
    """Merged fields of an image's sidecars, and notes on those that cannot be read."""
    fields: dict[str, Any] = {}
    notes = []
    for path in sidecars(image):
        try:
            found = read_json(path, _MAX_BYTES)
        except (OSError, ValueError):
            notes.append(f"sidecar {path.name} cannot be read as JSON; it is passed over")
            continue
        if isinstance(found, dict):
            fields |= found
        else:
            notes.append(f"sidecar {path.name} holds no fields; it is passed over")
    return fields, notes


def frame_durations(fields: dict[str, Any]) -> tuple[float, ...]:
    """``FrameDuration`` in seconds, as it stands; NaN where an entry is no number."""
    values = fields.get("FrameDuration", ())
    values = values if isinstance(values, list) else [values] if values != () else []
    return tuple(_number(v) for v in values)


def _number(value: Any) -> float:
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
