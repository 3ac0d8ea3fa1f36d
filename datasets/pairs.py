"""Your own pairs: two folders, a CSV, one folder, or two files; any format that `fusebench` reads."""

from __future__ import annotations

import os
import re
from pathlib import Path

from fusebench.dataset import DatasetInfo
from fusebench.errors import InputError
from fusebench.images.raw import EXTENSIONS, extension, stem
from fusebench.names import check_file_name
from fusebench.parameters import user_path
from fusebench.text import printable

from .preprocessing.base import LeftOut, PairDataset, read_table, table_path
from .preprocessing.pipeline import PairSource

_MRI = ("mri", "mr", "t1w", "t1", "ct", "anat", "structural")
_PET = ("pet", "fdg", "spect", "functional")
_TOKENS = re.compile(
    r"(^|[_\-. ])(" + "|".join((*_MRI, *_PET, "t2w", "t2")) + r")(?=$|[_\-. ])", re.IGNORECASE
)


class Pairs(PairDataset):
    """Pairs of files of the user.

    Parameters
    ----------
    data_dir : path, optional
        A CSV (or a folder with ``pairs.csv``) with columns mri, pet and optionally id, group, mask; a folder
        with sub-folders such as ``mri/`` and ``pet/``; a folder of ``<id>_mri.*`` and ``<id>_pet.*``; or one
        folder a subject with one image of each kind, named so or in sub-folders (``anat/``, ``pet/``).
    mri_dir, pet_dir : path, optional
        Two folders; files belong together when their names do, modality words aside.
    csv : path, optional
        As `data_dir`.
    mri, pet : path, optional
        One pair.
    recipe : str
        "none" (default) takes the voxels as they are and refuses images of different shape or without
        overlap; "default" registers and resamples.
    """

    info = DatasetInfo(
        name="pairs",
        summary="your own pairs: folders, CSV or two files (NIfTI, PNG, TIFF, MHA, NRRD, DICOM)",
        licence="yours",
        obtain="--data-dir FOLDER or CSV, or --data-option mri_dir=... --data-option pet_dir=...",
        modalities="any",
        splits=("train", "val", "test"),
    )
    default_recipe = "none"
    default_split = "all-test"
    expected = (
        "mri/ and pet/ with equal file names, <id>_mri.* and <id>_pet.*, <id>/mri.* and <id>/pet.*, "
        "<id>/anat/ and <id>/pet/, or a CSV with columns mri, pet"
    )

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        mri_dir: str | os.PathLike[str] | None = None,
        pet_dir: str | os.PathLike[str] | None = None,
        csv: str | os.PathLike[str] | None = None,
        mri: str | os.PathLike[str] | None = None,
        pet: str | os.PathLike[str] | None = None,
        recipe: str | None = None,
        register: str = "auto",
        mask: str = "head",
        size: int = 128,
        split: str | None = None,
    ) -> None:
        super().__init__(
            data_dir=data_dir or csv, recipe=recipe, register=register, mask=mask, size=size, split=split
        )
        for one, other, names in ((mri_dir, pet_dir, "mri_dir and pet_dir"), (mri, pet, "mri and pet")):
            if (one is None) != (other is None):
                raise InputError(f"pairs: give both {names}")
        if sum(x is not None for x in (data_dir, csv, mri_dir, mri)) != 1:
            raise InputError(
                "pairs: give one of data_dir, csv, mri_dir with pet_dir, or mri with pet; as options "
                "--data-dir PATH, or --data-option mri=FILE --data-option pet=FILE"
            )
        self.folders = (
            None if mri_dir is None or pet_dir is None else (user_path(mri_dir), user_path(pet_dir))
        )
        self.files = None if mri is None or pet is None else (user_path(mri), user_path(pet))

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        if self.files is not None:
            return [PairSource(_stem(self.files[0]), _stem(self.files[0]), *self.files)], []
        if self.folders is not None:
            return match_folders(*self.folders)
        if self.root.is_file():
            return read_csv(self.root)
        if (self.root / "pairs.csv").is_file():
            return read_csv(self.root / "pairs.csv")
        folders = _two_folders(self.root)
        if folders is not None:
            return match_folders(*folders)
        flat, left_out = match_flat(self.root)
        if flat:
            return flat, left_out
        pairs, left_subjects = match_subjects(self.root)
        return (pairs, left_subjects) if pairs or left_subjects else (flat, left_out)


def _stem(path: Path) -> str:
    return stem(path) if extension(path) in EXTENSIONS else path.name


def identity(path: Path) -> str:
    """A name without its extension and modality words: the case's id."""
    words = _TOKENS.sub("", _stem(path)).strip("_-. ")
    return words or _stem(path)


