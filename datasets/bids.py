"""BIDS: any dataset with T1w and PET; names are parsed here, no library is needed."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.registry import natural

from .preprocessing.base import LeftOut, PairDataset
from .preprocessing.pipeline import PairSource

_FILE = re.compile(r"^(sub-[A-Za-z0-9]+(?:_[a-z0-9A-Z]+-[^_]+)*)_(T1w|pet)(?i:\.nii(\.gz)?)$")
# Static before dynamic; Clinica's products as in ADNI.
_REC = ("coreg6mm", "coregiso", "acstat", "", "coregstd", "coregavg", "acdyn")

Natural = list[tuple[int, str]]


@dataclass(frozen=True)
class BidsFile:
    """A T1w or PET file and its entities (``sub``, ``ses``, ``trc``, ``rec``, ``run``...)."""

    path: Path
    suffix: str
    entities: Mapping[str, str]

    @property
    def subject(self) -> str:
        return self.entities["sub"]

    @property
    def session(self) -> str:
        return self.entities.get("ses", "")


class Bids(PairDataset):
    """A BIDS dataset with T1w MRI and PET.

    Parameters
    ----------
    data_dir : path
        Folder with ``sub-*``.
    tracer : str, optional
        Value of ``trc-``; all by default.
    visits : {"first", "all"}
        One pair per subject (its first PET session; ``ses-2`` is before ``ses-10``), or one per PET session.
        The T1w is that of the session, else of the subject, else of the nearest other session.
    """

    info = DatasetInfo(
        name="bids",
        summary="any BIDS dataset with T1w and PET",
        licence="that of the dataset",
        obtain="e.g. openneuro.org, modality PET",
        needs_dir=True,
        splits=("train", "val", "test"),
        notes="dynamic PET is averaged over its frames, weighted by FrameDuration",
    )
    default_split = "all-test"
    expected = "sub-*/[ses-*/]anat/*_T1w.nii.gz and pet/*_pet.nii.gz"

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        tracer: str | None = None,
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
        if visits not in ("first", "all"):
            raise InputError(f"bids: visits={visits!r} is not first or all")
        self.tracer, self.visits = tracer, visits

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        return find_bids(self.root, tracer=self.tracer, visits=self.visits)


def parse_name(path: Path) -> BidsFile | None:
    """Entities of a T1w or PET file name, or None."""
    match = _FILE.match(path.name)
    if match is None:
        return None
    entities = dict(part.split("-", 1) for part in match.group(1).split("_"))
    return BidsFile(path, match.group(2), entities)


def find_bids(
    root: Path, *, tracer: str | None = None, visits: str = "first"
) -> tuple[list[PairSource], list[LeftOut]]:
    """Pair each PET with the T1w of its session, else of the subject, else of the nearest other session.

    The nearest is by the numbers in the labels (M24 is 24), the earlier where two are as near; where a label
    has no number, the first other session.

    Parameters
    ----------
    root : Path
        Folder with ``sub-*``.
    tracer : str, optional
        Only PET with this ``trc-`` (in older Clinica output ``acq-``), case aside.
    visits : {"first", "all"}
    """
    t1: dict[str, list[BidsFile]] = defaultdict(list)
    pet: dict[str, list[BidsFile]] = defaultdict(list)
    left_out: list[LeftOut] = []
    for path in sorted(root.glob("sub-*/**/*")):
        file = parse_name(path)
        if file is None or path.parent.name not in ("anat", "pet"):
            continue
        reason = _refused(file, tracer)
        if reason:
            left_out.append(LeftOut(file.subject, str(path), reason))
        else:
            (t1 if file.suffix == "T1w" else pet)[file.subject].append(file)
    people = read_participants(root / "participants.tsv")
    pairs: list[PairSource] = []
    for subject in sorted(t1.keys() | pet.keys()):
        if subject not in pet:
            left_out += [LeftOut(subject, str(f.path), "no PET of this subject") for f in t1[subject]]
            continue
        if subject not in t1:
            left_out += [LeftOut(subject, str(f.path), "no T1w of this subject") for f in pet[subject]]
            continue
        chosen, spare = _sessions(pet[subject], visits)
        left_out += spare
        for file in chosen:
            mri = min(t1[subject], key=lambda m: _t1_order(m, file))
            meta: dict[str, str] = {k: v for k, v in file.entities.items() if k != "sub"}
            if mri.session not in ("", file.session):
                meta["mri_session"] = mri.session
            if subject in people:
                meta["diagnosis"] = people[subject]
            name = "_".join(f"{k}-{file.entities[k]}" for k in ("sub", "ses") if k in file.entities)
            identity = name if visits == "all" else f"sub-{subject}"
            pairs.append(PairSource(identity, subject, mri.path, file.path, bias_corrected=False, meta=meta))
        used = {pair.mri for pair in pairs}
        left_out += [
            LeftOut(subject, str(f.path), "another T1w was chosen") for f in t1[subject] if f.path not in used
        ]
    return pairs, left_out


def _refused(file: BidsFile, tracer: str | None) -> str:
    if not file.path.exists():
        return "a symbolic link that leads nowhere; get the file (git annex get, datalad get)"
    if _size(file.path) == 0:
        return "the file is empty (0 bytes); download it again"
    if file.suffix == "T1w":
        return ""
    if file.entities.get("rec", "").startswith("nac"):
        return "not attenuation corrected (rec-nac...)"
    found = file.entities.get("trc") or file.entities.get("acq", "")
    if tracer and not found.lower().endswith(tracer.lower().removeprefix("18f")):
        return f"tracer {found or 'not named'}, not {tracer}"
    return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sessions(files: list[BidsFile], visits: str) -> tuple[list[BidsFile], list[LeftOut]]:
    """The best PET of each session (of the first only, unless `visits` is "all")."""

    def order(file: BidsFile) -> tuple[Natural, int, Natural]:
        rec = file.entities.get("rec", "")
        place = _REC.index(rec) if rec in _REC else len(_REC)
        return (natural(file.session), place, natural(file.path.name))

    chosen: dict[str, BidsFile] = {}
    spare: list[LeftOut] = []
    for file in sorted(files, key=order):
        if file.session in chosen:
            reason = f"{chosen[file.session].path.name} of the same session was chosen"
        elif chosen and visits != "all":
            reason = "a later session; visits=all uses it"
        else:
            chosen[file.session] = file
            continue
        spare.append(LeftOut(file.subject, str(file.path), reason))
    return list(chosen.values()), spare


def _t1_order(mri: BidsFile, pet: BidsFile) -> tuple[int, float, Natural, str, Natural]:
    """Same session, then subject level, then the nearest; plain names before variants, first run first."""
    place = 0 if mri.session == pet.session else 1 if not mri.session else 2
    at, wanted = _number(mri.session), _number(pet.session)
    apart = 0.0 if wanted is None else math.inf if at is None else abs(at - wanted)
    variants = "".join(sorted(set(mri.entities) - {"sub", "ses", "run"}))
    return (place, apart, natural(mri.session), variants, natural(mri.path.name))


def _number(session: str) -> int | None:
    """The one number of a session's label, or None."""
    numbers = re.findall(r"\d+", session)
    return int(numbers[0]) if len(numbers) == 1 else None


def read_participants(path: Path) -> dict[str, str]:
    """Subject to diagnosis from ``participants.tsv``; empty where there is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    for column in ("diagnosis_sc", "diagnosis", "group", "dx"):
        if rows and column in rows[0]:
            return {
                (r.get("participant_id") or "").removeprefix("sub-"): r[column]
                for r in rows
                if r[column] and r[column] != "n/a"
            }
    return {}
