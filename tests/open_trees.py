"""Trees with the names of OpenNeuro's datasets and phantom heads in them, and listings of what they hold."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from fusebench.datasets.openneuro.accessions import ACCESSIONS
from fusebench.datasets.openneuro.listing import COLUMNS, read_listing
from scipy import ndimage

from fusebench.testing.images import head

# World of the head to world of the "template", which is larger: what a rigid registration cannot undo.
LARGER = np.diag([1.18, 1.2, 1.16, 1.0])
LARGER[:3, 3] = [2.0, -9.0, 6.0]
# Small heads: registering them takes a second.
_VOXEL = 3.0


def ds004513(folder: Path, sessions: int = 47) -> Path:
    """The derivatives of all or the first sessions, of three different heads; returns the listing."""
    made = [_energetic(folder / "heads" / str(n), n) for n in range(3)]
    rows, seen = [], []
    for file in read_listing(ACCESSIONS["ds004513"].listing):
        session = "_".join(Path(file.path).name.split("_")[:2])
        seen += [] if session in seen else [session]
        if len(seen) > sessions:
            break
        role = next(r for r in ("bet_T1w", "dseg", "xfm", "CMRglc_pet") if r in file.path)
        source = made[len(seen) % 3][role]
        target = folder / "ds004513" / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        rows.append(_row(file.path, target))
    return _listing(folder / "ds004513.csv", rows)


def _energetic(folder: Path, seed: int) -> dict[str, Path]:
    folder.mkdir(parents=True)
    shape = (34, 40, 36)
    a, b, mask = head(shape, seed=seed)
    affine = np.diag([_VOXEL, _VOXEL, _VOXEL, 1.0])
    affine[:3, 3] = [-50.0, -60.0, -42.0]
    # The template's grid runs from right to left, as FSL's does.
    grid = np.diag([-3.6, 3.6, 3.6, 1.0])
    grid[:3, 3] = [70.0, -92.0, -54.0]
    files = {
        "bet_T1w": _save(folder / "t1.nii.gz", 1000 * a, affine),
        "dseg": _save(folder / "dseg.nii.gz", mask.astype(float), affine),
        "CMRglc_pet": folder / "pet.nii.gz",
        "xfm": folder / "xfm.mat",
    }
    back = np.linalg.inv(affine) @ np.linalg.inv(LARGER) @ grid
    index = np.stack(np.meshgrid(*map(np.arange, (40, 46, 38)), indexing="ij")).reshape(3, -1)
    at = (back[:3, :3] @ index + back[:3, 3:])[::-1]
    _save(files["CMRglc_pet"], 30 * ndimage.map_coordinates(b, at, order=1).reshape(40, 46, 38).T, grid)
    # FLIRT's millimetres: the T1w is stored left to right, so its first axis counts from the other end.
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirror[0, 3] = shape[2] - 1
    of_head = np.diag([_VOXEL] * 3 + [1.0]) @ mirror @ np.linalg.inv(affine)
    of_template = np.diag([3.6] * 3 + [1.0]) @ np.linalg.inv(grid)
    np.savetxt(files["xfm"], of_template @ LARGER @ np.linalg.inv(of_head), fmt="%.10f")
    return files


def bids(folder: Path, accession: str, people: int = 2) -> Path:
    """Raw T1w and dynamic PET of the first people of ds002898 or ds004868; returns the listing."""
    rows, seen = [], []
    for file in read_listing(ACCESSIONS[accession].listing):
        subject = file.path.split("/")[0]
        seen += [] if subject in seen else [subject]
        if len(seen) > people:
            break
        a, b, _ = head((34, 40, 36), seed=len(seen))
        affine = np.diag([_VOXEL] * 3 + [1.0])
        affine[:3, 3] = [-50.0, -60.0, -42.0]
        target = folder / accession / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".json":
            sidecar = {"TracerName": ACCESSIONS[accession].tracer, "FrameDuration": [1800, 1800, 900, 900]}
            target.write_text(json.dumps(sidecar))
        elif "_T1w" in file.path:
            _save(target, 1000 * a, affine)
        else:
            # First blood, which is where the tracer will not be; then uptake, twice as much in the end.
            frames = np.stack([1 - b, b, 2 * b, 2 * b]).astype(np.float32)
            image = nib.Nifti1Image((100 * frames).astype(np.int16).transpose(3, 2, 1, 0), affine)
            nib.save(image, target)
        rows.append(_row(file.path, target))
    return _listing(folder / f"{accession}.csv", rows)


def _save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(np.rint(data).astype(np.int16).transpose(2, 1, 0), affine)
    path.write_bytes(gzip.compress(image.to_bytes(), 1, mtime=0))
    return path


def _row(name: str, path: Path) -> tuple[str, int, str, str]:
    return name, path.stat().st_size, "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest(), "v1"


def _listing(path: Path, rows: list[tuple[str, int, str, str]]) -> Path:
    with path.open("w", newline="") as handle:
        csv.writer(handle).writerows([COLUMNS, *rows])
    return path
