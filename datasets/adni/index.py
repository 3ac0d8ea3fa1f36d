"""The index table: every image below a folder, from names and folders, completed by CSV and XML.

Traps it minds: the 17-digit stamp in file names is the archive time, not the scan's; a leaf folder ``S...``
can hold several images, so the key is ``_I<digits>`` in the file name; subjects can have five digits;
downloads are unpacked side by side at any depth.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path

from .rules import Kind, classify_mri, classify_pet
from .tables import Facts, Tables, settle_dates

SUBJECT = re.compile(r"(?<!\d)(\d{3}_S_\d{4,5})(?!\d)")
_IMAGE_ID = re.compile(r"_I(\d+)(?=\.|_|$)")
_LEAF_ID = re.compile(r"^I(\d+)$")
_FOLDER_DATE = re.compile(r"^(\d{4})-(\d{2})-(\d{2})(_\d{2}_\d{2}_\d{2}(\.\d+)?)?$")
_NAME = re.compile(r"^ADNI_\d{3}_S_\d{4,5}_([A-Z]{2,3})_(.*)_(\d{17})(?:_\d+)?_S\d+_I\d+$")
_TAGS = {"MR": "MRI", "MRI": "MRI", "PT": "PET", "PET": "PET"}
_IMAGES = (".nii", ".nii.gz", ".dcm", ".v", ".img")


@dataclass(frozen=True)
class Entry:
    """One image: a row of the index.

    Attributes
    ----------
    path : Path
        The file, or the folder of its slices, which are then in `files`.
    image_id : str
        ``I`` and digits, "" where unknown.
    dated_by : str
        Where `acquired` comes from: folder, CSV, XML; "" where the date is unknown.
    excluded : str
        Why it is not used; "" otherwise.
    """

    path: Path
    format: str
    subject: str = ""
    image_id: str = ""
    acquired: date | None = None
    dated_by: str = ""
    modality: str = ""
    description: str = ""
    kind: Kind = field(default_factory=Kind)
    files: tuple[Path, ...] = ()
    diagnosis: str = ""
    sex: str = ""
    age: str = ""
    visit: str = ""
    excluded: str = ""


@dataclass
class Listing:
    """The files and folders below a folder."""

    images: dict[tuple[str, str], list[Path]] = field(default_factory=lambda: defaultdict(list))
    tables: list[Path] = field(default_factory=list)
    xml: list[Path] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)


def list_folder(root: Path, *, follow_links: bool = False) -> Listing:
    """Walk `root` once.

    Links that lead out of it are refused (`follow_links` allows them), and so are loops; other trouble of one
    folder (no permission) does not stop the rest.
    """
    listing = Listing()
    home = root.resolve()
    seen = {home}

    def refuse(error: OSError) -> None:
        listing.refused.append((Path(error.filename or root), f"cannot be read ({error.strerror})"))

    def walk(start: Path) -> None:
        for parent, folders, names in os.walk(start, onerror=refuse):
            folders.sort()
            here = Path(parent)
            for name in list(folders):
                if (here / name).is_symlink():
                    folders.remove(name)
                    target = _target(here / name, home, follow_links, listing)
                    if target is not None and target not in seen:
                        seen.add(target)
                        walk(here / name)
            if not folders and not names:
                listing.refused.append((here, "an empty folder"))
            for name in sorted(names):
                _place(here / name, home, follow_links, listing)

    walk(root)
    return listing


def _target(link: Path, home: Path, follow: bool, listing: Listing) -> Path | None:
    """Where a link leads, or None with the reason noted."""
    try:
        target = link.resolve(strict=True)
    except (OSError, RuntimeError):  # Python 3.11 raises RuntimeError for a loop
        listing.refused.append((link, "a symbolic link that loops or leads nowhere"))
        return None
    if not follow and not target.is_relative_to(home):
        listing.refused.append(
            (link, "a symbolic link out of the data folder; allow it with follow_links=True")
        )
        return None
    if link.parent.resolve().is_relative_to(target):
        listing.refused.append((link, "a symbolic link to a folder that holds it (loop)"))
        return None
    return target


def _place(path: Path, home: Path, follow: bool, listing: Listing) -> None:
    name = path.name.lower()
    suffix = ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()
    if path.is_symlink() and not path.exists() and _target(path, home, follow, listing) is None:
        return
    if name.startswith(".") or suffix not in (*_IMAGES, ".csv", ".xml"):
        return
    if path.is_symlink() and _target(path, home, follow, listing) is None:
        return
    if suffix == ".csv":
        listing.tables.append(path)
    elif suffix == ".xml":
        listing.xml.append(path)
    elif suffix == ".dcm":
        found = _IMAGE_ID.findall(path.stem)
        listing.images[str(path.parent), found[-1] if found else ""].append(path)
    else:
        listing.images[str(path), ""].append(path)


def index(listing: Listing, root: Path, tables: Tables) -> Iterator[Entry]:
    """Rows of the index in a stable order; duplicates of an image id are excluded, and wrong ones say why."""
    by_id: dict[str, Path] = {}
    named = [_read_names(files, root) for _, files in sorted(listing.images.items())]
    settle_dates(tables, {e.image_id: e.acquired for e in named if e.image_id and e.acquired})
    for entry in named:
        entry = _complete(entry, tables)
        if not entry.excluded:
            entry = _classify(entry)
        if not entry.excluded and entry.image_id:
            if entry.image_id in by_id:
                reason = f"duplicate of image id {entry.image_id} in {by_id[entry.image_id]}"
                entry = replace(entry, excluded=reason)
            else:
                by_id[entry.image_id] = entry.path
        yield entry
    for path, reason in listing.refused:
        match = SUBJECT.search(str(path.relative_to(root))) if path.is_relative_to(root) else None
        yield Entry(path, "", match.group(1) if match else "", excluded=reason)


def _read_names(files: list[Path], root: Path) -> Entry:
    """The facts that the path states."""
    first = files[0]
    name = first.name
    for suffix in (".nii.gz", ".nii", ".dcm", ".v", ".img"):
        if name.lower().endswith(suffix):
            name, kind = name[: -len(suffix)], suffix
            break
    parts = first.relative_to(root).parts[:-1] if first.is_relative_to(root) else first.parts[:-1]
    subjects = SUBJECT.findall(name) or [s for p in parts for s in SUBJECT.findall(p)]
    ids = _IMAGE_ID.findall(name) or [m.group(1) for p in parts[-1:] if (m := _LEAF_ID.match(p))]
    acquired, description = None, ""
    for i, part in enumerate(parts):
        if match := _FOLDER_DATE.match(part):
            try:
                acquired = date(*(int(g) for g in match.groups()[:3]))
            except ValueError:
                continue
            description = parts[i - 1] if i else ""
    match = _NAME.match(name)
    tag = match.group(1) if match else ""
    if not description and match:
        description = re.sub(r"_(Br|Em|Tx|Hd)$", "", match.group(2))
    dicom = kind == ".dcm"
    folder_only = dicom and len({f.parent for f in files}) == 1
    entry = Entry(
        path=first.parent if folder_only else first,
        format={".dcm": "DICOM", ".v": "ECAT", ".img": "Analyze"}.get(kind, "NIfTI"),
        subject=subjects[-1] if subjects else "",
        image_id=f"I{ids[-1]}" if ids else "",
        acquired=acquired,
        dated_by="folder" if acquired else "",
        modality=_TAGS.get(tag, ""),
        description=description,
        files=tuple(files) if dicom else (),
    )
    if entry.format == "ECAT":
        return replace(entry, excluded="ECAT (.v) is not read; download the processed product, or convert it")
    if entry.format == "Analyze":
        return replace(entry, excluded="Analyze (.img) has no orientation; download NIfTI or DICOM")
    empty = [f for f in files if _size(f) == 0]
    if len(empty) == len(files):
        return replace(entry, excluded="the file is empty (0 bytes); download it again")
    return entry


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _complete(entry: Entry, tables: Tables) -> Entry:
    """Fill gaps from CSV and XML; the folder's date stands, a subject that differs excludes."""
    facts = tables.by_image.get(entry.image_id, Facts()) if entry.image_id else Facts()
    if facts.subject and entry.subject and facts.subject != entry.subject:
        reason = f"subject {entry.subject} by its path, {facts.subject} by {facts.source}"
        return replace(entry, excluded=reason)
    subject = entry.subject or facts.subject
    person = tables.by_subject.get(subject, Facts())
    return replace(
        entry,
        subject=subject,
        acquired=entry.acquired or facts.acquired,
        dated_by=entry.dated_by or (facts.source if facts.acquired else ""),
        modality=entry.modality or facts.modality,
        description=facts.description or entry.description,
        diagnosis=facts.diagnosis or person.diagnosis,
        sex=facts.sex or person.sex,
        age=facts.age,
        visit=facts.visit,
    )


def _classify(entry: Entry) -> Entry:
    if not entry.subject:
        return replace(entry, excluded="no subject id (such as 016_S_4353) in its path")
    modality = entry.modality
    pet, mri = classify_pet(entry.description), classify_mri(entry.description)
    if not modality:
        # Without a tag, what the description fits decides.
        modality = "MRI" if mri.level else "PET" if pet.level or "pet" in entry.description.lower() else ""
    if not modality:
        return replace(entry, excluded=f"neither T1 MRI nor PET by its description {entry.description!r}")
    if modality not in ("MRI", "PET"):
        return replace(entry, modality=modality, excluded=f"modality {modality}")
    kind = mri if modality == "MRI" else pet
    return replace(entry, modality=modality, kind=kind, excluded=kind.refused)
