"""Facts about images from the CSV and XML files of a download; columns and quoting vary."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from xml.etree import ElementTree

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
_DATES = ("%m/%d/%Y", "%Y-%m-%d", "%m/%d/%y", "%Y/%m/%d", "%Y%m%d", "%d-%b-%Y")


@dataclass(frozen=True)
class Facts:
    """The columns of a table on one image or subject; empty where it has no entry."""

    subject: str = ""
    diagnosis: str = ""
    sex: str = ""
    age: str = ""
    visit: str = ""
    modality: str = ""
    description: str = ""
    acquired: date | None = None
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


def parse_date(text: str) -> date | None:
    """A date in one of the forms in use, or None."""
    text = text.strip().split("T")[0].split(" ")[0].removesuffix(".0")
    for form in _DATES:
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None


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
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines or "\0" in text:
            tables.notes.append((path, "an empty or binary CSV; not used"))
            return
        delimiter = max(",;\t", key=lines[0].count)
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    except (OSError, csv.Error) as error:
        tables.notes.append((path, f"a CSV that cannot be read ({type(error).__name__}); not used"))
        return
    head = [re.sub(r"[^a-z0-9]", "", cell.lower()) for cell in rows[0]]
    where = {
        name: head.index(alias) for name, aliases in _COLUMNS.items() for alias in aliases if alias in head
    }
    if "subject" not in where or not ({"image", "diagnosis"} & where.keys()):
        return  # some other table
    tables.read.append(path)
    for row in rows[1:]:
        cells = {name: row[i].strip() for name, i in where.items() if i < len(row)}
        _add(cells, path.name, tables, path)


def _read_xml(path: Path, tables: Tables) -> None:
    try:
        if path.stat().st_size > 4 << 20:
            return
        tree = ElementTree.fromstring(path.read_bytes())
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        tables.notes.append((path, f"an XML file that cannot be read ({type(error).__name__}); not used"))
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


def _add(cells: dict[str, str], source: str, tables: Tables, path: Path) -> None:
    modality = cells.get("modality", "").upper()
    facts = Facts(
        subject=cells.get("subject", ""),
        diagnosis=cells.get("diagnosis", ""),
        sex=cells.get("sex", ""),
        age=cells.get("age", ""),
        visit=cells.get("visit", ""),
        modality={"MR": "MRI", "PT": "PET"}.get(modality, modality),
        description=cells.get("description", ""),
        acquired=parse_date(cells.get("acquired", "")),
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
