"""Stored volumes of a run as scripts that a page opened from disk can load.

A page opened from ``file://`` may not fetch, but it may add ``<script>`` elements.  So each volume is one
script: 8-bit voxels, gzip, base64.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.errors import InputError
from fusebench.files import read_text
from fusebench.images.nifti_file import load, load_header

from .terms import ROLES, roles_of


@dataclass(frozen=True)
class StoredCase:
    """Volumes of one case in a run folder.

    Attributes
    ----------
    dataset, case : str
    sources, fused : dict
        Files by name; of the fused volumes those on the grid of the sources.
    functional : bool
        The second source shows function, so that results can be coloured by it.
    roles : (str, str)
        What the sources are called.
    chroma : Path, optional
        Of a picture in colour.
    lesion : Path, optional
        Where simulated data has its lesion, 1 inside.
    findings : Path, optional
        Table of the findings that protocol ``readers`` puts in.
    with_findings : dict
        Sources and fused volumes with them, by name.
    """

    dataset: str
    case: str
    sources: dict[str, Path]
    fused: dict[str, Path]
    functional: bool = True
    chroma: Path | None = None
    lesion: Path | None = None
    findings: Path | None = None
    with_findings: dict[str, Path] = field(default_factory=dict)
    roles: tuple[str, str] = ROLES


def stored_cases(folder: Path) -> Iterator[StoredCase]:
    """Cases of a run folder whose sources and fused volumes were kept.

    Volumes of another grid, as a folder that was used again can hold, are left out.
    """
    for sources in sorted(folder.glob("fused/*/*/sources")):
        case = sources.parent
        named = {n: sources / f"{n}.nii.gz" for n in ("mri", "pet") if (sources / f"{n}.nii.gz").is_file()}
        if len(named) < 2:
            continue
        grid = _grid(named["mri"])
        fused = {p.name.removesuffix(".nii.gz"): p for p in _files(case) if _fits(p, grid)}
        chroma, lesion = sources / "chroma.nii.gz", sources / "lesion.nii.gz"
        table = case / "findings" / "findings.csv"
        with_ = {p.name.removesuffix(".nii.gz"): p for p in _files(case / "findings") if _fits(p, grid)}
        if fused:
            yield StoredCase(
                case.parent.name,
                case.name,
                named,
                fused,
                bool(_noted(named["pet"]).get("functional", True)),
                chroma if chroma.is_file() else None,
                lesion if lesion.is_file() and _fits(lesion, grid) else None,
                table if table.is_file() else None,
                with_ if table.is_file() else {},
                roles_of({"roles": [_noted(named[n]).get("role") for n in ("mri", "pet")]}),
            )


def of_runs(
    folders: Mapping[Path, Collection[str]], gone: Mapping[Path, Collection[str]] | None = None
) -> dict[str, StoredCase]:
    """Stored cases by ``dataset/case``, with the fused volumes of all folders.

    Parameters
    ----------
    folders : mapping
        The cases whose volumes count, by run folder; of equal volumes the later folder's counts.
    gone : mapping, optional
        ``dataset/case/method`` of volumes that do not, by run folder.
    """
    found: dict[str, StoredCase] = {}
    for folder, names in folders.items():
        for case in stored_cases(folder):
            name = f"{case.dataset}/{case.case}"
            if name not in names:  # rows of other data were left out, and so are their images
                continue
            out = (gone or {}).get(folder, ())
            fused, with_ = (
                {method: path for method, path in volumes.items() if f"{name}/{method}" not in out}
                for volumes in (case.fused, case.with_findings)
            )
            if not fused:
                continue
            if before := found.get(name):
                fused, with_ = {**before.fused, **fused}, {**before.with_findings, **with_}
            found[name] = replace(case, fused=fused, with_findings=with_ if case.findings else {})
    return found


def _files(folder: Path) -> list[Path]:
    """Volumes in a folder; a pipe, say, would keep its reader waiting for ever."""
    return [path for path in sorted(folder.glob("*.nii.gz")) if path.is_file()]


def _grid(path: Path) -> tuple[Any, Any] | None:
    """Shape and affine by the header alone; None of a file that cannot be read, which reading it will say."""
    try:
        image: Any = load_header(path)
        return image.shape, image.affine
    except Exception:  # of a damaged file nibabel raises nearly anything
        return None


def _fits(path: Path, grid: tuple[Any, Any] | None) -> bool:
    own = _grid(path)
    return own is None or grid is None or (own[0] == grid[0] and np.allclose(own[1], grid[1], atol=1e-3))


def _noted(path: Path) -> dict[str, Any]:
    """What a run noted of a source; nothing where it noted nothing."""
    try:
        image: Any = load_header(path)
        noted = json.loads(image.header.extensions[0].get_content())
        return noted if isinstance(noted, dict) else {}
    except Exception:  # no note, or none of ours
        return {}


def findings(path: Path) -> list[dict[str, Any]]:
    """Findings of a case for the viewer.

    Parameters
    ----------
    path : Path
        Table with columns ``kind`` (a, b), ``sign``, ``sigma`` in mm, and the voxel ``d, h, w``.

    Returns
    -------
    list of dict
        ``kind`` ("structural" or "functional"), ``sign`` (1 or -1), ``at`` (voxel d, h, w), ``radius`` in mm:
        two standard deviations, where nearly all of a finding lies.

    Raises
    ------
    InputError
        Not such a table.
    """
    kinds = {"a": "structural", "b": "functional"}
    try:
        return [
            {
                "kind": kinds[row["kind"]],
                "sign": int(row["sign"]),
                "at": [int(row[axis]) for axis in "dhw"],
                "radius": 2 * float(row["sigma"]),
            }
            for row in csv.DictReader(io.StringIO(read_text(path), newline=""))
        ]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: no table of findings ({error!r}); run the same command again") from None


def _opened(path: Path) -> tuple[Any, NDArray[np.float32]]:
    """The image and its voxels (x, y, z): of a file read to its end, where its checksum is."""
    try:
        image: Any = load(path)
        return image, np.asarray(image.dataobj, dtype=np.float32)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes nibabel and zlib raise nearly anything
        reason = " ".join(str(error).removeprefix(f"{path}: ").split())[:160]
        raise InputError(
            f"{path}: not a readable NIfTI file ({reason}); run the same command again"
        ) from None


def read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Voxels (..., D, H, W) of a stored volume, channels first, and its affine."""
    image, data = _opened(path)
    return np.ascontiguousarray(data.T), np.asarray(image.affine, dtype=np.float64)


