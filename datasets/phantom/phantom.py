"""The embedded dataset: physically motivated MRI + FDG-PET phantoms, made on the fly, with ground truth.

Anatomy comes from the ICBM152 2009a average brain (see NOTICE.md) under a random diffeomorphism; nothing is
downloaded.  A phantom is not a patient: one average brain, no skull or scalp, no vessels, no attenuation,
scatter or reconstruction texture, a shift-invariant Gaussian point spread.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo
from fusebench.errors import InputError
from fusebench.store.cache import cache_dir, cached_arrays
from fusebench.store.keys import content_key, minor_versions
from fusebench.store.sources import source_files

_HERE = Path(__file__).parent
_DEFAULT_SUBJECTS = {"train": 64, "val": 8, "test": 8}


class Phantom(Dataset):
    """Simulated MRI + FDG-PET heads.

    Parameters
    ----------
    size : int
        Voxels per axis over 224 mm (128: 1.75 mm).
    fwhm : float
        PET resolution in mm; 6 and 8 are those of ADNI's two products.
    counts : float
        Expected counts in a PET voxel of grey matter.
    misalign : float
        Mean displacement of the PET against the MRI in mm.
    subjects : int, optional
        Subjects per split, the first of the published list; default 64 (train) and 8 (val, test).
    """

    info = DatasetInfo(
        name="phantom",
        summary="simulated T1 MRI + FDG-PET heads with ground truth, made on the fly",
        licence="MIT; anatomy from ICBM152 2009a, (c) 1993-2009 Louis Collins, MNI, McGill (NOTICE.md)",
        obtain="embedded; generated into the cache on first use",
        splits=("train", "val", "test"),
        notes="a phantom, never a patient; splits and seeds in datasets/phantom/splits",
    )

    def __init__(
        self,
        *,
        size: int = 128,
        fwhm: float = 7.0,
        counts: float = 240.0,
        misalign: float = 0.0,
        subjects: int | None = None,
        reference: Literal["given", "aligned"] = "given",
    ) -> None:
        _check("size", size, int, 16, 512)
        _check("fwhm", fwhm, (int, float), 2, 20)
        _check("counts", counts, (int, float), 1, 1e9)
        _check("misalign", misalign, (int, float), 0, 20)
        if subjects is not None:
            _check("subjects", subjects, int, 1, 1000)
        if reference not in ("given", "aligned"):
            raise InputError(f"phantom: reference={reference!r} is not given or aligned")
        self.size, self.subjects, self.reference = size, subjects, reference
        self.fwhm, self.counts, self.misalign = float(fwhm), float(counts), float(misalign)

    def cases(self, split: str = "test") -> Sequence[Case]:
        if split not in self.info.splits:
            raise InputError(f"phantom has no split {split!r}; it has {', '.join(self.info.splits)}")
        rows = read_split(split)
        wanted = self.subjects or _DEFAULT_SUBJECTS[split]
        if wanted > len(rows):
            raise InputError(f"phantom: subjects={wanted}, but the split {split!r} lists {len(rows)}")
        return [self._case(*row) for row in rows[:wanted]]

    def _case(self, subject: str, seed: int, lesion: bool) -> Case:
        parameters: dict[str, Any] = {
            "seed": seed,
            "size": self.size,
            "lesion": lesion,
            "fwhm": self.fwhm,
            "counts": self.counts,
            "misalign": self.misalign,
        }
        key = phantom_key(parameters)
        aligned = self.reference == "aligned" and self.misalign > 0
        return Case(
            id=subject,
            dataset=self.info.name,
            group=subject,
            fingerprint=f"{key}-aligned" if aligned else key,
            loader=partial(load_pair, key, parameters, aligned),
            truth_loader=partial(Truth, key, parameters),
            meta={"lesion": lesion, "seed": seed, "misalign": self.misalign},
            voxels=self.size**3,
        )


def _check(name: str, value: Any, kind: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        number = "a whole number" if kind is int else "a number"
        raise InputError(f"phantom: {name}={value!r} is not {number} in {low:g}..{high:g}")


def read_split(split: str) -> list[tuple[str, int, bool]]:
    """(subject, seed, lesion) of a published split."""
    with open(_HERE / "splits" / f"{split}.csv", newline="", encoding="utf-8") as handle:
        return [(r["subject"], int(r["seed"]), r["lesion"] == "1") for r in csv.DictReader(handle)]


def phantom_key(parameters: Mapping[str, Any]) -> str:
    """Content key of a subject: parameters, generator source, template, and the libraries' streams."""
    versions = minor_versions(("numpy", "scipy"))
    files = [*source_files(_HERE / "subject.py"), *sorted(_HERE.glob("icbm152_*.nii.gz"))]
    return content_key({**parameters, "libraries": versions}, files)


