"""From two files to a prepared, cached `Pair`: sources, recipes, content keys, cases."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.case import Case, Pair, Volume
from fusebench.errors import InputError
from fusebench.files import atomic_path
from fusebench.images import read_write
from fusebench.images.dicom import read_dicom
from fusebench.images.foreground import foreground
from fusebench.images.raw import PICTURES, RawImage, extension, image_files
from fusebench.images.read_write import check_grid, intensity_range, read_mask, read_raw, scale
from fusebench.store.cache import cache_dir, cached_arrays
from fusebench.store.contents import remembered_sha256
from fusebench.store.keys import content_key, minor_versions, source_key

from .flirt import world_to_world
from .grid import Image
from .looks import doubts_as_is
from .sidecar import frame_durations, read_sidecars, sidecars
from .steps import (
    BiasField,
    CheckHead,
    Intensity,
    Mask,
    PaperTensor,
    RegisterRigid,
    State,
    Static,
    Step,
    ToBox,
    ToMri,
    Window,
    run_steps,
)

RECIPES: dict[str, str] = {
    "default": "static PET, PET→MRI rigid, N4 where not done, head mask, 128³ at 1.75 mm, robust intensities",
    "paper": "the DC2Fusion authors': rigid, crop to MRI > 0, pad 224³, resize 128³, min-max",
    "native": "static PET, PET→MRI rigid, on the grid of the MRI, robust intensities",
    "none": "voxels as they are; both images must lie on one grid; min-max",
}

_log = logging.getLogger("fusebench")

_REMEDY = "resample it first, or use --data-option recipe=default"


@dataclass(frozen=True)
class PairSource:
    """One pair of files.

    Parameters
    ----------
    id, group : str
        Case and subject.
    mri, pet : Path
        Files, or folders of one DICOM series.
    mri_files, pet_files : tuple of Path
        The files of a DICOM series where the folder holds more than that.
    mask : Path, optional
        The user's mask.
    transform : Path, optional
        The dataset's matrix of FLIRT from the MRI to the grid of the PET.
    aligned : bool
        The layout says that both lie in one space.
    bias_corrected : bool
        The MRI is (N3, N4).
    functional : bool
        The second image shows function (PET, SPECT).
    window : (float, float), optional
        Range of the second image in its own units, beyond which it is clipped.
    meta : mapping
        Columns for the report and the case.
    """

    id: str
    group: str
    mri: Path
    pet: Path
    mri_files: tuple[Path, ...] = ()
    pet_files: tuple[Path, ...] = ()
    mask: Path | None = None
    transform: Path | None = None
    aligned: bool = False
    bias_corrected: bool = True
    functional: bool = True
    window: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_picture(self) -> bool:
        return extension(self.mri) in PICTURES


def steps_of(recipe: str, *, register: str = "auto", mask: str = "head", size: int = 128) -> tuple[Step, ...]:
    """The steps of a named recipe.

    Raises
    ------
    InputError
        No such recipe or option.
    """
    if recipe not in RECIPES:
        raise InputError(f"no recipe is called {recipe!r}; there are {', '.join(RECIPES)}")
    if register not in ("auto", "always", "never", "check"):
        raise InputError(f"register={register!r}: give auto, always, never or check")
    if mask not in ("head", "brain"):
        raise InputError(f"mask={mask!r}: give head or brain (or a file of your own per case)")
    first: tuple[Step, ...] = (Static(), CheckHead(), RegisterRigid(register))  # type: ignore[arg-type]
    if recipe == "default":
        # The paper's field of view of 224 mm, whatever the number of voxels.
        box = ToBox(size, 224.0 / size)
        return (*first, BiasField(), Mask(mask), box, Intensity("robust"))  # type: ignore[arg-type]
    if recipe == "paper":
        return (*first, Mask(mask), PaperTensor(size=size), Intensity("minmax"))  # type: ignore[arg-type]
    if recipe == "native":
        return (*first, BiasField(), Mask(mask), ToMri(), Intensity("robust"))  # type: ignore[arg-type]
    return ()


# -- content keys --------------------------------------------------------------------------------


def file_hash(path: Path) -> str:
    """sha256 of a file (with its detached data), or of a folder's files."""
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file())
        return _joined(f.name + remembered_sha256(f) for f in files)
    files = image_files(path)
    return remembered_sha256(path) if len(files) == 1 else _joined(map(remembered_sha256, files))


