"""The public board: entries that were checked, and a page, tables and facts that say how far each was."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from fusebench import __version__
from fusebench.engine.manifest import read_manifest
from fusebench.errors import InputError
from fusebench.files import refuse_foreign, refuse_links, whole_folder, write_text
from fusebench.metric import MetricId
from fusebench.plugins import Plugins, find_plugins
from fusebench.store.read_rows import read_standing
from fusebench.store.rows import Row, as_table
from fusebench.text import csv_value, describe, plural

from .board import Board
from .entries import About, Entry, entry_folders, read_entry
from .escape import markdown_text
from .pages import copy_shared, environment
from .rescore import Verdict, check
from .tables import MAIN, build

MARKER = ".fusebench-board"
BADGES = {
    "self-reported": "values as the authors gave them; nothing could be scored again",
    "re-scored": "two fused volumes were scored again and agree; the other values are the authors'",
    "re-run": "the maintainers ran the code, and got the same values",
    "reference": "bundled with FuseBench, run by the maintainers",
}
# What a run on another machine may differ by, relative above 1: a method's own rounding, then the metric's.
_RERUN = 2e-3
# Facts of a method that a manifest may state, and what they are.
_FACTS = {
    **dict.fromkeys(("summary", "paper", "licence", "trained_on", "colour", "notes", "origin"), str),
    **dict.fromkeys(("params", "dims"), int),
}


@dataclass(frozen=True, eq=False)
class Listed:
    """One line of the page: a board's line and who it is of."""

    name: str
    badge: str
    about: Mapping[str, Any]
    old: tuple[str, ...] = ()
    made_with: str = ""
    board: Board | None = None

    @property
    def line(self) -> Any:
        """Its line on `board`."""
        assert self.board is not None
        return next(x for x in self.board.lines if x.method == self.name)


@dataclass(frozen=True, eq=False)
class Section:
    """Entries on the same cases: those that are ranked, and those of older metric versions."""

    title: str
    slug: str
    board: Board | None
    listed: Sequence[Listed]
    greyed: Sequence[Listed]


def merge(
    paths: Sequence[Path],
    out: Path,
    *,
    trusted: Sequence[Path] = (),
    verdicts: Mapping[str, Verdict] | None = None,
) -> tuple[list[Path], list[str]]:
    """Write the public board of some entries.

    Parameters
    ----------
    paths : sequence of Path
        Entries, or folders of entries.
    out : Path
        Folder to write: ``index.html``, ``board*.csv``, ``board*.md``, ``entries.json``.
    trusted : sequence of Path
        Run folders of the maintainers.  A method in them that has an entry's name confirms or refutes that
        entry; the others join the board as reference.
    verdicts : mapping, optional
        Verdicts by digest that were made before; other entries are checked here.

    Returns
    -------
    paths : list of Path
        ``index.html`` first.
    refused : list of str
        Entries that are not on the board, with reasons.
    """
    plugins = find_plugins()
    entries, refused = _read(entry_folders(paths), verdicts or {}, plugins)
    runs = [(read_standing(p), read_manifest(p)) for p in trusted]
    kept: list[tuple[Entry, Verdict]] = []
    for entry, verdict in entries:
        problem = _refuted(entry, [row for rows, _ in runs for row in rows])
        if problem:
            refused.append(f"{entry.about.name}: {problem}")
        else:
            again = any(r.method == entry.about.name for rows, _ in runs for r in rows)
            kept.append((entry, replace(verdict, badge="re-run") if again else verdict))
    sections = _sections(kept, runs, plugins)
    return _write(out, sections, refused), refused


def _read(
    folders: Sequence[Path], verdicts: Mapping[str, Verdict], plugins: Plugins
) -> tuple[list[tuple[Entry, Verdict]], list[str]]:
    entries: dict[str, tuple[Entry, Verdict]] = {}
    refused = []
    for folder in folders:
        try:
            entry = read_entry(folder)
        except InputError as error:
            refused.append(f"{ascii(folder.name)[1:-1]}: {error}")
            continue
        except Exception as error:  # of a file made to end the board for all
            refused.append(f"{ascii(folder.name)[1:-1]}: cannot be read: {describe(error)}")
            continue
        name = entry.about.name
        try:
            verdict = verdicts.get(entry.digest) or check(entry, plugins)
        except Exception as error:
            refused.append(f"{name}: cannot be checked: {describe(error)}")
            continue
        if verdict.badge == "refused":
            refused.append(f"{name}: {'; '.join(verdict.problems)}")
        elif name in entries:
            refused.append(f"{name}: in {folder.name!a}, an entry of this name is there already")
        else:
            entries[name] = entry, verdict
    return list(entries.values()), refused