def _stored(key: str, parameters: Mapping[str, Any], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of the cached subject; made once, all at a time."""
    # Here and below: listing cases, as the runner does, goes without scipy's filters and nibabel.
    from .subject import STEPS, dequantise, make_subject, quantise

    def make() -> dict[str, NDArray[Any]]:
        subject = make_subject(**parameters)
        images = {"a": subject.a, "b": subject.b, **subject.truth}
        # An array that equals another one is not stored; see Truth.
        packed = {n: quantise(x, n) for n, x in images.items() if n in STEPS and not _same_as(n, parameters)}
        return {**packed, "mask": subject.mask, "lesion": subject.truth["lesion"]}

    stored = cached_arrays(cache_dir("phantom") / f"{key}.npz", make, names)
    return {n: dequantise(x, n) if n in STEPS else x for n, x in stored.items()}


def _same_as(name: str, parameters: Mapping[str, Any]) -> str:
    """Name of the array that `name` equals for these parameters, or ""."""
    same = {"mri_twin": True, "pet_twin": not parameters["lesion"], "pet_aligned": not parameters["misalign"]}
    return ("a" if name == "mri_twin" else "b") if same.get(name) else ""


def load_pair(key: str, parameters: Mapping[str, Any], aligned: bool = False) -> Pair:
    """Images of one subject, from the cache where they are there.

    Parameters
    ----------
    aligned : bool
        Results are to be scored against the functional image before it was displaced.
    """
    from .subject import affine

    arrays = _stored(key, parameters, ("a", "b", "mask", *(["pet_aligned"] if aligned else [])))
    grid = affine(parameters["size"])
    reference = Volume(arrays["pet_aligned"], grid) if aligned else None
    return Pair(Volume(arrays["a"], grid), Volume(arrays["b"], grid), arrays["mask"], reference)


class Truth(Mapping[str, NDArray[Any]]):
    """Ground truth by name, each array read or computed when it is asked for.

    The names are those of `subject.make_subject`, and

    - ``displacement``: (3, D, H, W) in mm along (d, h, w); MRI position + displacement = template position.
    - ``misalignment``: (3, D, H, W) likewise; `b` shows at x what `a` has at x + misalignment(x).
    """

    _NAMES = (
        *("gm", "wm", "csf", "uptake", "pet_clean", "lesion", "lesion_depth"),
        *("mri_twin", "pet_twin", "pet_aligned", "displacement", "misalignment"),
    )

    def __init__(self, key: str, parameters: Mapping[str, Any]) -> None:
        self._key, self._parameters = key, parameters
        self._held: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._NAMES:
            raise KeyError(name)
        if name not in self._held:
            self._held[name] = self._get(name)
        return self._held[name]

    def _get(self, name: str) -> NDArray[Any]:
        from .subject import subject_displacement, subject_misalignment

        seed, size = self._parameters["seed"], self._parameters["size"]
        if name == "displacement":
            return subject_displacement(seed, size)
        if name == "misalignment":
            return subject_misalignment(seed, size, self._parameters["misalign"])
        stored = _same_as(name, self._parameters) or name
        return _stored(self._key, self._parameters, (stored,))[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._NAMES)

    def __len__(self) -> int:
        return len(self._NAMES)

    def __repr__(self) -> str:
        return f"<ground truth: {', '.join(self._NAMES)}>"

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._NAMES)
