"""Layouts that hold one folder per case, and in it files whose names end in what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fusebench.errors import InputError
from fusebench.images.raw import NIFTI, extension, stem

_KINDS = (*NIFTI, ".mha")


def case_folders(root: Path, names: Mapping[str, Sequence[str]]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Folders at any depth that hold a file of one of the roles, and these files by role.

    Parameters
    ----------
    root : Path
    names : mapping
        Role to the names that its files have, the extension aside: the whole name, or its end behind ``_``
        or ``-``, case aside.

    Raises
    ------
    InputError
        Two files of one role in a folder.
    """
    folders = sorted(p for p in (root, *root.rglob("*")) if p.is_dir() and not p.name.startswith("."))
    for folder in folders:
        found: dict[str, Path] = {}
        for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
            role = _role(path, names)
            if role is None:
                continue
            if role in found:
                raise InputError(
                    f"{path}: {found[role].name} is the {role} of this folder, too; keep one of them"
                )
            found[role] = path
        if found:
            yield folder, found


def _role(path: Path, names: Mapping[str, Sequence[str]]) -> str | None:
    if extension(path) not in _KINDS:
        return None
    name = stem(path).lower()
    for role, ends in names.items():
        if any(name == end or name.endswith(("_" + end, "-" + end)) for end in ends):
            return role
    return None