def _refuted(entry: Entry, trusted: Sequence[Row]) -> str:
    """Where a run of the maintainers gives another value for a row of an entry; "" where none does."""
    again = {
        (r.dataset, r.case, r.protocol, r.metric): r.value
        for r in trusted
        if r.method == entry.about.name and r.status == "ok"
    }
    for row in entry.rows:
        now = again.get((row.dataset, row.case, row.protocol, row.metric))
        if now is None or row.value is None or now == row.value:
            continue
        if abs(now - row.value) > _RERUN * max(1.0, abs(now)):
            return f"{row.metric} of {row.case} is {now:.6g} and not {row.value:.6g} (its code run again)"
    return ""


# -- boards ------------------------------------------------------------------------------------------


def _sections(
    kept: Sequence[tuple[Entry, Verdict]],
    runs: Sequence[tuple[list[Row], dict[str, Any]]],
    plugins: Plugins,
) -> list[Section]:
    """One section per set of cases, in the order of the entries."""
    groups: dict[tuple[str, frozenset[str]], list[tuple[Entry, Verdict]]] = {}
    for entry, verdict in kept:
        prints = frozenset(r.fingerprint for r in entry.rows)
        key = next((k for k in groups if k[0] == entry.dataset and k[1] & prints), (entry.dataset, prints))
        groups.setdefault(key, []).append((entry, verdict))
    sections = []
    for number, ((dataset, prints), members) in enumerate(groups.items(), 1):
        names = {e.about.name for e, _ in members}
        reference = [
            (
                [
                    r
                    for r in rows
                    if r.dataset == dataset and r.fingerprint in prints and r.method not in names
                ],
                manifest,
            )
            for rows, manifest in runs
        ]
        slug = dataset if number == 1 else f"{dataset}-{number}"
        sections.append(_section(dataset, slug, members, reference, plugins))
    return sections


def _section(
    dataset: str,
    slug: str,
    members: Sequence[tuple[Entry, Verdict]],
    reference: Sequence[tuple[list[Row], dict[str, Any]]],
    plugins: Plugins,
) -> Section:
    rows = [row for found, _ in reference for row in found]
    methods = {r.method: m.get("methods", {}).get(r.method, {}) for found, m in reference for r in found}
    listed = [
        Listed(
            n,
            "reference",
            asdict(About(n, n, ("FuseBench",), f.get("trained_on") or "none", f.get("paper") or "")),
        )
        for n, f in methods.items()
    ]
    current = [(e, v) for e, v in members if not v.old]
    for entry, verdict in current:
        rows += _renamed(entry)
        methods[entry.about.name] = _facts(entry)
        listed.append(_listed(entry, verdict))
    facts = _data(dataset, members, plugins)
    board = _board(rows, methods, facts, plugins) if rows else None
    greyed = []
    for entry, verdict in members:
        if verdict.old:
            alone = _board(_renamed(entry), {entry.about.name: _facts(entry)}, facts, plugins)
            greyed.append(replace(_listed(entry, verdict), board=alone))
    order = {x.method: i for i, x in enumerate(board.lines)} if board else {}
    listed = sorted((replace(x, board=board) for x in listed), key=lambda x: order[x.name])
    people = len({r.group for r in rows}) or len({r.group for e, _ in members for r in e.rows})
    cases = len({r.case for r in rows}) or len({r.case for e, _ in members for r in e.rows})
    title = f"{dataset}, {plural(cases, 'case')} of {plural(people, 'subject')}"
    return Section(title, slug, board, listed, greyed)


def _renamed(entry: Entry) -> list[Row]:
    return [replace(row, method=entry.about.name, run="") for row in entry.rows]


def _listed(entry: Entry, verdict: Verdict) -> Listed:
    versions = entry.manifest.get("versions", {})
    return Listed(
        entry.about.name,
        verdict.badge,
        asdict(entry.about),
        verdict.old,
        f"fusebench {str(versions.get('fusebench', '?'))[:20]}" if isinstance(versions, dict) else "",
    )


