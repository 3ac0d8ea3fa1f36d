"""BraTS: T1 with contrast agent and FLAIR of one head, skull-stripped and on one grid; names of any year."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import replace

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.registry import natural

from .preprocessing.base import LeftOut, PairDataset
from .preprocessing.named import case_folders
from .preprocessing.pipeline import PairSource

# BraTS until 2021 (t1ce, flair) and since 2023 (t1c, t2f); 2017 has them without a subject before.
_NAMES = {
    "T1ce": ("t1ce", "t1c", "t1gd"),
    "FLAIR": ("flair", "t2f", "t2flair"),
    "T1": ("t1", "t1n"),
    "T2": ("t2", "t2w"),
}
# Since 2023 a name ends in the scan of that person: BraTS-GLI-00005-001.
_SCAN = re.compile(r"^(BraTS-[A-Za-z]+-\d{4,5})-(\d{3})$")


class Brats(PairDataset):
    """Two MRI contrasts of BraTS.

    Parameters
    ----------
    data_dir : path
        What an archive of BraTS unpacks to.
    a, b : {"T1ce", "FLAIR", "T1", "T2"}
        Which contrasts are fused.
    visits : {"first", "all"}
        Scans of one person that were taken several times.
    """

    info = DatasetInfo(
        name="brats",
        summary="BraTS: two MRI contrasts of people with brain tumours, by default T1ce and FLAIR",
        licence="that of the year's archive, for research; no passing on of its images",
        obtain="synapse.org, BraTS of a year, after registration; unpack it",
        citation="Menze et al., IEEE TMI 34:1993 (2015), doi:10.1109/TMI.2014.2377694, and others by year",
        images_may_be_shared=False,
        modalities="T1ce-FLAIR",
        roles=("T1ce", "FLAIR"),
        needs_dir=True,
        splits=("train", "val", "test"),
        notes="both are anatomy: findings of both are focal. People are told apart by the names of 2023 and "
        "later only; earlier names are one per scan",
    )
    default_split = "all-test"
    expected = "folders with *_t1ce.nii.gz and *_flair.nii.gz, or *-t1c.nii.gz and *-t2f.nii.gz"

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        a: str = "T1ce",
        b: str = "FLAIR",
        visits: str = "first",
        recipe: str | None = None,
        register: str = "auto",
        mask: str = "head",
        size: int = 128,
        split: str | None = None,
    ) -> None:
        super().__init__(
            data_dir=data_dir, recipe=recipe, register=register, mask=mask, size=size, split=split
        )
        for name, contrast in (("a", a), ("b", b)):
            if contrast not in _NAMES:
                raise InputError(f"brats: {name}={contrast!r} is not one of {', '.join(_NAMES)}")
        if a == b or visits not in ("first", "all"):
            raise InputError(f"brats: a={a}, b={b}, visits={visits}: give two contrasts, and first or all")
        self.a, self.b, self.visits = a, b, visits

    def describe(self) -> DatasetInfo:
        return replace(self.info, roles=(self.a, self.b), modalities=f"{self.a}-{self.b}")

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        scans: dict[str, list[PairSource]] = defaultdict(list)
        left_out = []
        for folder, files in case_folders(self.root, _NAMES):
            absent = [role for role in (self.a, self.b) if role not in files]
            if absent:
                reason = f"no {' and no '.join(absent)} beside it"
                left_out.append(LeftOut(folder.name, str(next(iter(files.values()))), reason))
                continue
            match = _SCAN.match(folder.name)
            group = match.group(1) if match else folder.name
            meta = {"modality": "MRI-MRI", "a": self.a, "b": self.b}
            scans[group].append(
                PairSource(
                    folder.name,
                    group,
                    files[self.a],
                    files[self.b],
                    aligned=True,
                    functional=False,
                    meta=meta,
                )
            )
        pairs = []
        for group, found in sorted(scans.items(), key=lambda item: natural(item[0])):
            kept = found if self.visits == "all" else found[:1]
            pairs += kept
            left_out += [
                LeftOut(group, str(p.mri), "a later scan; visits=all uses it") for p in found[len(kept) :]
            ]
        return pairs, left_out
