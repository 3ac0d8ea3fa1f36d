"""From the index to pairs: PET is the anchor, the nearest MRI of the same subject joins it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fusebench.errors import InputError
from fusebench.files import read_text
from fusebench.text import reason_of

from .index import Entry
from .rules import MRI_LEVELS, PET_LEVELS
from .tables import image_id


@dataclass(frozen=True)
class Match:
    """A PET and its MRI; `days` is MRI minus PET, None where a date is unknown."""

    pet: Entry
    mri: Entry
    days: int | None
    note: str = ""


def read_image_list(path: Path) -> list[str]:
    """Image ids of a file, in order: any text that lists them, such as one comma-separated line."""
    try:
        text = read_text(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"image_list {path}: cannot be read ({reason_of(error)}); give a text file"
        ) from None
    ids = [image_id(t) for t in re.split(r"[\s,;\"']+", text) if t]
    ids = list(dict.fromkeys(i for i in ids if i))
    if not ids:
        raise InputError(f"image_list {path}: holds no image id such as I297620")
    return ids


def pair(
    entries: Sequence[Entry],
    *,
    pet_level: str = "auto",
    tracer: str = "FDG",
    max_days: int = 180,
    visits: str = "first",
    listed: Iterable[str] | None = None,
) -> tuple[list[Match], list[Entry]]:
    """Pair PET and MRI.

    Parameters
    ----------
    entries : sequence of Entry
        The index; excluded ones are handed through.
    pet_level : str
        One of `PET_LEVELS`; "any" (the best of each subject); "auto" (the level that pairs most subjects).
    tracer : str
        Others are left out.
    max_days : int
        Limit between MRI and PET.
    visits : {"first", "all"}
        One pair per subject (its earliest PET), or one per PET session.
    listed : iterable of str, optional
        Use exactly these image ids.

    Returns
    -------
    matches : list of Match
        By subject, then date.
    left_out : list of Entry
        Every other entry, with the reason in `excluded`.
    """
    wanted = None if listed is None else set(listed)
    left_out = [e for e in entries if e.excluded]
    usable = [e for e in entries if not e.excluded]
    if wanted is not None:
        left_out += [replace(e, excluded="not in the image list") for e in usable if e.image_id not in wanted]
        usable = [e for e in usable if e.image_id in wanted]
    other = [e for e in usable if e.modality == "PET" and e.kind.tracer != tracer]
    left_out += [replace(e, excluded=f"tracer {e.kind.tracer}, not {tracer}") for e in other]
    pets = [e for e in usable if e.modality == "PET" and e.kind.tracer == tracer]
    mris: dict[str, list[Entry]] = defaultdict(list)
    for e in usable:
        if e.modality == "MRI":
            mris[e.subject].append(e)

    if wanted is not None and pet_level == "auto":
        pet_level = "any"
    if pet_level == "auto":
        pet_level = _commonest(pets, mris)
    if pet_level != "any":
        wrong = [e for e in pets if e.kind.level != pet_level]
        left_out += [replace(e, excluded=f"level {e.kind.level}; this run uses {pet_level}") for e in wrong]
        pets = [e for e in pets if e.kind.level == pet_level]

    matches: list[Match] = []
    for subject, own in sorted(_by_subject(pets).items()):
        done, spare = _pair_subject(own, mris.get(subject, []), max_days, visits)
        matches += done
        left_out += spare
    used = {id(m.mri) for m in matches}
    paired = {m.pet.subject for m in matches}
    for subject, own in sorted(mris.items()):
        reason = (
            "another MRI or visit of the subject was chosen"
            if subject in paired
            else f"no usable {tracer}-PET"
        )
        left_out += [replace(e, excluded=reason) for e in own if id(e) not in used]
    return _shared_mri(matches), left_out


def _commonest(pets: Sequence[Entry], mris: dict[str, list[Entry]]) -> str:
    """The level that most subjects with an MRI have; ties go to the better one."""
    subjects = {(e.kind.level, e.subject) for e in pets if e.subject in mris}
    subjects = subjects or {(e.kind.level, e.subject) for e in pets}
    counts = Counter(level for level, _ in subjects)
    return max(PET_LEVELS, key=lambda level: (counts[level], -PET_LEVELS.index(level)))


def _by_subject(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    out: dict[str, list[Entry]] = defaultdict(list)
    for e in entries:
        out[e.subject].append(e)
    return out


def _pair_subject(
    pets: list[Entry], mris: list[Entry], max_days: int, visits: str
) -> tuple[list[Match], list[Entry]]:
    spare: list[Entry] = []
    if not mris:
        return [], [replace(e, excluded="no usable T1 MRI of this subject") for e in pets]
    # One image per session: the best level, then the newest image id.
    pets = sorted(
        pets, key=lambda e: (str(e.acquired or "9999"), PET_LEVELS.index(e.kind.level), -_number(e.image_id))
    )
    sessions: dict[str, Entry] = {}
    for e in pets:
        if str(e.acquired) in sessions:
            spare.append(replace(e, excluded="another PET of the same day was chosen"))
        else:
            sessions[str(e.acquired)] = e
    matches: list[Match] = []
    for e in sessions.values():
        if matches and visits == "first":
            spare.append(replace(e, excluded="a later visit; visits=all uses it"))
            continue
        mri = min(mris, key=lambda m: _preference(e, m))
        days = _days(e, mri)
        if days is not None and abs(days) > max_days:
            spare.append(replace(e, excluded=f"nearest MRI is {abs(days)} days away, more than {max_days}"))
            continue
        note = "" if days is not None else "no acquisition date: paired without a date check"
        matches.append(Match(e, mri, days, note))
    return matches, spare


def _days(pet: Entry, mri: Entry) -> int | None:
    return None if pet.acquired is None or mri.acquired is None else (mri.acquired - pet.acquired).days


def _preference(pet: Entry, mri: Entry) -> tuple[int, int, bool, int]:
    """Nearest date, better level, first acquisition, newest image."""
    days = _days(pet, mri)
    level = MRI_LEVELS.index(mri.kind.level)
    return (10**6 if days is None else abs(days), level, mri.kind.repeat, -_number(mri.image_id))


def _number(text: str) -> int:
    return int(text[1:]) if text[1:].isdigit() else 0


def _shared_mri(matches: list[Match]) -> list[Match]:
    """Note where one MRI serves two PETs."""
    counts = Counter(id(m.mri) for m in matches)
    return [
        replace(m, note="; ".join(filter(None, [m.note, "its MRI is used for another PET too"])))
        if counts[id(m.mri)] > 1
        else m
        for m in matches
    ]