def _facts(entry: Entry) -> dict[str, Any]:
    """Facts of the manifest that are what they should be; what the entry says of itself stands above them."""
    given = entry.facts
    found = {
        k: given[k][:500] if isinstance(given[k], str) else given[k]
        for k, kind in _FACTS.items()
        if isinstance(given.get(k), kind) and not isinstance(given[k], bool)
    }
    splits = given.get("trained_splits")
    if isinstance(splits, list):
        found["trained_splits"] = [s[:100] for s in splits[:20] if isinstance(s, str)]
    trained = "" if entry.about.training_data.lower() == "none" else entry.about.training_data
    return {**found, "trained_on": trained, "control": False}


def _data(dataset: str, members: Sequence[tuple[Entry, Verdict]], plugins: Plugins) -> dict[str, Any]:
    said = members[0][0].manifest.get("dataset", {})
    facts = asdict(plugins.datasets.load(dataset).info) if dataset in plugins.datasets else {"name": dataset}
    return {**facts, "split": str(said.get("split") or "test")[:40], "doubts": []}


def _board(
    rows: Sequence[Row], methods: Mapping[str, Any], data: Mapping[str, Any], plugins: Plugins
) -> Board:
    names = {MetricId.parse(r.metric).name for r in rows}
    manifest = {
        "methods": dict(methods),
        "metrics": {n: asdict(plugins.metrics.load(n).info) for n in sorted(names)},
        "dataset": dict(data),
    }
    table = as_table(rows)
    protocols = list(dict.fromkeys(table["protocol"]))
    return build(table, manifest, MAIN if MAIN in protocols else protocols[0])


# -- files -------------------------------------------------------------------------------------------


def _write(out: Path, sections: Sequence[Section], refused: Sequence[str]) -> list[Path]:
    if not (out / MARKER).is_file():
        boards = [p.name for p in out.glob("board-*")]
        refuse_foreign(out, ["index.html", "static", "entries.json", *boards], "`board merge`")
    refuse_links(out, ["static"])
    page = environment({"versions": {"fusebench": __version__}}).get_template("public.html")
    texts = {"index.html": page.render(root="", sections=sections, refused=refused, badges=BADGES)}
    for section in sections:
        frame = _frame(section)
        stem = f"board-{section.slug}"
        texts[f"{stem}.csv"] = frame.map(csv_value).to_csv(index=False, lineterminator="\n")
        texts[f"{stem}.md"] = _markdown(section)
    facts = [
        {**x.about, "name": x.name, "badge": x.badge, "old": list(x.old), "section": s.slug}
        for s in sections
        for x in (*s.listed, *s.greyed)
    ]
    texts["entries.json"] = json.dumps({"entries": facts, "refused": list(refused)}, indent=1) + "\n"
    with whole_folder(out) as made:
        copy_shared(made)
        write_text(made / MARKER, "A public board of FuseBench; the next one made here replaces it.\n")
        for name, text in texts.items():
            write_text(made / name, text)
    return [out / name for name in texts]


def _frame(section: Section) -> pd.DataFrame:
    parts = []
    for listed in (*section.listed, *section.greyed):
        assert listed.board is not None
        frame = listed.board.frame()
        frame = frame[frame["method"] == listed.name].copy()
        if listed.old:
            frame["position"] = pd.NA
            frame["average_rank"] = float("nan")
        frame.insert(1, "badge", listed.badge)
        frame.insert(2, "older_metrics", " ".join(listed.old))
        parts.append(frame.dropna(axis="columns", how="all"))
    return pd.concat(parts, ignore_index=True)


def _markdown(section: Section) -> str:
    lines = [f"## {markdown_text(section.title)}", ""]
    lines += ["| # | entry | badge | authors | trained on | rank |", "|---|---|---|---|---|---|"]
    for listed in (*section.listed, *section.greyed):
        authors = ", ".join(listed.about["authors"])
        place = "–" if listed.old else listed.line.place()
        rank = "older metric version" if listed.old else listed.line.standing.short
        cells = (place, listed.name, listed.badge, authors, listed.about["training_data"], rank)
        lines.append(f"| {' | '.join(markdown_text(str(c)) for c in cells)} |")
    return "\n".join(lines) + "\n"