def geometry(path: Path) -> dict[str, Any]:
    """Facts of a case for the viewer: ``shape`` and ``spacing`` in (D, H, W), ``flat``, ``upright``."""
    image, _ = _opened(path)
    w, h, d = (*image.shape, 1)[:3]
    x, y, z = (float(s) for s in np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0)))
    return {
        "shape": [int(d), int(h), int(w)],
        "spacing": [z, y, x],
        "affine": np.asarray(image.affine).tolist(),
        "flat": d == 1,
        # A picture keeps its rows from the top down; a volume runs from posterior to anterior.
        "upright": bool(image.affine[1, 1] < 0),
    }


def script(key: str, data: NDArray[Any], *, levels: bool = False) -> str:
    """JavaScript that hands a volume to the viewer.

    Parameters
    ----------
    key : str
        Name the viewer asks for.
    data : ndarray, shape (..., D, H, W)
    levels : bool
        It holds levels 0..255 (chroma) and not [0, 1].
    """
    voxels = np.clip(np.rint(np.nan_to_num(data) * (1 if levels else 255)), 0, 255).astype(np.uint8)
    packed = base64.b64encode(gzip.compress(voxels.tobytes(), compresslevel=6, mtime=0)).decode("ascii")
    # "<" cannot occur in base64; in the key it would be read as markup by an inlined script.
    name = json.dumps(key).replace("<", "\\u003c")
    return f"FuseBench.put({name}, {json.dumps(packed)});\n"
