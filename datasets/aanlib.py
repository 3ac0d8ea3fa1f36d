"""Harvard Whole Brain Atlas (AANLIB) pairs in the layouts in circulation, grouped by patient.

The file name's number // 1000 is the atlas case.  All MRI-PET slices (25xxx coronal, 30xxx sagittal, 41xxx
axial) show one head: 24 of 24 intersection lines of the three series match.  So that part has n = 1, its
slices are one group, and no interval can be given.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusebench.case import Case, Pair, Volume
from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.images.colour import luminance
from fusebench.images.foreground import foreground
from fusebench.images.raw import PICTURES
from fusebench.images.read_write import read_image
from fusebench.store.keys import content_key
from fusebench.text import printable

from .preprocessing.base import LeftOut, PairDataset
from .preprocessing.pipeline import PairSource, file_hash, read_key

MODALITIES = ("MRI-PET", "MRI-SPECT", "CT-MRI")
_OTHER = {"pet": "MRI-PET", "spect": "MRI-SPECT", "ct": "CT-MRI"}
_STRUCTURAL = {"mri", "mr", "t1", "t2"}
_ONE_HEAD = "aanlib-petmri-head"
# Measured on the three crossing series: in-plane 1, between slices 1.739 (only the ratio is known).
_SLICE_STEP = 1.739
# Of a picture.
PIXELS = 256**2


class Aanlib(PairDataset):
    """AANLIB MRI-PET, MRI-SPECT and CT-MRI pairs.

    Parameters
    ----------
    data_dir : path
        Any folder that holds, at any depth, sibling folders MRI and PET, SPECT or CT with equal file names.
    modality : {"all", "MRI-PET", "MRI-SPECT", "CT-MRI"}
    pet : {"luminance", "uptake"}
        What of the coloured PET is fused.  "luminance" is what papers fuse; it falls past yellow, so the
        hottest cortex is dark.  "uptake" inverts the colour ramp through its exact table.
    stack : bool
        Consecutive axial slices of a patient as one volume (a missing slice is interpolated).
    split : {"all-test", "hash"} or path
        By patient.
    """

    info = DatasetInfo(
        name="aanlib",
        summary="Harvard Whole Brain Atlas slices: MRI-PET (one head), MRI-SPECT, CT-MRI",
        licence="(c) K. A. Johnson, J. A. Becker; copies state no licence: test with it, do not pass it on",
        obtain="e.g. the GitHub repository xianming-gu/Havard-Medical-Image-Fusion-Datasets",
        images_may_be_shared=False,
        modalities="MRI-PET, MRI-SPECT, CT-MRI",
        roles=("MRI", "PET, SPECT or CT"),
        needs_dir=True,
        splits=("train", "val", "test"),
        notes="all MRI-PET slices are one head (n = 1, no interval); slices of a patient are never split",
    )
    default_recipe = "none"
    expected = "sibling folders MRI and PET, SPECT or CT with equal file names"
    default_split = "all-test"

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        modality: str = "all",
        pet: str = "luminance",
        stack: bool = False,
        split: str | None = None,
    ) -> None:
        super().__init__(data_dir=data_dir, split=split)
        known = {m.lower(): m for m in MODALITIES} | {
            "-".join(m.lower().split("-")[::-1]): m for m in MODALITIES
        }
        if modality != "all" and modality.lower() not in known:
            raise InputError(f"aanlib: modality {modality!r} is not all, {', '.join(MODALITIES)}")
        if pet not in ("luminance", "uptake"):
            raise InputError(f"aanlib: pet={pet!r} is not luminance or uptake")
        self.modality = "all" if modality == "all" else known[modality.lower()]
        self.pet, self.stack = pet, stack
        # Reports show the notes of the dataset that was used, so they must name the plane that was fused.
        notes = f"{type(self).info.notes}; of the coloured PET its {pet} is fused"
        vars(self)["info"] = replace(type(self).info, notes=notes)

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        sources: dict[str, PairSource] = {}
        left_out: list[LeftOut] = []
        for mri, other, modality in _folders(self.root):
            if self.modality not in ("all", modality):
                continue
            structural, functional = _pictures(mri, left_out), _pictures(other, left_out)
            for stem in sorted(structural.keys() | functional.keys(), key=_number):
                if stem not in structural or stem not in functional:
                    have, lack = (mri, other) if stem in structural else (other, mri)
                    left_out.append(LeftOut("", f"{have}/{stem}", f"no picture of this name in {lack}"))
                    continue
                group = patient(stem, modality)
                source = PairSource(
                    id=f"{modality.lower()}-{stem}",
                    group=group,
                    mri=structural[stem],
                    pet=functional[stem],
                    meta=self._meta(stem, modality),
                )
                if source.id in sources:
                    left_out.append(LeftOut(group, str(source.mri), "the same number lies in another folder"))
                sources.setdefault(source.id, source)
        return list(sources.values()), left_out

    def describe(self) -> DatasetInfo:
        return (
            self.info if self.modality == "all" else replace(self.info, roles=("MRI", _role(self.modality)))
        )

    def _meta(self, stem: str, modality: str) -> dict[str, Any]:
        meta: dict[str, Any] = {"modality": modality, "fused_plane": self._plane(modality)}
        if modality == "MRI-PET":
            planes = {25: "coronal", 30: "sagittal", 41: "axial"}
            meta["plane"] = planes.get(_number(stem)[0] // 1000, "unknown")
            meta["patients"] = "one head: n = 1"
        meta["b"] = _role(modality)
        if modality == "CT-MRI":
            meta["functional"] = False
        return meta

    def _plane(self, modality: str) -> str:
        if modality == "CT-MRI":
            return "grey"
        return self.pet if modality == "MRI-PET" else "luminance"

    def case(self, source: PairSource) -> Case:
        return self._slices([source])

    def cases(self, split: str = "test") -> list[Case]:
        sources = self.sources(split)
        if not sources:
            raise InputError(self._nothing(split))
        if not self.stack:
            return [self._slices([s]) for s in sources]
        runs = _runs(sources)
        if not runs:
            raise InputError(
                f"{self.data_dir}: no patient has 8 consecutive axial slices to stack; leave out stack"
            )
        return [self._slices(run) for run in runs]

    def _slices(self, sources: list[PairSource]) -> Case:
        first = sources[0]
        plane = str(first.meta["fused_plane"])
        files = [[file_hash(s.mri), file_hash(s.pet)] for s in sources]
        origin = content_key({"files": files, "plane": plane, "stack": len(sources)})
        key = content_key({"origin": origin, "code": read_key()}, [Path(__file__)])
        if len(sources) == 1 and not self.stack:
            loader = partial(load_slice, first.mri, first.pet, plane)
            return Case(
                first.id,
                self.info.name,
                first.group,
                key,
                loader,
                meta=dict(first.meta),
                voxels=PIXELS,
                origin=origin,
            )
        numbers = [_number(s.mri.stem)[0] for s in sources]
        numbered = [(n, s.mri, s.pet) for n, s in zip(numbers, sources, strict=True)]
        identity = f"{first.id}-to-{sources[-1].mri.stem}"
        meta = {
            **first.meta,
            "slices": len(sources),
            "interpolated": numbers[-1] - numbers[0] + 1 - len(numbers),
        }
        loader = partial(load_stack, numbered, plane)
        voxels = PIXELS * (numbers[-1] - numbers[0] + 1)
        return Case(
            identity, self.info.name, first.group, key, loader, meta=meta, voxels=voxels, origin=origin
        )


def _role(modality: str) -> str:
    """What the second source is called."""
    return {"MRI-SPECT": "SPECT", "CT-MRI": "CT"}.get(modality, "PET")


def patient(stem: str, modality: str) -> str:
    """Patient of a picture: all MRI-PET are one head; else number // 1000; renumbered files are one group."""
    number = _number(stem)[0]
    if modality == "MRI-PET":
        return _ONE_HEAD
    kind = modality.lower().replace("-", "").replace("mri", "") + "mri"
    return f"aanlib-{kind}-{number // 1000:03d}" if number >= 1000 else f"aanlib-{kind}-unknown"


