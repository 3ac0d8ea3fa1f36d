"""A submitted entry: one folder, read as a stranger's file, and made from a run.

``entry.toml`` says who and what, ``rows.jsonl`` and ``manifest.json`` are those of a run with one method, and
``volumes/`` holds the fused images of two cases, that whoever checks can score again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from fusebench.engine.manifest import read_manifest
from fusebench.errors import InputError
from fusebench.files import read_bytes, whole_folder
from fusebench.names import check_name, check_text
from fusebench.store.read_rows import read_log
from fusebench.store.rows import Row

SCHEMA = 1
# Cases whose fused volumes an entry holds.
VOLUMES = 2
# Bytes of each file, and how many volumes there may be: an image and one with findings for each case.
_LIMITS = {"entry.toml": 64 << 10, "rows.jsonl": 32 << 20, "manifest.json": 2 << 20}
_VOLUME_BYTES = 24 << 20
_MOST_VOLUMES = 2 * VOLUMES
_MOST_ROWS = 50_000
_LONGEST = {"notes": 2000}
_LINE = 300
# Statuses that a board can show; whatever else happened is a row of the run that is repeated.
_NUMBERS = ("value", "load_seconds", "fuse_seconds", "score_seconds", "memory_mb", "gpu_memory_mb")


@dataclass(frozen=True)
class About:
    """What ``entry.toml`` says.

    Attributes
    ----------
    name : str
        On the board.
    method : str
        In the rows.
    authors : tuple of str
    paper, code, commit, licence, notes : str
        ``code`` begins with ``https://``; paper or code is needed.
    training_data : str
        What was learned from, in words; "none" where nothing was.
    """

    name: str
    method: str
    authors: tuple[str, ...]
    training_data: str
    paper: str = ""
    code: str = ""
    commit: str = ""
    licence: str = ""
    notes: str = ""


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry that is well-formed; that says nothing about whether its values are right."""

    folder: Path
    about: About
    rows: tuple[Row, ...]
    manifest: Mapping[str, Any]
    volumes: Mapping[str, Path]
    digest: str

    @property
    def dataset(self) -> str:
        return self.rows[0].dataset

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of the method."""
        found = self.manifest.get("methods", {}).get(self.about.method, {})
        return found if isinstance(found, dict) else {}


def read_entry(folder: Path) -> Entry:
    """Read an entry, trusting nothing in it.

    Raises
    ------
    InputError
        A file that does not belong there, is no plain file, is too big or is not what it should be.
    """
    files = _files(folder)
    about = read_about(folder / "entry.toml")
    rows = read_log(folder)
    lines = (folder / "rows.jsonl").read_bytes().count(b"\n")
    manifest = read_manifest(folder)
    _check_rows(folder / "rows.jsonl", about, rows, lines)
    volumes = {p.name.removesuffix(".nii.gz"): p for p in files if p.parent != folder}
    hashed = hashlib.sha256()
    for path in sorted(files):
        hashed.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return Entry(folder, about, tuple(rows), manifest, volumes, hashed.hexdigest())


def _files(folder: Path) -> list[Path]:
    """Files of an entry, each plain, small enough and of a name that belongs there."""
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder}: no folder of an entry; `submit RUN --out FOLDER` makes one")
    if not (folder / "entry.toml").exists():
        raise InputError(f"{folder}: no entry, it holds no entry.toml; `submit RUN --out FOLDER` makes one")
    found = []
    for path in sorted(folder.iterdir()):
        kind = path.lstat().st_mode
        if path.name == "volumes" and stat.S_ISDIR(kind):
            found += [_plain(p, _VOLUME_BYTES) for p in sorted(path.iterdir())]
        elif path.name in _LIMITS:
            found.append(_plain(path, _LIMITS[path.name]))
        else:
            raise InputError(f"{folder}: {path.name!a} does not belong in an entry; remove it")
    missing = sorted(set(_LIMITS) - {p.name for p in found})
    if missing:
        raise InputError(f"{folder}: {missing[0]} is missing; `submit RUN --out FOLDER` makes an entry")
    volumes = [p for p in found if p.parent != folder]
    for path in volumes:
        if not re.fullmatch(r"[\w.@+-]{1,150}\.nii\.gz", path.name, re.ASCII):
            raise InputError(f"{folder}: volumes/{path.name!a} does not belong in an entry; remove it")
    if len(volumes) > _MOST_VOLUMES:
        raise InputError(f"{folder}: {len(volumes)} volumes, at most {_MOST_VOLUMES} belong in an entry")
    return found


def _plain(path: Path, most: int) -> Path:
    facts = path.lstat()
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(f"{path.parent}: {path.name!a} is a link or no plain file; put the file there")
    if facts.st_nlink > 1 or facts.st_size > most:
        what = "has other names (hard links)" if facts.st_nlink > 1 else f"is larger than {most >> 10} KiB"
        raise InputError(f"{path.parent}: {path.name!a} {what}")
    return path


def read_about(path: Path) -> About:
    """Read ``entry.toml``.

    Raises
    ------
    InputError
        Not TOML, a field that is missing, unknown or of another kind, or text that cannot be printed.
    """
    try:
        content = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not TOML ({' '.join(str(error).split())[:100]})") from None
    if content.pop("schema", None) != SCHEMA:
        raise InputError(f"{path}: schema is not {SCHEMA}; make the entry with this version of FuseBench")
    known = {f.name for f in fields(About)}
    for name in content:
        if name not in known:
            raise InputError(
                f"{path}: {ascii(name)[:60]} is not a field; there are {', '.join(sorted(known))}"
            )
    authors = content.get("authors", [])
    if not isinstance(authors, list) or not 1 <= len(authors) <= 100:
        raise InputError(f"{path}: authors is not a list of names, at least one")
    texts = {n: content.get(n, "") for n in known - {"authors"}}
    for name, text in [*texts.items(), *(("authors", a) for a in authors)]:
        if not isinstance(text, str) or len(text) > _LONGEST.get(name, _LINE):
            raise InputError(
                f"{path}: {name} is not a text of at most {_LONGEST.get(name, _LINE)} characters"
            )
        check_text(text, f"{path}: {name}")
    return checked(About(**texts, authors=tuple(authors)), str(path))


def checked(about: About, where: str) -> About:
    """`about`, if it says all that is needed.

    Raises
    ------
    InputError
        It does not.
    """
    check_name(about.name, f"{where}: name")
    check_name(about.method.partition("@")[0], f"{where}: method")
    if not any(a.strip() for a in about.authors):
        raise InputError(f"{where}: authors is empty; say who made this (--authors NAME)")
    if not about.training_data.strip():
        raise InputError(
            f"{where}: training_data is empty; say what it was trained on, or none (--training-data TEXT)"
        )
    if not about.paper and not about.code:
        raise InputError(f"{where}: neither paper nor code; say where it is described (--paper, --code)")
    for name, link in (("code", about.code), ("paper", about.paper)):
        if (name == "code" and link and not link.startswith("https://")) or re.match(
            r"(?i)\s*(javascript|data):", link
        ):
            raise InputError(f"{where}: {name} {ascii(link)[:60]} is no https:// address")
    return about


def _check_rows(path: Path, about: About, rows: Sequence[Row], lines: int) -> None:
    if not rows:
        raise InputError(f"{path}: no rows")
    if lines > _MOST_ROWS or lines != len(rows):
        raise InputError(f"{path}: {lines} lines for {len(rows)} results; an entry holds each result once")
    for what, names in (("method", {r.method for r in rows}), ("dataset", {r.dataset for r in rows})):
        if len(names) > 1:
            raise InputError(f"{path}: rows of {len(names)} {what}s; an entry is of one")
    if rows[0].method != about.method:
        raise InputError(f"{path}: rows of {rows[0].method!r}, while entry.toml names {about.method!r}")
    for row in rows:
        for name in ("case", "metric", "protocol", "group", "reason", "split"):
            if len(getattr(row, name)) > 500:
                raise InputError(f"{path}: a {name} of more than 500 characters")
        for name in _NUMBERS:
            value = getattr(row, name)
            if value is not None and (math.isnan(value) or (math.isinf(value) and name != "value")):
                raise InputError(f"{path}: case {row.case}, {row.metric}: {name} is not a number")
        if (row.status == "ok") != (row.value is not None):
            raise InputError(
                f"{path}: case {row.case}, {row.metric}: status {row.status} does not fit its value"
            )


def chosen_cases(name: str, cases: Sequence[str]) -> list[str]:
    """The cases whose volumes an entry of this name holds: drawn by its name, not by who submits."""
    return sorted(sorted(cases, key=lambda c: hashlib.sha256(f"{name}\0{c}".encode()).digest())[:VOLUMES])


def write_entry(
    out: Path,
    about: About,
    rows: Sequence[Row],
    manifest: Mapping[str, Any],
    volumes: Mapping[str, Path],
) -> None:
    """Write the folder of an entry.

    Raises
    ------
    InputError
        `out` exists and is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: exists and is not empty; give a new folder")
    lines = [f"schema = {SCHEMA}", *(f"{k} = {_toml(v)}" for k, v in asdict(about).items())]
    with whole_folder(out) as made:
        (made / "volumes").mkdir()
        (made / "entry.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (made / "rows.jsonl").open("w", encoding="utf-8") as handle:
            handle.writelines(json.dumps({"schema": 1, **row.as_dict()}) + "\n" for row in rows)
        content = json.dumps(manifest, indent=1, default=str) + "\n"
        (made / "manifest.json").write_text(content, encoding="utf-8")
        for name, source in volumes.items():
            (made / "volumes" / f"{name}.nii.gz").write_bytes(read_bytes(source, _VOLUME_BYTES))


def _toml(value: str | Sequence[str]) -> str:
    """A text, or a list of texts: what JSON writes for them, TOML reads."""
    return json.dumps(value if isinstance(value, str) else list(value))


def entry_folders(paths: Sequence[Path]) -> list[Path]:
    """Entries among `paths`: each itself, or the folders in it that hold an ``entry.toml``."""
    found: list[Path] = []
    for path in paths:
        if (path / "entry.toml").exists() or not path.is_dir():
            found.append(path)
            continue
        below = [p for p in sorted(path.iterdir()) if os.path.lexists(p / "entry.toml")]
        if not below:
            raise InputError(f"{path}: holds no entry (a folder with entry.toml)")
        found += below
    return list(dict.fromkeys(found))
