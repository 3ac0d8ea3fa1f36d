"""BIDS: any dataset with T1w and PET; names are parsed here, no library is needed."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.files import read_text
from fusebench.registry import natural

from .preprocessing.base import LeftOut, PairDataset
from .preprocessing.pipeline import PairSource
from .preprocessing.sidecar import read_sidecars

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

    @cached_property
    def tracer(self) -> str:
        """Of a PET: ``trc-``, else ``TracerName`` of its sidecars; "" where neither names it."""
        return self.entities.get("trc") or str(read_sidecars(self.path)[0].get("TracerName") or "")

    @property
    def variants(self) -> int:
        """Number of entities that tell an image from the plain one of its session (``acq-``, ``desc-``)."""
        return len(set(self.entities) - {"sub", "ses", "run", "trc", "rec"})


class Bids(PairDataset):
    """A BIDS dataset with T1w MRI and PET.

    Parameters
    ----------
    data_dir : path
        Folder with ``sub-*``.
    tracer : str, optional
        Value of ``trc-``, or of ``TracerName`` in a sidecar, such as FDG.  Without it, sessions with PET of
        several tracers are left out: which one is meant is not for the alphabet to say.
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
    root: Path,
    *,
    tracer: str | None = None,
    visits: str = "first",
    keep: Callable[[Path], bool] = lambda _: True,
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
    keep : callable
        Tells whether a file may be used; the others are as if they were not there.
    """
    t1: dict[str, list[BidsFile]] = defaultdict(list)
    pet: dict[str, list[BidsFile]] = defaultdict(list)
    left_out: list[LeftOut] = []
    for path in sorted(root.glob("sub-*/**/*")):
        file = parse_name(path)
        if file is None or path.parent.name not in ("anat", "pet") or not keep(path):
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
        chosen, spare = _sessions(pet[subject], visits, tracer)
        left_out += spare
        for file in chosen:
            mri = min(t1[subject], key=lambda m: _t1_order(m, file))
            meta: dict[str, str] = {k: v for k, v in file.entities.items() if k != "sub"}
            if file.tracer:
                meta["trc"] = file.tracer
            if mri.session not in ("", file.session):
                meta["mri_session"] = mri.session
            if subject in people:
                meta["diagnosis"] = people[subject]
            name = "_".join(f"{k}-{file.entities[k]}" for k in ("sub", "ses") if k in file.entities)
            identity = name if visits == "all" else f"sub-{subject}"
            pairs.append(PairSource(identity, subject, mri.path, file.path, bias_corrected=False, meta=meta))
        used = {pair.mri for pair in pairs if pair.group == subject}
        left_out += [
            LeftOut(
                subject, str(f.path), "another T1w was chosen" if used else "no PET of this subject is used"
            )
            for f in t1[subject]
            if f.path not in used
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
    if tracer and not any(_is_tracer(found, tracer) for found in (file.tracer, file.entities.get("acq", ""))):
        return f"tracer {file.tracer or 'not named'}, not {tracer}"
    return ""


def _is_tracer(found: str, wanted: str) -> bool:
    """Compare names of tracers, the isotope aside: 18FFDG, [18F]FDG and FDG."""

    def plain(text: str) -> str:
        return re.sub(r"^(18f|11c|15o|13n)|[^a-z0-9]", "", re.sub(r"[^a-z0-9]", "", text.lower()))

    return bool(found) and plain(found).endswith(plain(wanted))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sessions(files: list[BidsFile], visits: str, tracer: str | None) -> tuple[list[BidsFile], list[LeftOut]]:
    """The best PET of each session (of the first only, unless `visits` is "all")."""

    def order(file: BidsFile) -> tuple[Natural, int, int, Natural]:
        rec = file.entities.get("rec", "")
        place = _REC.index(rec) if rec in _REC else len(_REC)
        return (natural(file.session), place, file.variants, natural(file.path.name))

    tracers: dict[str, dict[str, None]] = defaultdict(dict)
    for file in files if tracer is None else ():
        if file.tracer:
            tracers[file.session].setdefault(file.tracer)
    chosen: dict[str, BidsFile] = {}
    spare: list[LeftOut] = []
    for file in sorted(files, key=order):
        if len(tracers[file.session]) > 1:
            reason = f"PET of {' and '.join(sorted(tracers[file.session]))}; name one with tracer="
        elif file.session in chosen:
            reason = f"{chosen[file.session].path.name} of the same session was chosen"
        elif chosen and visits != "all":
            reason = "a later session; visits=all uses it"
        else:
            chosen[file.session] = file
            continue
        spare.append(LeftOut(file.subject, str(file.path), reason))
    return list(chosen.values()), spare


def _t1_order(mri: BidsFile, pet: BidsFile) -> tuple[int, float, Natural, int, Natural]:
    """Same session, then subject level, then the nearest; plain names before variants, first run first."""
    place = 0 if mri.session == pet.session else 1 if not mri.session else 2
    at, wanted = _number(mri.session), _number(pet.session)
    apart = 0.0 if wanted is None else math.inf if at is None else abs(at - wanted)
    return (place, apart, natural(mri.session), mri.variants, natural(mri.path.name))


def _number(session: str) -> int | None:
    """The one number of a session's label, or None."""
    numbers = re.findall(r"\d+", session)
    return int(numbers[0]) if len(numbers) == 1 else None


def read_participants(path: Path) -> dict[str, str]:
    """Subject to diagnosis from ``participants.tsv``; empty where there is none."""
    try:
        names, *rows = csv.reader(io.StringIO(read_text(path, encoding="utf-8-sig"), ""), delimiter="\t")
    except (OSError, ValueError, csv.Error):  # no such file, or no table, an empty one among them
        return {}
    column = next((n for n in ("diagnosis_sc", "diagnosis", "group", "dx") if n in names), None)
    if column is None or "participant_id" not in names:
        return {}
    who, what = names.index("participant_id"), names.index(column)
    filled = [row for row in rows if len(row) > max(who, what)]
    return {row[who].removeprefix("sub-"): row[what] for row in filled if row[what] not in ("", "n/a")}
