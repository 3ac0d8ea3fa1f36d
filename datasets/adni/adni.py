"""ADNI as it lies on disk: the authors' layout, Clinica's CAPS and BIDS, an IDA tree, or a flat folder."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.registry import natural

from ..bids import find_bids
from ..preprocessing.base import LeftOut, PairDataset
from ..preprocessing.pipeline import PairSource
from .index import Entry, Listing, index, list_folder
from .pairing import Match, pair, read_image_list
from .rules import PET_LEVELS
from .tables import Tables, read_tables

LAYOUTS = ("paper", "caps", "bids", "ida")
_PAPER_MRI = re.compile(r"^(.+)_mri_MNI152\.nii(\.gz)?$", re.IGNORECASE)
_CLINICA_SUBJECT = re.compile(r"^ADNI(\d{3})S(\d{4,5})$")


class Adni(PairDataset):
    """ADNI T1 MRI and FDG-PET.

    Parameters
    ----------
    data_dir : path
        What the download or conversion gave; the layout is recognised.
    layout : {"auto", "paper", "caps", "bids", "ida"}
        "ida" is the archive's tree or a flat folder of its file names.
    pet_level : {"auto", "any", "6mm", "8mm", "standardized", "averaged", "dynamic"}
        See ``pairing.py``.
    max_days : int
        Between MRI and PET.
    visits : {"first", "all"}
        One pair per subject, or one per PET session.
    image_list : path, optional
        Use exactly these image ids (the DC2Fusion authors' ``ImageID.csv`` as it is).
    follow_links : bool
        Follow symbolic links that lead out of `data_dir`.
    split : {"hash", "stratified", "all-test"} or path
        Subject splits; "stratified" by diagnosis.
    """

    info = DatasetInfo(
        name="adni",
        summary="ADNI T1 MRI + FDG-PET from your own download (IDA tree, authors' layout, Clinica)",
        licence="ADNI data use agreement: no redistribution",
        citation="adni.loni.usc.edu; the acknowledgement that the agreement asks for",
        images_may_be_shared=False,
        obtain="apply at ida.loni.usc.edu; download T1 MRI and FDG-PET with the collection CSV",
        needs_dir=True,
        splits=("train", "val", "test"),
        notes="splits by subject, 70/10/20, from a hash of the subject id",
    )
    expected = "an IDA download, Clinica's CAPS or BIDS, or pairs *_mri_MNI152.nii.gz, *_FDG_MNI152.nii.gz"

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        layout: str = "auto",
        pet_level: str = "auto",
        max_days: int = 180,
        visits: str = "first",
        image_list: str | os.PathLike[str] | None = None,
        follow_links: bool = False,
        recipe: str | None = None,
        register: str = "auto",
        mask: str = "head",
        size: int = 128,
        split: str | None = None,
    ) -> None:
        super().__init__(
            data_dir=data_dir, recipe=recipe, register=register, mask=mask, size=size, split=split
        )
        _one_of("layout", layout, ("auto", *LAYOUTS))
        _one_of("pet_level", pet_level, ("auto", "any", *PET_LEVELS))
        _one_of("visits", visits, ("first", "all"))
        if not self.root.is_dir():
            raise InputError(f"--data-dir {data_dir}: not a folder; give the folder of the download")
        self.pet_level, self.max_days, self.visits = pet_level, max_days, visits
        self.follow_links, self._layout = follow_links, layout
        self.listed = None if image_list is None else read_image_list(Path(image_list))
        self.image_list = None if image_list is None else str(image_list)

    @cached_property
    def listing(self) -> Listing:
        return list_folder(self.root, follow_links=self.follow_links)

    @cached_property
    def tables(self) -> Tables:
        return read_tables(self.listing.tables, self.listing.xml)

    @cached_property
    def layout(self) -> str:
        """The layout given or recognised."""
        if self._layout != "auto":
            return self._layout
        files = [f for files in self.listing.images.values() for f in files]
        if any(_PAPER_MRI.match(f.name) for f in files):
            return "paper"
        if any(f.parent.name == "t1_linear" for f in files):
            return "caps"
        if any(f.name.startswith("sub-") and f.parent.name in ("anat", "pet") for f in files):
            return "bids"
        return "ida"

    @cached_property
    def index(self) -> list[Entry]:
        """The index table of an IDA tree or flat folder."""
        return list(index(self.listing, self.root, self.tables))

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        finders = {"paper": self._paper, "caps": self._caps, "bids": self._bids, "ida": self._ida}
        sources, left_out = finders[self.layout]()
        left_out += [LeftOut("", str(p), reason) for p, reason in self.tables.notes]
        if self.layout != "ida":
            left_out += [LeftOut("", str(p), reason) for p, reason in self.listing.refused]
        diagnosis = {s: f.diagnosis for s, f in self.tables.by_subject.items() if f.diagnosis}
        sources = [
            replace(s, meta={"diagnosis": diagnosis[s.group], **s.meta}) if s.group in diagnosis else s
            for s in sources
        ]
        return sources, left_out

    def summary(self) -> list[str]:
        """Lines above the report: layout, tables, image list."""
        pairs, left_out = self.found
        tables = self.tables.read
        lines = [
            f"layout {self.layout}; {len(pairs)} pairs of {len({p.group for p in pairs})} subjects; "
            f"{len(left_out)} left out",
            f"{len(tables)} collection tables read"
            if tables
            else "no collection CSV or XML: diagnosis unknown, dates from folders only",
        ]
        if self.listed is not None and self.layout == "ida":
            here = {e.image_id for e in self.index}
            used = {str(p.meta[k]) for p in pairs for k in ("mri_id", "pet_id")}
            found = [i for i in self.listed if i in here]
            lines.append(
                f"image list: {len(self.listed)} ids, {len(found)} found, {len(self.listed) - len(found)} "
                f"absent, {len(set(found) - used)} found but unpaired"
            )
        return lines

    # -- layouts -----------------------------------------------------------------------------------

    def _ida(self) -> tuple[list[PairSource], list[LeftOut]]:
        matches, left_out = pair(
            self.index,
            pet_level=self.pet_level,
            max_days=self.max_days,
            visits=self.visits,
            listed=self.listed,
        )
        return (
            [_source(m, self.visits) for m in matches],
            [LeftOut(e.subject, str(e.path), e.excluded) for e in left_out],
        )

    def _paper(self) -> tuple[list[PairSource], list[LeftOut]]:
        """``<subject>/<subject>_mri_MNI152.nii.gz`` and ``<subject>_FDG_MNI152.nii.gz``: aligned in MNI."""
        found: dict[tuple[Path, str], dict[str, Path]] = {}
        for files in self.listing.images.values():
            for kind, pattern in (("mri", _PAPER_MRI), ("pet", _PAPER_PET)):
                if match := pattern.match(files[0].name):
                    found.setdefault((files[0].parent, match.group(1)), {})[kind] = files[0]
        sources, left_out, seen = [], [], set()
        for (_, subject), files_of in sorted(found.items()):
            mri, pet = files_of.get("mri"), files_of.get("pet")
            if mri is None or pet is None:
                lack = "no MRI" if mri is None else "no FDG-PET"
                left_out.append(LeftOut(subject, str(mri or pet), f"{lack} beside it"))
            elif subject in seen:
                left_out.append(LeftOut(subject, str(mri), "the same subject lies in another folder"))
            else:
                seen.add(subject)
                sources.append(PairSource(subject, subject, mri, pet, aligned=True, meta={"layout": "paper"}))
        return sources, left_out

    def _bids(self) -> tuple[list[PairSource], list[LeftOut]]:
        """Clinica's conversion; it re-centres both images, so headers no longer align MRI and PET."""
        top = _top(self.listing)
        sources, left_out = find_bids(top or self.root, tracer="18FFDG", visits=self.visits)
        out = []
        for s in sources:
            group = ptid(s.group)
            identity = s.id.replace(f"sub-{s.group}", group)
            meta = {**s.meta, "layout": "bids"}
            out.append(replace(s, id=identity, group=group, meta=meta))
        return out, [replace(x, group=ptid(x.group)) for x in left_out]

    def _caps(self) -> tuple[list[PairSource], list[LeftOut]]:
        """Clinica's t1-linear and pet-linear output: both cropped in MNI at 1 mm."""
        mri: dict[tuple[str, str], Path] = {}
        pet: dict[tuple[str, str], Path] = {}
        left_out: list[LeftOut] = []
        for files in self.listing.images.values():
            path = files[0]
            match = re.match(r"^sub-([A-Za-z0-9]+)_ses-([A-Za-z0-9]+)_", path.name)
            if match is None:
                continue
            key = (ptid(match.group(1)), match.group(2))
            if path.parent.name == "t1_linear" and "_T1w." in path.name:
                if "desc-Crop" in path.name or key not in mri:
                    mri[key] = path
            elif path.parent.name == "pet_linear" and "_pet." in path.name:
                if "fdg" not in path.name.lower():
                    left_out.append(LeftOut(key[0], str(path), "tracer is not FDG"))
                elif "desc-Crop" in path.name or key not in pet:
                    pet[key] = path
        sources: list[PairSource] = []
        seen: set[str] = set()
        for key in sorted(mri.keys() | pet.keys(), key=lambda k: (k[0], natural(k[1]))):
            subject, session = key
            if key not in mri or key not in pet:
                lack = "no t1_linear" if key not in mri else "no pet_linear FDG"
                left_out.append(
                    LeftOut(subject, str(mri.get(key) or pet.get(key)), f"{lack} in ses-{session}")
                )
            elif subject in seen and self.visits == "first":
                left_out.append(LeftOut(subject, str(pet[key]), "a later visit; visits=all uses it"))
            else:
                seen.add(subject)
                identity = subject if self.visits == "first" else f"{subject}_{session}"
                meta = {"layout": "caps", "ses": session}
                sources.append(PairSource(identity, subject, mri[key], pet[key], aligned=True, meta=meta))
        return sources, left_out


_PAPER_PET = re.compile(r"^(.+)_FDG_MNI152\.nii(\.gz)?$", re.IGNORECASE)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"adni: {name}={value!r} is not one of {', '.join(known)}")