def _joined(texts: Iterable[str]) -> str:
    return hashlib.sha256("".join(texts).encode()).hexdigest()


@cache
def _code_key() -> str:
    """Of this file, as it is imported."""
    return source_key(Path(__file__))


@cache
def _reader_key() -> str:
    return source_key(Path(read_write.__file__))


def read_key() -> list[Any]:
    """Everything that voxels depend on before any recipe: readers, foreground, libraries."""
    return [_reader_key(), minor_versions(("numpy", "scipy", "SimpleITK"))]


def pair_keys(source: PairSource, recipe: str, options: Mapping[str, Any]) -> tuple[str, str]:
    """Content keys of a prepared pair: of files, recipe and options; and of code and libraries as well."""

    def key(path: Path, files: tuple[Path, ...]) -> str:
        return _joined(map(file_hash, files)) if files else file_hash(path)

    try:
        hashes = [key(source.mri, source.mri_files), key(source.pet, source.pet_files)]
        hashes += ["frames " + file_hash(path) for path in sidecars(source.pet)]
        if source.mask is not None:
            hashes.append(file_hash(source.mask))
        if source.transform is not None:
            hashes.append("transform " + file_hash(source.transform))
    except OSError as error:
        # An unreadable file still has a place in the plan: its rows say what is wrong.
        hashes = [f"unreadable: {error}"]
    origin = content_key(
        {
            "files": hashes,
            "recipe": recipe,
            "options": dict(options),
            "aligned": source.aligned,
            "bias_corrected": source.bias_corrected,
            **({} if source.functional else {"functional": False}),
            **({} if source.window is None else {"window": source.window}),
        }
    )
    return origin, content_key({"origin": origin, "code": [_code_key(), *read_key()]})


# -- running -------------------------------------------------------------------------------------


def read_source(source: PairSource) -> State:
    """Read both files of a pair, each checked; up to 1 % of NaN becomes background."""
    mri, pet = (_raw(p, f) for p, f in ((source.mri, source.mri_files), (source.pet, source.pet_files)))
    notes = [f"{r.path.name}: {n}" for r in (mri, pet) for n in r.notes]
    durations = tuple(pet.extra.get("frame_durations", ()))
    if pet.data.ndim == 4 and not durations:
        fields, more = read_sidecars(source.pet)
        durations, notes = frame_durations(fields), notes + more
    if mri.data.ndim == 4:
        raise InputError(f"{source.mri}: the MRI is 4D ({mri.data.shape[0]} volumes); give one T1w volume")
    for raw in (mri, pet):
        intensity_range(raw)  # for its refusals: constant or negative images
    return State(
        Image(mri.data, mri.affine),
        Image(pet.data, pet.affine),
        (str(source.mri), str(source.pet)),
        known=None if source.transform is None else world_to_world(source.transform, source.mri, source.pet),
        mask_path=source.mask,
        aligned=source.aligned,
        bias_corrected=source.bias_corrected,
        functional=source.functional,
        durations=durations,
        notes=tuple(notes),
    )


def _raw(path: Path, files: tuple[Path, ...]) -> RawImage:
    return read_dicom(files, path) if files else read_raw(path, max_nan=0.01, frames=True)


def prepare(source: PairSource, recipe: str, options: Mapping[str, Any]) -> State:
    """Run a recipe on a pair; nothing is cached."""
    first: tuple[Step, ...] = () if source.window is None else (Window(*source.window),)
    return run_steps(read_source(source), (*first, *steps_of(recipe, **options)))


