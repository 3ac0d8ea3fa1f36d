"""The contact sheet of a run: sources and every method's result side by side, as one PNG."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from fusebench.engine.manifest import read_manifest
from fusebench.images.colour import DEFAULT_MAP, tint
from fusebench.images.sheet import RADIOLOGICAL, View, sheet
from fusebench.store.folder import RunFolder

from .volumes import StoredCase, geometry, read, stored_cases


def of_run(folder: Path, *, radiological: bool = False) -> Path | None:
    """Draw the first case of a run folder whose volumes are kept, unless the sheet there is up to date.

    Parameters
    ----------
    folder : Path
    radiological : bool
        The patient's right on the left.

    Returns
    -------
    Path or None
        ``figures/<case>.png``; None where no case is kept.
    """
    case = next(stored_cases(folder), None)
    if case is None:
        return None
    out = RunFolder(folder).figures / f"{case.case}.png"
    newest, note = _newest(case), RADIOLOGICAL if radiological else ""
    if out.exists() and out.stat().st_mtime_ns == newest and _note(out) == note:
        return out
    facts = read_manifest(folder).get("methods", {}) if RunFolder(folder).manifest.exists() else {}
    labels = dict(zip(("mri", "pet"), case.roles, strict=True))
    images = [
        (labels.get(name, name), read(path)[0]) for name, path in {**case.sources, **case.fused}.items()
    ]
    chroma = np.asarray(read(case.chroma)[0], np.uint8) if case.chroma else None
    if chroma is None and case.functional:
        chroma = tint(images[1][1])
    view = View(
        tuple(geometry(case.sources["mri"])["spacing"]),
        radiological=radiological,
        map="" if case.chroma else DEFAULT_MAP,
    )
    controls = {name for name, info in facts.items() if info.get("control")}
    sheet(images, out, chroma, view, controls=controls, note=note)
    # The time of what it shows: a volume written while it was drawn makes it out of date.
    os.utime(out, ns=(newest, newest))
    return out


def _note(path: Path) -> str:
    """What a sheet says of its view, in its header."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("fusebench", ""))
    except OSError:  # no picture: it is drawn again
        return "damaged"


def _newest(case: StoredCase) -> int:
    files = [*case.sources.values(), *case.fused.values(), *([case.chroma] if case.chroma else [])]
    # A folder's time changes with its list of files.
    return max(p.stat().st_mtime_ns for p in [*files, *{f.parent for f in files}])
