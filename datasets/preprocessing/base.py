"""`PairDataset`: what the datasets of real files share: recipe, splits, report."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fusebench.case import Case
from fusebench.dataset import Dataset
from fusebench.errors import InputError
from fusebench.files import read_bytes
from fusebench.parameters import user_path
from fusebench.text import plural, printable, reason_of

from . import quality
from .pipeline import PairSource, make_case, steps_of, stored_report

SPLITS = ("train", "val", "test")
SHARES = (0.7, 0.1, 0.2)
# Cases that a line below the board names.
_SHOWN = 5


@dataclass(frozen=True)
class LeftOut:
    """Something that was found and is not used: subject, file, and why."""

    group: str
    path: str
    reason: str


class PairDataset(Dataset):
    """Base of datasets that find `PairSource` on disk.

    Parameters
    ----------
    data_dir : path
        Where the files lie.
    recipe : {"default", "paper", "native", "none"}
        See ``preprocessing/pipeline.py``.
    register : {"auto", "always", "never", "check"}
        Rigid PET→MRI registration; "auto" leaves out what its layout says is aligned, "check" compares.
    mask : {"head", "brain"}
        Foreground where no mask file is given.
    size : int
        Voxels per axis of recipes "default" and "paper".
    split : {"all-test", "hash", "stratified"} or path
        Who is in train, val and test: everyone in test; by a hash of the subject (stable when subjects are
        added); by that hash within each diagnosis (exact shares, for a closed cohort); or a CSV with
        columns subject and split.
    """

    default_recipe = "default"
    default_split = "hash"
    expected = ""  # what lies in `data_dir`, in words, for whoever gave another folder

    def __init__(
        self,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        recipe: str | None = None,
        register: str = "auto",
        mask: str = "head",
        size: int = 128,
        split: str | None = None,
    ) -> None:
        if self.info.needs_dir and data_dir is None:
            raise InputError(f"dataset {self.info.name} needs --data-dir PATH ({self.info.obtain})")
        self.data_dir = None if data_dir is None else user_path(data_dir)
        if self.data_dir is not None and not self.data_dir.exists():
            raise InputError(f"--data-dir {data_dir}: no such folder; check the path")
        self.recipe = recipe or self.default_recipe
        self.options: dict[str, Any] = {"register": register, "mask": mask, "size": size}
        steps_of(self.recipe, **self.options)
        self.split = split or self.default_split

    # -- for subclasses ----------------------------------------------------------------------------

    def find(self) -> tuple[list[PairSource], list[LeftOut]]:
        """Look at the disk: pairs in a stable order, and what is left out and why."""
        raise NotImplementedError

    # -- contract ----------------------------------------------------------------------------------

    @cached_property
    def found(self) -> tuple[list[PairSource], list[LeftOut]]:
        """Result of `find`, once."""
        return self.find()

    @property
    def root(self) -> Path:
        assert self.data_dir is not None
        return self.data_dir

    def sources(self, split: str = "all") -> list[PairSource]:
        """Pairs of one split, or of all."""
        pairs = self.found[0]
        if split == "all":
            return pairs
        if split not in SPLITS:
            raise InputError(f"{self.info.name} has no split {split!r}; it has {', '.join(SPLITS)}, all")
        where = self.split_of()
        return [p for p in pairs if where.get(p.group) == split]

    def split_of(self) -> dict[str, str]:
        """Subject to split."""
        pairs = self.found[0]
        groups = {p.group: str(p.meta.get("diagnosis", "")) for p in pairs}
        if self.split == "all-test":
            return dict.fromkeys(groups, "test")
        if self.split == "hash":
            return {g: split_by_hash(g) for g in groups}
        if self.split == "stratified":
            return stratified(groups)
        return read_splits(user_path(self.split))

    def cases(self, split: str = "test") -> Sequence[Case]:
        sources = self.sources(split)
        if not sources:
            raise InputError(self._nothing(split))
        return [self.case(s) for s in sources]

    def case(self, source: PairSource) -> Case:
        """The lazy case of one pair."""
        return make_case(self.info.name, source, self.recipe, self.options)

    def _nothing(self, split: str) -> str:
        pairs, left_out = self.found
        if pairs:
            return (
                f"{self.data_dir}: none of {len(pairs)} pairs is in split {split!r}; "
                "try --data-option split=all-test"
            )
        where = self.data_dir or "the given folders"
        roles = " and ".join(self.describe().roles)
        message = f"{where}: no pair of {roles} was found; expected: {self.expected}"
        if not left_out:
            return message
        folder = "" if self.data_dir is None else f" --data-dir {shlex.quote(str(self.data_dir))}"
        return (
            f"{message}; {len(left_out)} left out, the first {left_out[0].path}: {left_out[0].reason}; "
            f"`python run_bench.py prepare --dataset {self.info.name}{folder} --report` lists all"
        )

    def left_out(self) -> Sequence[str]:
        return [printable(f"{x.path}: {x.reason}") for x in self.found[1]]

    def doubts(self, cases: Sequence[Case]) -> Sequence[str]:
        found = {case.id: quality.doubts(stored_report(case)) for case in cases}
        wrong = {case: printable("; ".join(reasons)) for case, reasons in found.items() if reasons}
        if not wrong:
            return []
        first = [f"{case}: {reasons}" for case, reasons in list(wrong.items())[:_SHOWN]]
        more = f" | and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        return [f"To look at, {len(wrong)} of {plural(len(cases), 'case')} | {' | '.join(first)}{more}"]

    def every_case(self) -> Sequence[Case]:
        return self.cases("all")

    def count_cases(self) -> Mapping[str, Any]:
        pairs, left_out = self.found
        where = self.split_of()
        counts = {s: sum(where.get(p.group) == s for p in pairs) for s in SPLITS}
        return {"cases": counts, "subjects": len({p.group for p in pairs}), "left_out": len(left_out)}

    def report(self) -> list[dict[str, Any]]:
        pairs, left_out = self.found
        where = self.split_of()
        rows: list[dict[str, Any]] = [
            {
                "subject": p.group,
                "case": p.id,
                "status": "paired",
                "split": where.get(p.group, ""),
                "reason": "",
                "mri": str(p.mri),
                "pet": str(p.pet),
                **{k: v for k, v in p.meta.items() if isinstance(v, (str, int, float, bool))},
            }
            for p in pairs
        ]
        rows += [
            {"subject": x.group, "case": "", "status": "left out", "reason": x.reason, "file": x.path}
            for x in left_out
        ]
        return rows


def _fraction(group: str) -> float:
    digest = hashlib.sha256(f"fusebench-split-1:{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def split_by_hash(group: str) -> str:
    """Split of a subject from its name alone: 70 % train, 10 % val, 20 % test."""
    x = _fraction(group)
    return "train" if x < SHARES[0] else "val" if x < SHARES[0] + SHARES[1] else "test"


def stratified(groups: Mapping[str, str]) -> dict[str, str]:
    """Splits of exact shares within each stratum; `groups` maps subject to diagnosis."""
    out: dict[str, str] = {}
    for stratum in sorted(set(groups.values())):
        members = sorted((g for g, s in groups.items() if s == stratum), key=_fraction)
        n = len(members)
        first, second = round(n * SHARES[0]), round(n * (SHARES[0] + SHARES[1]))
        for i, member in enumerate(members):
            out[member] = "train" if i < first else "val" if i < second else "test"
    return out


def read_table(path: Path, *columns: str) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV and their line numbers; by commas, semicolons or tabs, names of columns in lower case.

    Of cells that a row lacks there are those of `columns`, empty.

    Raises
    ------
    InputError
        It cannot be read, has no row, lacks one of `columns`, or has two columns of one name.
    """
    needed = dict.fromkeys(columns, "")
    need = f"a CSV (UTF-8) with the columns {' and '.join(columns)}"
    try:
        lines = csv_lines(_text(path))
        blank = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
        head = "".join(lines[blank : blank + 1])
        told = re.fullmatch(r"\s*sep=(.)\s*", head, re.IGNORECASE)  # what Excel writes for itself
        if told:
            blank += 1
            head = "".join(lines[blank : blank + 1])
        delimiter = told.group(1) if told else max(",;\t", key=head.count)
        reader = csv.reader(lines[blank:], delimiter=delimiter, skipinitialspace=True)
        names = [n.strip().lower() for n in next(reader, [])]
        # Only the cells that there are: of many short rows below many names, each would take them all.
        rows = [
            (blank + reader.line_num, needed | {k: v.strip() for k, v in zip(names, row, strict=False) if k})
            for row in reader
            if row
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); give {need}") from None
    twice = next((n for n, count in Counter(names).items() if n and count > 1), None)
    if twice:
        raise InputError(f"{path}: has the column {twice!r} twice; keep one of them")
    if not rows or not set(columns) <= set(names):
        raise InputError(f"{path}: has no such header, or no row; give {need}")
    return rows


