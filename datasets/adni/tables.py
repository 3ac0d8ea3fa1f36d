"""Facts about images from the CSV and XML files of a download; columns and quoting vary."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from xml.etree import ElementTree

from fusebench.files import read_bytes
from fusebench.text import reason_of

from ..preprocessing.base import csv_lines

_COLUMNS = {
    "image": ("imagedataid", "imageid", "imageuid", "imagedatauid"),
    "subject": ("subject", "subjectid", "ptid"),
    "diagnosis": ("group", "researchgroup", "diagnosis", "dx"),
    "sex": ("sex", "gender", "ptgender"),
    "age": ("age", "subjectage"),
    "visit": ("visit", "viscode2", "viscode", "visitidentifier"),
    "modality": ("modality",),
    "description": ("description", "imagedescription", "seriesdescription"),
    "acquired": ("acqdate", "imagedate", "acquisitiondate", "scandate", "studydate"),
}
_XML = {
    "imageuid": "image",
    "subjectidentifier": "subject",
    "researchgroup": "diagnosis",
    "subjectsex": "sex",
    "subjectage": "age",
    "visitidentifier": "visit",
    "modality": "modality",
    "dateacquired": "acquired",
    "description": "description",
}
_DAY_FIRST = ("%d/%m/%Y", "%d/%m/%y")
_DATES = ("%m/%d/%Y", "%Y-%m-%d", "%m/%d/%y", "%Y/%m/%d", "%Y%m%d", "%d-%b-%Y", "%d.%m.%Y")


@dataclass(frozen=True)
class Facts:
    """The columns of a table on one image or subject; empty where it has no entry.

    `swapped` is `acquired` with day and month exchanged, where that is a date too.
    """

    subject: str = ""
    diagnosis: str = ""
    sex: str = ""
    age: str = ""
    visit: str = ""
    modality: str = ""
    description: str = ""
    acquired: date | None = None
    swapped: date | None = None
    source: str = ""


@dataclass
class Tables:
    """Facts by image id (``I`` and digits) and by subject, and what was wrong with the files."""

    by_image: dict[str, Facts] = field(default_factory=dict)
    by_subject: dict[str, Facts] = field(default_factory=dict)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    read: list[Path] = field(default_factory=list)


def image_id(text: str) -> str:
    """``I251187`` or ``957990`` as ``I<digits>``; "" for anything else."""
    match = re.fullmatch(r"\s*[ID]?(\d{1,9})(?:\.0)?\s*", text, re.IGNORECASE)
    return f"I{match.group(1)}" if match else ""


def parse_date(text: str, *, day_first: bool = False) -> date | None:
    """A date in one of the forms in use, or None; `day_first` reads 3/12/2010 as 3 December."""
    text = text.strip().split("T")[0].split(" ")[0].removesuffix(".0")
    # In the other order where it cannot be this one.
    for form in (*_DAY_FIRST, *_DATES) if day_first else (*_DATES, *_DAY_FIRST):
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None


_SLASHED = re.compile(r"^\s*(\d{1,2})/(\d{1,2})/(\d{2}|\d{4})\b")


def day_first(texts: Iterable[str]) -> bool | None:
    """Tell whether the dates of a table are day/month/year, as a spreadsheet may have turned them.

    IDA writes month/day/year, which holds where nothing contradicts; None where some dates can only be the
    one and some only the other.
    """
    pairs = [(int(m[1]), int(m[2])) for text in texts if (m := _SLASHED.match(text))]
    days, months = any(a > 12 for a, _ in pairs), any(b > 12 for _, b in pairs)
    return None if days and months else days


def swap(day: date | None) -> date | None:
    """The date with day and month exchanged; None where there is none, or it is the same."""
    if day is None or day.day > 12 or day.day == day.month:
        return None
    return day.replace(month=day.day, day=day.month)


def settle_dates(tables: Tables, known: Mapping[str, date]) -> None:
    """Compare the tables' dates with those of folders, by image id; turn day and month of a whole table.

    A table in which no date is above the 12th can be read both ways.  Where the folders agree with the other
    one, and with none of the dates as read, the table was day/month/year.
    """
    agree, turned = Counter[str](), Counter[str]()
    for image, day in known.items():
        facts = tables.by_image.get(image, Facts())
        agree[facts.source] += facts.acquired == day and day.day != day.month
        turned[facts.source] += facts.swapped == day
    for source in [s for s, n in turned.items() if n and not agree[s]]:
        for image, facts in tables.by_image.items():
            if facts.source == source and facts.swapped is not None:
                tables.by_image[image] = replace(facts, acquired=facts.swapped, swapped=facts.acquired)
        path = next((p for p in tables.read if p.name == source), Path(source))
        tables.notes.append((path, "its dates are day/month/year, as the dated folders show; read so"))
    for source in [s for s, n in turned.items() if n and agree[s]]:
        path = next((p for p in tables.read if p.name == source), Path(source))
        tables.notes.append((path, "its dates mix month/day and day/month, as the dated folders show"))


def read_tables(csv_files: list[Path], xml_files: list[Path]) -> Tables:
    """Collect the facts; CSV before XML, the first file that speaks of an image wins."""
    tables = Tables()
    for path in csv_files:
        _read_csv(path, tables)
    for path in xml_files:
        _read_xml(path, tables)
    return tables


def _read_csv(path: Path, tables: Tables) -> None:
    try:
        text = read_bytes(path).decode("utf-8-sig", "replace")
        lines = [line for line in csv_lines(text) if line.strip()]
        if not lines or "\0" in text:
            tables.notes.append((path, "an empty or binary CSV; not used"))
            return
        delimiter = max(",;\t", key=lines[0].count)
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except (OSError, csv.Error) as error:
        tables.notes.append((path, f"a CSV that cannot be read ({reason_of(error)}); not used"))
        return
    head = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in rows[0]]
    where = {
        name: head.index(alias) for name, aliases in _COLUMNS.items() for alias in aliases if alias in head
    }
    if "subject" not in where or not ({"image", "diagnosis"} & where.keys()):
        return  # some other table
    tables.read.append(path)
    found = [{name: row[i].strip() for name, i in where.items() if i < len(row)} for row in rows[1:]]
    turned = day_first(cells.get("acquired", "") for cells in found)
    if turned is None:
        tables.notes.append(
            (path, "its dates mix month/day and day/month; those that can be both are not used")
        )
    elif turned:
        tables.notes.append((path, "its dates are day/month/year; read so"))
    for cells in found:
        _add(cells, path.name, tables, path, turned)


def _read_xml(path: Path, tables: Tables) -> None:
    try:
        tree = ElementTree.fromstring(read_bytes(path, 4 << 20))
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        tables.notes.append((path, f"an XML file that cannot be read ({reason_of(error)}); not used"))
        return
    cells: dict[str, str] = {}
    for node in tree.iter():
        name = _XML.get(str(node.tag).rsplit("}", 1)[-1].lower())
        # The first of a kind is the image's own; later ones describe what it was derived from.
        if name and name not in cells and node.text and node.text.strip():
            cells[name] = node.text.strip()
    if "image" in cells:
        tables.read.append(path)
        _add(cells, "XML", tables, path)


def _add(cells: dict[str, str], source: str, tables: Tables, path: Path, turned: bool | None = False) -> None:
    modality = cells.get("modality", "").upper()
    text = cells.get("acquired", "")
    acquired = parse_date(text, day_first=bool(turned))
    other = swap(acquired) if _SLASHED.match(text) else None
    if turned is None and other is not None:
        acquired = other = None
    facts = Facts(
        subject=cells.get("subject", ""),
        diagnosis=cells.get("diagnosis", ""),
        sex=cells.get("sex", ""),
        age=cells.get("age", ""),
        visit=cells.get("visit", ""),
        modality={"MR": "MRI", "PT": "PET"}.get(modality, modality),
        description=cells.get("description", ""),
        acquired=acquired,
        swapped=other,
        source=source,
    )
    key = image_id(cells.get("image", ""))
    if key:
        known = tables.by_image.get(key)
        if known is None:
            tables.by_image[key] = facts
        elif facts.subject and known.subject and facts.subject != known.subject:
            tables.notes.append(
                (path, f"{key} belongs to {known.subject} and to {facts.subject}; the first stands")
            )
        else:
            # A second table fills what the first left open.
            gaps = {n: getattr(facts, n) for n in facts.__dataclass_fields__ if not getattr(known, n)}
            tables.by_image[key] = replace(known, **gaps)
    if facts.subject:
        known = tables.by_subject.get(facts.subject)
        if known is None or not known.diagnosis:
            tables.by_subject[facts.subject] = facts
