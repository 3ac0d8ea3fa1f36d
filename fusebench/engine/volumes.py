"""Volumes that a run keeps: fused ones, their sources, and the sources with findings."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..case import Case, Volume
from ..errors import FuseBenchError
from ..files import atomic_path, file_sha256, read_json, stamp, write_text
from ..metric import Trial
from ..store.cache import cache_dir
from ..store.keys import digest
from .spec import Task

Image = NDArray[np.float32]

_HASH = "voxels"  # in the header: sha256 of shape and values
# In the header of a volume: the keys of volumes that were stored beside it, and the sha256 of the table.
_BESIDE, _TABLE = "beside", "table"
SOURCES = ("mri", "pet")


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
            store_sources(path.parent, case, task.data_key)


def save_sources(task: Task, *, sources: bool = True) -> None:
    """Write the sources beside a fused volume that is there, if they may be missing."""
    path = Path(task.fused_path)
    with _said(path.parents[2]):
        if sources:
            store_sources(path.parent, task.case, task.data_key)


def save_findings(task: Task, trial: Trial, fused_with: Image, *, sources: bool = True) -> None:
    """Write what a method makes of findings, and as `save_fused` the sources with them: ``findings/``."""
    path, case = Path(task.fused_path), task.case
    folder = path.parent / "findings"
    rows = list(trial.table())
    key, table = digest(task.data_key, rows), _table(rows)
    beside = {**dict.fromkeys(SOURCES, key), _TABLE: hashlib.sha256(table).hexdigest()}
    with _said(path.parents[2]):
        if has_own_findings(task.method.name):
            store(folder / path.name, fused_with, case.a, task.fuse_key, {_BESIDE: beside})
        if not sources:
            return
        for name, data in zip(SOURCES, (trial.a_with, trial.b_with), strict=True):
            if noted(folder / f"{name}.nii.gz", key) is None:
                store(folder / f"{name}.nii.gz", data, case.a, key)
        with atomic_path(folder / "findings.csv") as temporary:
            temporary.write_bytes(table)


def has_own_findings(method: str) -> bool:
    """True if what a method makes of findings is kept: a source has the name first."""
    return method not in SOURCES


def _table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The findings as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["kind"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


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
    _remember(_memo(path, key), made or {})


def _gzip(content: bytes) -> bytes:
    """Gzip by run lengths: files as small as at level 1 (air packs, noise does not) in half the time."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 16 + zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return packer.compress(content) + packer.flush()


def store_sources(folder: Path, case: Case, key: str) -> None:
    """Write the sources of a case, with colours of a picture and a known lesion, unless they are there."""
    further = _further(case)
    said = {"functional": case.functional, _BESIDE: dict.fromkeys(further, key)}
    for name, volume, role in zip(SOURCES, (case.a, case.b), case.roles, strict=True):
        path = folder / "sources" / f"{name}.nii.gz"
        if noted(path, key) is None:
            store(path, volume.data, volume, key, {**said, "role": role})
    for name, (data, volume) in further.items():
        path = folder / "sources" / f"{name}.nii.gz"
        if noted(path, key) is None:
            store(path, data, volume, key)


def _further(case: Case) -> dict[str, tuple[NDArray[Any], Volume]]:
    """Arrays kept beside the sources, with whose grid it has: colours, and where the lesion is."""
    found: dict[str, tuple[NDArray[Any], Volume]] = {}
    for volume in (case.a, case.b):
        if volume.chroma is not None:
            found["chroma"] = volume.chroma, volume
    truth: Mapping[str, Any] = {}
    with suppress(Exception):  # scores that need it say what is wrong with it
        truth = case.truth or {}
    if "lesion" in truth:
        where = np.asarray(truth["lesion"], np.uint8)
        if where.any():
            found["lesion"] = where, case.a
    return found


class Checked:
    """Says which kept volumes are not as they were stored; each is blamed once, on whoever asks first."""

    def __init__(self) -> None:
        self._blamed: set[Path] = set()

    def lost(self, task: Task) -> bool:
        """True if the fused volume of a task, or a source beside it, has to be stored again."""
        path, key = Path(task.fused_path), task.data_key
        if noted(path, task.fuse_key) is None:
            return True
        folder = path.parent / "sources"
        said = [self._noted(folder / f"{name}.nii.gz", key) for name in SOURCES]
        # A volume of an earlier version does not say what is beside it.
        old = {n: key for n in ("chroma", "lesion") if (folder / f"{n}.nii.gz").exists()}
        beside = (said[0] or {}).get(_BESIDE, old)
        further = [self._noted(folder / f"{name}.nii.gz", own) for name, own in beside.items()]
        return None in (*said, *further)

    def lost_findings(self, task: Task) -> bool:
        """True if what a task keeps of findings has to be stored again."""
        path = Path(task.fused_path)
        folder = path.parent / "findings"
        if not has_own_findings(task.method.name):
            return False
        said = noted(folder / path.name, task.fuse_key)
        if said is None:
            return True
        beside = dict(said.get(_BESIDE, {}))
        table = beside.pop(_TABLE, "")
        keys = beside or dict.fromkeys(SOURCES, "")
        found = [self._noted(folder / f"{name}.nii.gz", own) for name, own in keys.items()]
        return None in found or self._is_blamed(folder / "findings.csv", table)

    def _noted(self, path: Path, key: str) -> dict[str, Any] | None:
        if path in self._blamed:
            return {}
        found = noted(path, key)
        if found is None:
            self._blamed.add(path)
        return found

    def _is_blamed(self, table: Path, sha256: str) -> bool:
        """True, once, of a table that is not as it was stored; "" of one that nobody has hashed."""
        if table in self._blamed or (table.is_file() and sha256 in ("", file_sha256(table))):
            return False
        self._blamed.add(table)
        return True


def noted(path: Path, key: str) -> dict[str, Any] | None:
    """The note on what making a volume took, of one stored under `key`; None where it is not as it was.

    A file is read to its end once, and again when it was written to: reading hundreds takes minutes.
    """
    memo = _memo(path, key)
    if memo is not None:
        with suppress(OSError, ValueError):
            known = read_json(memo)
            if isinstance(known, dict):
                return known
    found = read_stored(path, key)
    if found is None:
        return None
    _remember(memo, found[1])
    return found[1]


def _memo(path: Path, key: str) -> Path | None:
    """File of the cache that says that a volume, as it is stamped now, is whole and of `key`."""
    try:
        name = digest("kept", str(path.resolve()), stamp(path), key)
    except OSError:
        return None
    return cache_dir("kept", name[:2], name)


def _remember(memo: Path | None, made: Mapping[str, Any]) -> None:
    """Note that a volume is as it was stored; a cache that cannot be written costs time, nothing else."""
    if memo is not None:
        with suppress(OSError):
            write_text(memo, json.dumps(dict(made)))


def read_stored(path: Path, key: str) -> tuple[Image, dict[str, Any]] | None:
    """Voxels, and what making them took, of a volume stored under `key`; None where it is not as it was.

    The key "" is any.
    """
    if not path.is_file():
        return None
    from ..images.nifti_file import load  # imports nibabel

    # A damaged file is not an answer, whatever reading it raises; the volume is simply made again.
    try:
        with np.errstate(all="ignore"):
            image = load(path)
            own = image.header["descrip"].item().decode(errors="replace")
            if key and own != f"fusebench {key}":
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