def ptid(bids_subject: str) -> str:
    """``ADNI016S4353`` as ``016_S_4353``; anything else as it is."""
    match = _CLINICA_SUBJECT.match(bids_subject)
    return f"{match.group(1)}_S_{match.group(2)}" if match else bids_subject


def _top(listing: Listing) -> Path | None:
    """Folder that holds the ``sub-*`` folders."""
    for files in listing.images.values():
        for parent in files[0].parents:
            if parent.name.startswith("sub-"):
                return parent.parent
    return None


def _source(match: Match, visits: str) -> PairSource:
    pet, mri = match.pet, match.mri
    meta: dict[str, Any] = {
        "layout": "ida",
        "mri_id": mri.image_id,
        "pet_id": pet.image_id,
        "mri_level": mri.kind.level,
        "pet_level": pet.kind.level,
        "pet_date": str(pet.acquired or ""),
        "days": "" if match.days is None else match.days,
        "dated_by": pet.dated_by,
    }
    facts = {
        "diagnosis": pet.diagnosis,
        "sex": pet.sex,
        "age": pet.age,
        "visit": pet.visit,
        "note": match.note,
    }
    meta |= {k: v for k, v in facts.items() if v}
    return PairSource(
        id=pet.subject if visits == "first" else f"{pet.subject}_{pet.image_id}",
        group=pet.subject,
        mri=mri.path,
        pet=pet.path,
        mri_files=mri.files,
        pet_files=pet.files,
        bias_corrected=mri.kind.level in ("scaled", "n3", "n3m"),
        meta=meta,
    )