def _images(folder: Path) -> tuple[dict[Path, Path], list[LeftOut]]:
    """Image files and DICOM folders of a folder, in order, each with what names it.

    A sub-folder that holds one image of another format (``mri/s1/t1.nii.gz``) stands for it and names it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    found: dict[Path, Path] = {}
    left_out: list[LeftOut] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if printable(path.name) != path.name:
            left_out.append(LeftOut("", str(path), "its name is not UTF-8, or steers a terminal; rename it"))
        elif not path.is_dir():
            if extension(path) in EXTENSIONS:
                found[path] = path
        else:
            files = [f for f in sorted(path.iterdir()) if f.is_file() and not f.name.startswith(".")]
            images = [f for f in files if extension(f) in EXTENSIONS]
            if len(images) > 1:
                reason = (
                    f"a folder with {len(images)} images, {images[0].name} first; leave one, or write a CSV"
                )
                left_out.append(LeftOut("", str(path), reason))
            elif files:
                found[images[0] if images else path] = path
    return found, left_out


def match_folders(mri_dir: Path, pet_dir: Path) -> tuple[list[PairSource], list[LeftOut]]:
    """Pair two folders by name."""
    (mri, left_mri), (pet, left_pet) = _images(mri_dir), _images(pet_dir)
    pairs, left_out = _match(mri, pet)
    return pairs, left_out + left_mri + left_pet


def _two_folders(folder: Path) -> tuple[Path, Path] | None:
    """The sub-folders of structural and functional images, by name."""
    below = {p.name.lower(): p for p in sorted(folder.iterdir()) if p.is_dir()}
    mri, pet = (next((below[n] for n in names if n in below), None) for names in (_MRI, _PET))
    return None if mri is None or pet is None else (mri, pet)


def match_subjects(root: Path) -> tuple[list[PairSource], list[LeftOut]]:
    """Pair the images of one folder a subject, whose name is the case's id."""
    pairs: list[PairSource] = []
    left_out: list[LeftOut] = []
    for subject in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        folders = _two_folders(subject)
        mri, pet = map(list, (_images(f)[0] for f in folders) if folders else _by_word(_images(subject)[0]))
        if len(mri) == 1 and len(pet) == 1:
            check_file_name(subject.name, f"{subject}: the folder")
            pairs.append(PairSource(subject.name, subject.name, mri[0], pet[0]))
        elif mri or pet:
            reason = f"{len(mri)} structural and {len(pet)} functional images; leave one each, or write a CSV"
            left_out.append(LeftOut(subject.name, str(subject), reason))
    return pairs, left_out


def match_flat(folder: Path) -> tuple[list[PairSource], list[LeftOut]]:
    """Pair the files of one folder by name; the modality is a word of it."""
    images, odd = _images(folder)
    mri, pet = _by_word(images)
    pairs, left_out = _match(mri, pet)
    other = [p for p in images if p not in mri and p not in pet]
    left_out += [LeftOut("", str(p), "neither mri nor pet is a word of its name") for p in other]
    return pairs, left_out + odd


def _by_word(images: dict[Path, Path]) -> tuple[dict[Path, Path], dict[Path, Path]]:
    """Structural and functional ones of images, by the words of what names them."""

    def words(path: Path) -> set[str]:
        return {m.group(2).lower() for m in _TOKENS.finditer(_stem(path))}

    pet = {p: n for p, n in images.items() if words(n) & set(_PET)}
    mri = {p: n for p, n in images.items() if words(n) & {*_MRI, "t2", "t2w"} and p not in pet}
    return mri, pet


def _match(mri: dict[Path, Path], pet: dict[Path, Path]) -> tuple[list[PairSource], list[LeftOut]]:
    left_out: list[LeftOut] = []

    def by_name(paths: dict[Path, Path]) -> dict[str, Path]:
        out: dict[str, Path] = {}
        for path, named in paths.items():
            name = identity(named)
            if name in out:
                left_out.append(LeftOut(name, str(path), f"the same id {name!r} as {out[name].name}"))
            out.setdefault(name, path)
        return out

    a, b = by_name(mri), by_name(pet)
    pairs = [PairSource(n, n, a[n], b[n]) for n in sorted(a.keys() & b.keys())]
    left_out += [LeftOut(n, str(a[n]), "no PET of this name") for n in sorted(a.keys() - b.keys())]
    left_out += [LeftOut(n, str(b[n]), "no MRI of this name") for n in sorted(b.keys() - a.keys())]
    return pairs, left_out


def read_csv(path: Path) -> tuple[list[PairSource], list[LeftOut]]:
    """Pairs of a CSV; relative paths start at its folder.

    Raises
    ------
    InputError
        No CSV, no such columns, or an id that cannot name a file.
    """
    pairs: list[PairSource] = []
    left_out: list[LeftOut] = []
    seen: set[str] = set()
    for line, row in read_table(path, "mri", "pet"):
        mri, pet = (table_path(path.parent, row[c]) for c in ("mri", "pet"))
        mask = table_path(path.parent, row["mask"]) if row.get("mask") else None
        name = row.get("id") or identity(mri)
        if row.get("id"):  # else it is the name of a file, which is there or not
            check_file_name(name, f"{path}, line {line}: the id")
        lost = [p for p in (mri, pet, mask) if p is not None and not os.path.exists(p)]
        if not row["mri"] or not row["pet"] or lost:
            what = f"no such file: {lost[0]}" if lost else "mri or pet is empty"
            left_out.append(LeftOut(name, f"{path.name} line {line}", what))
        elif name in seen:
            left_out.append(LeftOut(name, f"{path.name} line {line}", f"the id {name!r} occurs twice"))
        else:
            seen.add(name)
            group = row.get("group") or row.get("subject") or name
            diagnosis = {"diagnosis": row["diagnosis"]} if row.get("diagnosis") else {}
            pairs.append(PairSource(name, group, mri, pet, mask=mask, meta=diagnosis))
    return pairs, left_out