def prepared_arrays(
    key: str, source: PairSource, recipe: str, options: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """Arrays ``a, b`` (uint16 over [0, 1]), ``mask, affine, intensity, report``, from the cache."""

    def make() -> dict[str, NDArray[Any]]:
        state = prepare(source, recipe, options)
        assert state.mask is not None
        report = {
            "notes": list(state.notes),
            "doubts": list(state.doubts),
            "numbers": state.numbers,
            "provenance": list(state.provenance),
        }
        return {
            "a": np.rint(state.mri.data * 65535).astype(np.uint16),
            "b": np.rint(state.pet.data * 65535).astype(np.uint16),
            "mask": state.mask,
            "affine": state.mri.affine,
            "intensity": np.array(state.intensity),
            "report": np.array(json.dumps(report, default=float)),
        }

    return cached_arrays(_cache_path(key), make)


def _cache_path(key: str) -> Path:
    return cache_dir("prepared", key[:2], f"{key}.npz")


def is_prepared(key: str) -> bool:
    """True if the cache holds this pair."""
    return _cache_path(key).is_file()


def load_prepared(key: str, source: PairSource, recipe: str, options: Mapping[str, Any]) -> Pair:
    """The pair, prepared on first use (the `Case` loader of 3D data)."""
    arrays = prepared_arrays(key, source, recipe, options)
    step = np.float32(1 / 65535)
    a, b = (arrays[n].astype(np.float32) * step for n in "ab")
    (a_low, a_high), (b_low, b_high) = arrays["intensity"].tolist()
    affine = arrays["affine"]
    return Pair(Volume(a, affine, (a_low, a_high)), Volume(b, affine, (b_low, b_high)), arrays["mask"])


def stored_report(case: Case) -> dict[str, Any]:
    """Notes, doubts, figures and provenance of a case that was loaded; empty where it was not."""
    path = _cache_path(case.fingerprint)
    try:
        if path.is_file():
            with np.load(path, allow_pickle=False) as store:
                report: dict[str, Any] = json.loads(str(store["report"]))
        else:
            report = json.loads(_looks_path(case.fingerprint).read_text(encoding="utf-8"))
    except Exception:  # absent or damaged, on which zipfile raises nearly anything
        return {}
    return report


def _looks_path(key: str) -> Path:
    return cache_dir("looks", key[:2], f"{key}.json")


def align_files(mri: Path, pet: Path, mask: Path | None = None) -> tuple[Pair, State]:
    """PET registered to the MRI and put on its grid (``--register``); min-max, so that it can be undone.

    Returns
    -------
    pair : Pair
        On the grid that `fusebench.images.read_write.read_image` gives for `mri`.
    state : State
        Its notes and figures.
    """
    if extension(mri) in PICTURES or extension(pet) in PICTURES:
        raise InputError(f"{pet}: pictures have no position in space; align them first, without --register")
    steps: tuple[Step, ...] = (
        Static(),
        CheckHead(),
        RegisterRigid("always"),
        Mask(),
        ToMri(),
        Intensity("minmax"),
    )
    state = run_steps(read_source(PairSource("", "", mri, pet, mask=mask)), steps)
    assert state.mask is not None
    a, b = (Volume(i.data, i.affine, r) for i, r in zip((state.mri, state.pet), state.intensity, strict=True))
    return Pair(a, b, state.mask), state


def load_as_is(source: PairSource, key: str = "") -> Pair:
    """The pair voxel by voxel (recipe "none", and pictures).

    Notes and doubts are kept in the cache under `key` for `stored_report`, on the first time.
    """
    mri, pet = (
        read_dicom(f, p) if f else read_raw(p)
        for p, f in ((source.mri, source.mri_files), (source.pet, source.pet_files))
    )
    for raw in (mri, pet):
        for note in raw.notes:
            _log.warning("%s: %s", raw.path, note)
    a, b = scale(mri), scale(pet)
    check_grid(a, b, source.mri, source.pet, _REMEDY)
    mask = foreground(a.data) if source.mask is None else read_mask(source.mask, a)
    if key and not _looks_path(key).is_file():
        names = str(source.mri), str(source.pet)
        images = Image(a.data, a.affine), Image(b.data, b.affine)
        doubts = doubts_as_is(*images, mask, names, functional=source.functional)
        notes = [f"{raw.path.name}: {note}" for raw in (mri, pet) for note in raw.notes]
        report = {"notes": [*notes, *doubts], "doubts": doubts}
        with contextlib.suppress(OSError), atomic_path(_looks_path(key)) as temporary:
            temporary.write_text(json.dumps(report), encoding="utf-8")
    return Pair(a, b, mask)


def make_case(dataset: str, source: PairSource, recipe: str, options: Mapping[str, Any]) -> Case:
    """The lazy `Case` of a source.  Pictures are never resampled, whatever the recipe."""
    steps_of(recipe, **options)  # refuse a wrong option before anything runs
    as_is = recipe == "none" or source.is_picture
    origin, key = pair_keys(source, "none" if as_is else recipe, {} if as_is else options)
    loader = (
        partial(load_as_is, source, key)
        if as_is
        else partial(load_prepared, key, source, recipe, dict(options))
    )
    functional = {} if source.functional else {"functional": False}
    meta = {**functional, **source.meta, "recipe": "none" if as_is else recipe}
    return Case(source.id, dataset, source.group, key, loader, meta=meta, origin=origin)
