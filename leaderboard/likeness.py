"""Learned methods that equal one without learning, by the volumes that a run keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.errors import InputError
from fusebench.files import atomic_path, read_json, stamp
from fusebench.store.folder import RunFolder

from .volumes import StoredCase, read, stored_cases

# Equal is: a correlation above this, or a mean difference below this, where a source is not black.
CORRELATION, DIFFERENCE = 0.9999, 0.003
# Darker than this is background.
_BLACK = 0.02
_CACHE = "likeness.json"


def equals(folder: Path, methods: Mapping[str, Any]) -> dict[str, str]:
    """The unlearned method that each learned one equals in a run folder, where there is one.

    Compared are the volumes of the first case that is kept; what was compared is stored with the files'
    times, so that a board made again reads no volume.

    Parameters
    ----------
    folder : Path
    methods : mapping
        Facts of the manifest by name.
    """
    case = next(stored_cases(folder), None)
    if case is None:
        return {}
    learned = {m for m, info in methods.items() if info.get("params") or info.get("trained_on")}
    made = {m for m, info in methods.items() if not str(info.get("origin", "")).startswith("files:")}
    mine = {m: p for m, p in case.fused.items() if m in learned & made}
    plain = {m: p for m, p in case.fused.items() if m in made - learned}
    if not (mine and plain):
        return {}
    state = {m: list(stamp(p)) for m, p in sorted({**mine, **plain}.items())}
    kept = RunFolder(folder).figures / _CACHE
    known = _stored(kept)
    if known.get("files") != state:
        known = {"files": state, "equals": _compare(case, mine, plain)}
        with suppress(OSError):  # a folder that can only be read is compared each time
            kept.parent.mkdir(exist_ok=True)
            with atomic_path(kept) as temporary:
                temporary.write_text(json.dumps(known), encoding="utf-8")
    found: dict[str, str] = known["equals"]
    return found


def _stored(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _compare(case: StoredCase, learned: dict[str, Path], plain: dict[str, Path]) -> dict[str, str]:
    try:
        seen = np.any([read(p)[0] > _BLACK for p in case.sources.values()], axis=0)
        others = {m: read(p)[0][seen] for m, p in plain.items()}
        return {m: best for m, p in learned.items() if (best := _nearest(read(p)[0][seen], others))}
    except (InputError, IndexError):  # a volume that is damaged, or of another shape, equals nothing
        return {}


def _nearest(image: NDArray[np.float32], others: dict[str, NDArray[np.float32]]) -> str:
    """The name of the nearest of `others` that `image` equals; "" where it equals none."""
    apart = {m: float(np.abs(image - x).mean()) for m, x in others.items()}
    equal = [m for m, x in others.items() if apart[m] < DIFFERENCE or correlation(image, x) > CORRELATION]
    return min(equal, key=lambda m: apart[m], default="")


def correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Pearson's correlation of voxels (N,); 0 where one does not vary."""
    a, b = (v.astype(np.float64) - v.mean(dtype=np.float64) for v in (x, y))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else 0.0