def _folders(root: Path) -> list[tuple[Path, Path, str]]:
    """(MRI folder, other folder, modality) of every sibling pair at any depth."""
    found = []
    seen = set()
    for parent, names, _ in os.walk(root, followlinks=True):
        names.sort()
        here = os.path.realpath(parent)
        if here in seen:  # a link may lead back
            names.clear()
        seen.add(here)
        mri = [n for n in names if n.lower() in _STRUCTURAL]
        for name in names:
            if name.lower() in _OTHER and mri:
                found.append((Path(parent, mri[0]), Path(parent, name), _OTHER[name.lower()]))
    return sorted(found, key=lambda f: (MODALITIES.index(f[2]), str(f[0])))


def _pictures(folder: Path, left_out: list[LeftOut]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in PICTURES or not path.is_file():
            continue
        if printable(path.name) != path.name:
            left_out.append(LeftOut("", str(path), "its name is not UTF-8, or steers a terminal; rename it"))
            continue
        if path.stem in found:
            left_out.append(LeftOut("", str(path), f"the same name as {found[path.stem].name}"))
        found.setdefault(path.stem, path)
    return found


def _number(stem: str) -> tuple[int, str]:
    digits = re.findall(r"\d+", stem)
    return (int(digits[-1]) if digits else 0, stem)


def _runs(sources: list[PairSource], least: int = 8) -> list[list[PairSource]]:
    """Consecutive axial slices of one patient; one missing slice at a time is bridged."""
    runs: list[list[PairSource]] = []
    axial = [s for s in sources if s.meta.get("plane", "axial") == "axial"]
    for s in sorted(axial, key=lambda s: (s.meta["modality"], s.group, _number(s.mri.stem))):
        last = runs[-1][-1] if runs else None
        same = last is not None and (last.group, last.meta["modality"]) == (s.group, s.meta["modality"])
        if last is not None and same and _number(s.mri.stem)[0] - _number(last.mri.stem)[0] <= 2:
            runs[-1].append(s)
        else:
            runs.append([s])
    return [r for r in runs if len(r) >= least]


# -- colour --------------------------------------------------------------------------------------


def pet_ramp() -> NDArray[np.uint8]:
    """The atlas's PET colours, shape (128, 3): black, blue, yellow, red, magenta.

    Read off the published pictures: five pieces, each channel linear and rounded down.  All 2.6 million
    pixels of 40 pictures lie on it.
    """
    i = np.arange(128)
    rise = 255 / 32
    red = np.clip((i - 31) * rise, 0, 255)
    green = np.where(i <= 63, np.clip((i - 15) * 255 / 48, 0, 255), np.clip(255 - (i - 63) * rise, 0, 255))
    blue = np.select(
        [i <= 31, i <= 63],
        [i * 255 / 31, 255 - (i - 31) * rise],
        np.clip((i - 95) * rise, 0, 255),
    )
    return np.floor(np.stack([red, green, blue], axis=1) + 1e-9).astype(np.uint8)


def uptake(rgb: NDArray[Any]) -> NDArray[np.float64]:
    """Uptake in [0, 1] behind the PET colours, shape (H, W, 3) uint8 to (H, W), 7 bits.

    Raises
    ------
    InputError
        More than 1 % of the pixels are not colours of the ramp (resized, or JPEG, or another ramp).
    """
    colours, where = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    ramp, colours = pet_ramp().astype(np.int16), colours.astype(np.int16)
    index, distance = np.zeros((2, len(colours)), int)
    for start in range(0, len(colours), 4096):  # a large photograph has millions of colours
        some = colours[start : start + 4096, :, None]
        apart = np.maximum.reduce([np.abs(some[:, i] - ramp[:, i]) for i in range(3)])
        index[start : start + 4096], distance[start : start + 4096] = apart.argmin(axis=1), apart.min(axis=1)
    where = where.ravel()
    off = float((distance[where] > 8).mean())
    if off > 0.01:
        raise InputError(
            f"{off:.0%} of the pixels are not colours of the AANLIB PET ramp; use pet=luminance, "
            "or pictures that were not resized"
        )
    return np.asarray((index / 127.0)[where].reshape(rgb.shape[:-1]))


# -- loading -------------------------------------------------------------------------------------


def load_slice(mri: Path, other: Path, plane: str) -> Pair:
    """One 2D pair."""
    a = read_image(mri)
    try:
        b = read_image(other, plane=uptake if plane == "uptake" else luminance)
    except InputError as error:
        text = str(error)
        raise InputError(text if str(other) in text else f"{other}: {text}") from None
    if a.shape != b.shape:
        raise InputError(f"{other}: shape {b.shape[1:]} is not {a.shape[1:]} of {mri}; export them alike")
    return Pair(a, b, foreground(a.data))


def load_stack(files: list[tuple[int, Path, Path]], plane: str) -> Pair:
    """Consecutive axial slices as a RAS+ volume (shown in radiological convention; left is assumed)."""
    pairs = {n: load_slice(mri, other, plane) for n, mri, other in files}
    first, last = min(pairs), max(pairs)
    shapes = {p.a.shape for p in pairs.values()}
    if len(shapes) > 1:
        raise InputError(f"{files[0][1]}: slices differ in shape {sorted(shapes)}; do not stack")
    planes: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
    for n in range(first, last + 1):
        here = [pairs[n]] if n in pairs else [pairs[n - 1], pairs[n + 1]]
        planes.append(
            (np.mean([p.a.data[0] for p in here], axis=0), np.mean([p.b.data[0] for p in here], axis=0))
        )
    a, b = (np.stack(x)[:, ::-1, ::-1].astype(np.float32) for x in zip(*planes, strict=True))
    affine = np.diag([1.0, 1.0, _SLICE_STEP, 1.0])
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return Pair(Volume(a, affine, (0.0, 255.0)), Volume(b, affine, (0.0, 255.0)), foreground(a))
