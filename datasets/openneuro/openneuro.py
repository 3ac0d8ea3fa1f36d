"""OpenNeuro: T1w and PET that anyone may fetch, a few accessions whose files, terms and traps are known."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.parameters import user_path
from fusebench.store.cache import cache_dir

from ..bids import find_bids
from ..preprocessing.base import LeftOut, PairDataset
from ..preprocessing.pipeline import PairSource
from ..preprocessing.sidecar import frame_durations, read_sidecars
from .accessions import ACCESSIONS, SERVER, Accession
from .download import Downloads
from .late_mean import late_mean
from .listing import File, read_listing

_SUBJECT = re.compile(r"(?:^|/)sub-([A-Za-z0-9]+)/")
# Of ds004513: the roles of the files of one session, by the end of their names.
_ROLES = {
    "mri": "_desc-bet_T1w.nii.gz",
    "mask": "_dseg.nii.gz",
    "transform": "_from-T1w_to-MNI152NLin6ASym_res-3mm_xfm.mat",
    "pet": "_desc-CMRglc_pet.nii.gz",
}
_MEAN = "_desc-last{0:.0f}s_pet.nii.gz"


class OpenNeuro(PairDataset):
    """T1w and PET of an accession of OpenNeuro.

    Parameters
    ----------
    accession : {"ds004513", "ds002898", "ds004868"}
    data_dir : path, optional
        A copy, laid out as the dataset is; by default the folder of the cache that ``prepare --download``
        fills.
    people : str, optional
        Labels of some, ``s003,s007``: only they are fetched and used.
    visits : {"all", "first"}, optional
        Every session, or the first of each person.  Statistics and splits are by person either way.
    register : {"check", "auto", "always", "never"}
        Where the dataset has a transform: "check" takes it and registers as well, to compare their overlaps;
        "auto" takes it; "always" registers.
    server, listing : str, optional
        Another address of the files, such as a mirror; and another table of them (``make_listing.py``).
    """

    info = DatasetInfo(
        name="openneuro",
        summary="T1w + PET of OpenNeuro, fetched without an account",
        licence="CC0 of every accession known here",
        obtain="`prepare --dataset openneuro --data-option accession=ds004513 --download`; "
        "or a copy of the dataset with --data-dir",
        splits=("train", "val", "test"),
        notes="accessions " + ", ".join(f"{a.name} ({a.tracer})" for a in ACCESSIONS.values()),
    )
    default_split = "all-test"

    def __init__(
        self,
        *,
        accession: str = "ds004513",
        data_dir: str | os.PathLike[str] | None = None,
        people: str | None = None,
        visits: str | None = None,
        recipe: str | None = None,
        register: str | None = None,
        mask: str = "head",
        size: int = 128,
        split: str | None = None,
        server: str = SERVER,
        listing: str | os.PathLike[str] | None = None,
    ) -> None:
        if accession not in ACCESSIONS:
            raise InputError(
                f"openneuro: accession {accession!r} is not one of {', '.join(ACCESSIONS)}; fetch another "
                "one yourself and give --dataset bids --data-dir PATH"
            )
        facts = ACCESSIONS[accession]
        super().__init__(
            data_dir=data_dir,
            recipe=recipe,
            register=register or ("check" if facts.layout == "energetic-costs" else "auto"),
            mask=mask,
            size=size,
            split=split,
        )
        self.facts: Accession = facts
        self.visits = visits or facts.visits
        if self.visits not in ("first", "all"):
            raise InputError(f"openneuro: visits={visits!r} is not first or all")
        self.people = None
        if people is not None:
            self.people = {name.strip().removeprefix("sub-") for name in str(people).split(",")}
        self.server = f"{server.rstrip('/')}/{accession}"
        self.listing = facts.listing if listing is None else user_path(listing)
        if self.data_dir is None:
            self.data_dir = cache_dir("openneuro", f"{accession}-{facts.version}")
        self.expected = f"the files of {accession} as its listing names them; {self.info.obtain}"

    @cached_property
    def files(self) -> list[File]:
        """The listed files of the people asked for."""
        known = {f: _SUBJECT.search(f.path) for f in read_listing(self.listing)}
        listed = {m.group(1) for m in known.values() if m}
        wanted = listed if self.people is None else self.people
        if wanted - listed:
            unknown, some = ",".join(sorted(wanted - listed)), ", ".join(sorted(listed)[:3])
            raise InputError(f"openneuro: people={unknown}: not in {self.facts.name}; it has {some}, ...")
        return [f for f, m in known.items() if m is None or m.group(1) in wanted]

    # -- contract ----------------------------------------------------------------------------------

    def describe(self) -> DatasetInfo:
        a = self.facts
        return replace(
            self.info,
            summary=f"{a.title} (OpenNeuro {a.name} {a.version}, {a.tracer})",
            licence=a.licence,
            citation=a.cite,
            notes=a.note,
        )

    def _nothing(self, split: str) -> str:
        if any((self.root / file.path).exists() for file in self.files):
            return super()._nothing(split)
        return (
            f"{self.root}: none of the files of {self.facts.name} is here; fetch them with `prepare "
            f"--dataset openneuro --data-option accession={self.facts.name} --download`, or give a copy with "
            "--data-dir"
        )

    def download(self, say: Callable[[str], None]) -> None:
        assert self.data_dir is not None
        a = self.facts
        say(f"{a.name} {a.version}: {a.title}. Licence {a.licence}.")
        say(f"Cite: {a.cite}")
        say(f"Note: {a.note}.")
        total = sum(f.size for f in self.files)
        say(f"{len(self.files)} files, {total / 1e6:.0f} MB in all, from {self.server} to {self.data_dir}")
        came = Downloads(self.server, self.data_dir, say).fetch(self.files)
        say(f"{came} files fetched, each checked by size and hash; {len(self.files) - came} were there")
        self._make_means(say)

    def summary(self) -> list[str]:
        pairs, left_out = self.found
        people = len({p.group for p in pairs})
        return [
            f"{self.facts.name} {self.facts.version}, licence {self.facts.licence}; cite {self.facts.cite}",
            f"{len(pairs)} pairs of {people} people; {len(left_out)} left out",
        ]

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        found = self._energetic if self.facts.layout == "energetic-costs" else self._bids
        pairs, left_out = found()
        if self.visits == "first":
            kept: dict[str, PairSource] = {}
            for pair in pairs:
                if kept.setdefault(pair.group, pair) is not pair:
                    left_out.append(LeftOut(pair.group, str(pair.pet), "a later session; visits=all uses it"))
            pairs = list(kept.values())
        return pairs, left_out

    # -- layouts -----------------------------------------------------------------------------------

    def _energetic(self) -> tuple[list[PairSource], list[LeftOut]]:
        sessions: dict[str, dict[str, Path]] = {}
        for file in self.files:
            role = next((r for r, end in _ROLES.items() if file.path.endswith(end)), None)
            if role is not None:
                name = "_".join(Path(file.path).name.split("_")[:2])
                sessions.setdefault(name, {})[role] = self.root / file.path
        pairs, left_out = [], []
        for name, files in sorted(sessions.items()):
            group, session = (part.split("-", 1)[1] for part in name.split("_"))
            absent = [role for role in _ROLES if role not in files or not files[role].is_file()]
            if absent:
                path = str(files.get("pet") or next(iter(files.values())))
                reason = f"no {' and no '.join(absent)} here; `prepare --download` fetches what is missing"
                left_out.append(LeftOut(group, path, reason))
                continue
            meta = {"ses": session, "trc": self.facts.tracer}
            pairs.append(PairSource(name, group, files["mri"], files["pet"], mask=files["mask"],
                                    transform=files["transform"], meta=meta))  # fmt: skip
        return pairs, left_out

    def _bids(self) -> tuple[list[PairSource], list[LeftOut]]:
        if not self.root.is_dir():
            return [], []
        pairs, left_out = find_bids(self.root, visits=self.visits, keep=lambda p: p.name in self._named)
        usable = []
        for pair in pairs:
            mean = self._mean_of(pair.pet)
            if mean.is_file():
                usable.append(replace(pair, pet=mean))
            else:
                reason = "the mean of its last frames is not made yet; `prepare --download` makes it"
                left_out.append(LeftOut(pair.group, str(pair.pet), reason))
        return usable, left_out

    @cached_property
    def _named(self) -> dict[str, File]:
        return {Path(f.path).name: f for f in self.files}

    def _mean_of(self, pet: Path) -> Path:
        """Where the static image of a dynamic PET lies: in the cache, as we may not write to a copy."""
        folder = cache_dir("openneuro", "static", self._named[pet.name].digest)
        return folder / pet.name.replace("_pet.nii.gz", _MEAN.format(self.facts.last))

    def _make_means(self, say: Callable[[str], None]) -> None:
        for file in self.files if self.facts.layout == "bids" else ():
            pet = self.root / file.path
            target = self._mean_of(pet)
            if not file.path.endswith("_pet.nii.gz") or target.is_file():
                continue
            durations = frame_durations(read_sidecars(pet)[0])
            count = late_mean(pet, target, durations, self.facts.last)
            say(f"{pet.name}: mean of the last {count} of {len(durations)} frames")
