"""Checks of datasets."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import nibabel as nib
import numpy as np

from ..case import Case, Pair
from ..dataset import Dataset, DatasetInfo
from ..errors import InputError
from . import _spawn
from ._kit import (
    SAFE_NAME,
    Check,
    CheckFailed,
    ExpectedFailures,
    NotApplicable,
    Outcome,
    Subject,
    check,
    check_plugin,
)

# A case travels to a worker as paths and parameters; a small image alone is larger than this.
MAX_PICKLE = 32_768
SAMPLE = 2


class DatasetSubject(Subject):
    """A dataset under test: an instance, or a class or name that needs no arguments.

    Parameters
    ----------
    again : Dataset, optional
        A second instance made with the same arguments.
    """

    kind = "dataset"

    def __init__(
        self, plugin: Any, expected_failed_checks: ExpectedFailures | None = None, again: Any = None
    ) -> None:
        super().__init__(plugin, expected_failed_checks)
        self._again = again

    @cached_property
    def dataset(self) -> Dataset:
        made: Dataset = self.plugin() if isinstance(self.plugin, type) else self.plugin
        return made

    @cached_property
    def again(self) -> Dataset:
        """Another instance where one can be made, else the same."""
        if self._again is not None:
            return self._again  # type: ignore[no-any-return]
        return self.plugin() if isinstance(self.plugin, type) else self.dataset

    @property
    def info(self) -> DatasetInfo:
        return self.dataset.info

    @cached_property
    def splits(self) -> Mapping[str, Sequence[Case]]:
        return {split: _listed(self.dataset, split) for split in self.info.splits}

    @cached_property
    def sample(self) -> list[Case]:
        """The first cases of every split, as pickled copies, so that the originals stay unread."""
        return [pickle.loads(pickle.dumps(c)) for cases in self.splits.values() for c in cases[:SAMPLE]]


def _listed(dataset: Dataset, split: str) -> list[Case]:
    # A split that is empty for these data may say so; `cases_listed` asks for one case at least.
    try:
        return list(dataset.cases(split))
    except InputError:
        return []


@check()
def info_declared(s: DatasetSubject) -> None:
    """`info` is complete: name, summary, licence, how to obtain, splits."""
    if not isinstance(getattr(s.dataset, "info", None), DatasetInfo):
        raise CheckFailed("the class has no `info`; add  info = DatasetInfo(name=..., summary=...)")
    if not SAFE_NAME.fullmatch(s.info.name):
        raise CheckFailed(
            f"info.name is {s.info.name!r}; use letters, digits, - _ and . only (it names folders)"
        )
    for field in ("summary", "licence", "obtain", "modalities"):
        if not getattr(s.info, field).strip():
            raise CheckFailed(f"info.{field} is empty; say it in one line")
    if not s.info.splits:
        raise CheckFailed("info.splits is empty; name at least 'test'")


@check("info_declared")
def cases_listed(s: DatasetSubject) -> None:
    """Every split lists cases with unique ids that can name files."""
    for split, cases in s.splits.items():
        ids = [c.id for c in cases]
        double = sorted({i for i in ids if ids.count(i) > 1})
        if double:
            raise CheckFailed(
                f"split {split} lists {', '.join(double[:3])} twice; ids are unique in a dataset"
            )
        for case in cases:
            if not SAFE_NAME.fullmatch(case.id):
                raise CheckFailed(f"case id {case.id!r} cannot name a file; use letters, digits, - _ . only")
            if case.dataset != s.info.name:
                raise CheckFailed(
                    f"case {case.id} says dataset {case.dataset!r}; pass dataset=self.info.name"
                )
            if not case.group or not case.fingerprint:
                raise CheckFailed(
                    f"case {case.id} lacks group (the subject) or fingerprint (key of its data)"
                )
    if not any(s.splits.values()):
        raise CheckFailed(
            f"no case in any of {', '.join(s.info.splits)}; check the folder and the split files"
        )


@check("cases_listed")
def lazy(s: DatasetSubject) -> None:
    """Listing cases reads no image, and a case holds none."""
    for cases in s.splits.values():
        for case in cases:
            if "pair" in case.__dict__ or "truth" in case.__dict__:
                raise CheckFailed(f"listing reads the images of case {case.id}; leave that to its loader")
    for case in (c for cases in s.splits.values() for c in cases[:SAMPLE]):
        try:
            size = len(pickle.dumps(case))
        except Exception:  # what cannot be pickled is the next check's
            continue
        if size > MAX_PICKLE:
            raise CheckFailed(
                f"case {case.id} is {size:,} bytes when pickled: its loader holds images; give the loader "
                "paths and parameters"
            )


@check("lazy")
def picklable(s: DatasetSubject) -> None:
    """A case can be sent to a fresh process, which reads the same images there."""
    case = next(c for cases in s.splits.values() for c in cases)
    found = _spawn.in_child(_sums, case, what=f"case {case.id} (its loader)")
    if found != _sums(pickle.loads(pickle.dumps(case))):
        raise CheckFailed(
            f"case {case.id} reads other voxels in a fresh process; its loader must not use globals"
        )


def _sums(case: Case) -> tuple[Any, ...]:
    return case.a.shape, float(case.a.data.sum()), float(case.b.data.sum()), int(case.mask.sum())


@check("cases_listed")
def splits_disjoint(s: DatasetSubject) -> None:
    """No subject is in two splits."""
    seen: dict[str, str] = {}
    for split, cases in s.splits.items():
        for group in {c.group for c in cases}:
            if seen.setdefault(group, split) != split:
                raise CheckFailed(
                    f"subject {group} is in {seen[group]} and in {split}; split by subject, never by image"
                )


@check("cases_listed")
def order_stable(s: DatasetSubject) -> None:
    """The same cases in the same order, with the same fingerprint, on every call."""
    for split, cases in s.splits.items():
        for other in (s.dataset, s.again):
            found = _listed(other, split)
            if [c.id for c in found] != [c.id for c in cases]:
                raise CheckFailed(
                    f"split {split} lists other cases or another order the second time; sort them"
                )
            if [c.fingerprint for c in found] != [c.fingerprint for c in cases]:
                raise CheckFailed(
                    f"fingerprints of {split} change between calls; hash contents and parameters, not times"
                )


@check("picklable")
def fingerprints_differ(s: DatasetSubject) -> None:
    """Cases with different voxels have different fingerprints."""
    seen: dict[str, tuple[str, Any]] = {}
    for case in s.sample:
        key, sums = case.fingerprint, _sums(case)
        if seen.setdefault(key, (case.id, sums))[1] != sums:
            raise CheckFailed(
                f"cases {seen[key][0]} and {case.id} have one fingerprint, other voxels; hash what makes each"
            )


@check("picklable")
def geometry_sane(s: DatasetSubject) -> None:
    """One grid for both images: RAS+, finite affine, voxels of 0.05 to 20 mm."""
    for case in s.sample:
        if not isinstance(case.pair, Pair):
            raise CheckFailed(
                f"the loader of {case.id} returns {type(case.pair).__name__}; return Pair(a, b, mask)"
            )
        for name, volume in (("a", case.a), ("b", case.b)):
            affine = np.asarray(volume.affine)
            if (
                affine.shape != (4, 4)
                or not np.isfinite(affine).all()
                or abs(np.linalg.det(affine[:3, :3])) < 1e-9
            ):
                raise CheckFailed(f"{case.id}.{name} has no valid 4x4 affine; pass the file's")
            if not all(0.05 <= v <= 20 for v in volume.spacing):
                raise CheckFailed(f"{case.id}.{name} has voxels of {volume.spacing} mm; check the unit (mm)")
            if volume.shape[0] > 1 and nib.orientations.aff2axcodes(affine) != ("R", "A", "S"):
                codes = "".join(map(str, nib.orientations.aff2axcodes(affine)))
                raise CheckFailed(f"{case.id}.{name} is {codes}; reorient to RAS+ (fusebench.imageio does)")
        if not np.allclose(case.a.affine, case.b.affine, atol=1e-3):
            raise CheckFailed(f"{case.id}: a and b have different affines; resample b onto a's grid")


@check("picklable")
def intensities_sane(s: DatasetSubject) -> None:
    """float32 in [0, 1], finite, not constant; the mask is bool and holds foreground."""
    for case in s.sample:
        for name, volume in (("a", case.a), ("b", case.b)):
            data = volume.data
            if data.dtype != np.float32:
                raise CheckFailed(f"{case.id}.{name} is {data.dtype}; convert to float32")
            if not np.isfinite(data).all() or data.min() < 0 or data.max() > 1:
                raise CheckFailed(
                    f"{case.id}.{name} is not in [0, 1]; normalise it, keep the range in intensity"
                )
            if data.min() == data.max():
                raise CheckFailed(f"{case.id}.{name} is constant; check the file and the normalisation")
        if case.mask.dtype != bool or not case.mask.any():
            raise CheckFailed(f"{case.id}: the mask is not bool or is empty; see fusebench.images.foreground")


@check("picklable")
def truth_sane(s: DatasetSubject) -> None:
    """Ground truth, where there is one, has the grid of the images."""
    held = [c for c in s.sample if c.truth_loader is not None]
    if not held:
        raise NotApplicable("no ground truth")
    for case in held[:SAMPLE]:
        for name, array in (case.truth or {}).items():
            if array.ndim >= 3 and array.shape[-3:] != case.a.shape:
                raise CheckFailed(
                    f"truth {name!r} of {case.id} has shape {array.shape}, the images {case.a.shape}"
                )


@check("info_declared")
def unknown_split_refused(s: DatasetSubject) -> None:
    """A split that does not exist raises InputError."""
    try:
        s.dataset.cases("no-such-split")
    except InputError:
        return
    except Exception as error:
        raise CheckFailed(f"raises {type(error).__name__} for an unknown split; raise InputError") from error
    raise CheckFailed("takes an unknown split without a word; raise fusebench.errors.InputError")


@check("cases_listed")
def describes(s: DatasetSubject) -> None:
    """`describe` tells the number of cases by split."""
    counts = s.dataset.count_cases().get("cases")
    if counts != {split: len(cases) for split, cases in s.splits.items()}:
        raise CheckFailed(f"describe()['cases'] is {counts}; give the number of cases by split")


DATASET_CHECKS: tuple[Check, ...] = (
    info_declared,
    cases_listed,
    lazy,
    picklable,
    splits_disjoint,
    order_stable,
    fingerprints_differ,
    geometry_sane,
    intensities_sane,
    truth_sane,
    unknown_split_refused,
    describes,
)
DatasetSubject.checks = DATASET_CHECKS


def check_dataset(
    dataset: Any,
    *,
    expected_failed_checks: ExpectedFailures | None = None,
    on_fail: Literal["raise", "keep"] = "raise",
) -> list[Outcome]:
    """Run every dataset check; give an instance where the dataset needs arguments.  See `check_method`."""
    return check_plugin(DatasetSubject(dataset, expected_failed_checks), on_fail)