def csv_lines(text: str) -> list[str]:
    """Lines of a CSV, with their ends; U+2028, form feeds and the like belong to their cell."""
    return io.StringIO(text, newline="").readlines()


def _text(path: Path) -> str:
    """A text file in UTF-8, or in UTF-16 where a byte-order mark says so (Excel's "Unicode text")."""
    content = read_bytes(path)
    marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    return content.decode("utf-16" if marked else "utf-8").lstrip("\ufeff")


def table_path(folder: Path, text: str) -> Path:
    """The file that a cell of a table means; relative paths start at `folder`.

    Where there is none of that name: Windows' backslashes as slashes, and accents in the form that the disk
    has.
    """
    path = folder / user_path(text)
    if os.path.exists(path):
        return path
    if "\\" in text:
        path = folder / user_path(text.replace("\\", "/"))
    if not os.path.exists(path):
        form = unicodedata.normalize("NFC", path.name)
        with contextlib.suppress(OSError, ValueError):
            return next(
                (p for p in path.parent.iterdir() if unicodedata.normalize("NFC", p.name) == form), path
            )
    return path


def read_splits(path: Path) -> dict[str, str]:
    """Published splits: a CSV with columns subject and split."""
    try:
        rows = read_table(path, "subject", "split")
    except InputError as error:
        raise InputError(f"split {error}; or give hash, stratified or all-test") from None
    out: dict[str, str] = {}
    for line, row in rows:
        subject, split = row["subject"], row["split"]
        if split not in SPLITS:
            raise InputError(f"split {path} line {line}: {split!r} is not one of {', '.join(SPLITS)}")
        if out.setdefault(subject, split) != split:
            raise InputError(
                f"split {path} line {line}: {subject} is in {out[subject]} and in {split}; keep one of them"
            )
    return out
