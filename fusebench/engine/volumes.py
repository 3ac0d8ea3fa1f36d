"""Volumes that a run keeps: fused ones, their sources, and the sources with findings."""

from __future__ import annotations

import csv
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..case import Case, Volume
from ..errors import FuseBenchError
from ..files import atomic_path
from ..images.packed import MAX_BYTES, unpack
from ..metric import Trial
from ..store.keys import digest
from .spec import Task

Image = NDArray[np.float32]

_HASH = "voxels"  # in the header: sha256 of shape and values


@contextmanager
def _said(folder: Path) -> Iterator[None]:
    """A full disk is one line about the folder of all volumes: said once for every task."""
    try:
        yield
    except OSError as error:
        raise FuseBenchError(
            f"{folder}: {error.strerror}; what was stored is kept: make room and run the same command"
        ) from None


def save_fused(
    task: Task, fused: Image, case: Case, made: Mapping[str, Any], *, sources: bool = True
) -> None:
    """Write a fused volume, a picture in colour, and the sources beside it if they may be missing."""
    path = Path(task.fused_path)
    with _said(path.parents[2]):
        store(path, fused, case.a, task.fuse_key, made)
        if fused.shape[0] == 1:  # a picture, in the colours of its functional source
            from ..images.read_write import write_image

            write_image(path.with_name(path.name.removesuffix(".nii.gz") + ".png"), fused, like=case.b)
        if sources:
            store_sources(path.parent, case)


def save_findings(task: Task, trial: Trial, fused_with: Image, *, sources: bool = True) -> None:
    """Write what a method makes of findings, and as `save_fused` the sources with them: ``findings/``."""
    path, case = Path(task.fused_path), task.case
    folder = path.parent / "findings"
    with _said(path.parents[2]):
        store(folder / path.name, fused_with, case.a, task.fuse_key)
        if not sources:
            return
        rows = list(trial.table())
        key = digest(case.fingerprint, rows)
        for name, data in (("mri", trial.a_with), ("pet", trial.b_with)):
            if read_stored(folder / f"{name}.nii.gz", key) is None:
                store(folder / f"{name}.nii.gz", data, case.a, key)
        with atomic_path(folder / "findings.csv") as temporary, open(temporary, "w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]) if rows else ["kind"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def store(
    path: Path, data: NDArray[Any], like: Volume, key: str, made: Mapping[str, Any] | None = None
) -> None:
    """Write NIfTI with the content key, and what making it took, in its header."""
    import nibabel as nib  # half a second, for runs that keep volumes

    image = nib.Nifti1Image(np.ascontiguousarray(data.T), like.affine)
    image.header["descrip"] = f"fusebench {key}".encode()
    said = {**(made or {}), _HASH: _hash(data)}
    note = nib.nifti1.Nifti1Extension("comment", json.dumps(said).encode())
    image.header.extensions.append(note)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(_gzip(image.to_bytes()))


def _gzip(content: bytes) -> bytes:
    """Gzip by run lengths: files as small as at level 1 (air packs, noise does not) in half the time."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(content) + packer.flush()


def store_sources(folder: Path, case: Case) -> None:
    """Write the sources of a case, with colours of a picture and a known lesion, where they are not there."""
    for name, volume, role in zip(("mri", "pet"), (case.a, case.b), case.roles, strict=True):
        path = folder / "sources" / f"{name}.nii.gz"
        if read_stored(path, case.fingerprint) is None:
            noted = {"functional": case.functional, "role": role}
            store(path, volume.data, volume, case.fingerprint, noted)
            if volume.chroma is not None:  # for showing results in colour
                store(path.with_name("chroma.nii.gz"), volume.chroma, volume, case.fingerprint)
    lesion = folder / "sources" / "lesion.nii.gz"
    if "lesion" in (case.truth or ()) and read_stored(lesion, case.fingerprint) is None:
        assert case.truth is not None
        where = np.asarray(case.truth["lesion"], np.uint8)
        if where.any():  # for showing where it is
            store(lesion, where, case.a, case.fingerprint)


def read_stored(path: Path, key: str) -> tuple[Image, dict[str, Any]] | None:
    """Voxels, and what making them took, of a volume stored under `key`; None where it is not as it was."""
    if not path.is_file():
        return None
    import nibabel as nib

    # A damaged file is not an answer, whatever reading it raises; the volume is simply made again.
    try:
        with np.errstate(all="ignore"):
            image = nib.Nifti1Image.from_bytes(unpack(path.read_bytes(), MAX_BYTES)[0])
            if image.header["descrip"].item().decode(errors="replace") != f"fusebench {key}":
                return None
            made = json.loads(image.header.extensions[0].get_content())
            data = np.asarray(image.dataobj, dtype=np.float32).transpose(2, 1, 0)
        # The sum of gzip is of what was packed; this is of what was made.
        if made.pop(_HASH, "") != _hash(data):
            return None
        return data, made
    except Exception:
        return None


def _hash(data: NDArray[Any]) -> str:
    whole = np.ascontiguousarray(data, np.float32)
    return hashlib.sha256(f"{whole.shape}".encode() + whole.tobytes()).hexdigest()
