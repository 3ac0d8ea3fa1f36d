"""Pages of the HTML site: index, methods, metrics and cases."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusebench.files import write_text
from fusebench.text import plural

from . import charts, volumes
from .agreement import Agreement
from .board import Board, Column
from .cards import method_card, metric_card
from .columns import facts_of
from .paper_values import NOTE, number, paper_table
from .runs import Runs

SITE = Path(__file__).parent / "site"


@dataclass(frozen=True)
class Span:
    """Horizontal scale of a column's interval bars."""

    low: float
    high: float

    def at(self, x: float) -> float:
        """Position in percent."""
        return round(100 * (x - self.low) / ((self.high - self.low) or 1.0), 2)

    def width(self, low: float, high: float) -> float:
        """Length in percent."""
        return round(self.at(high) - self.at(low), 2)


@dataclass(frozen=True)
class Status:
    """The outcome of one method on one case, in words, and a flag for a failure."""

    text: str
    failed: bool


NOTHING = Status("–", False)


@dataclass(frozen=True, eq=False)
class Section:
    """A board with everything the pages need of it."""

    board: Board
    slug: str
    rows: pd.DataFrame
    statuses: Mapping[tuple[str, str], Status]
    figures: list[dict[str, str]]
    files: list[dict[str, str]]
    spans: Mapping[str, Span]
    agreement: Agreement | None

    @property
    def title(self) -> str:
        return self.board.title

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.board.columns

    def values(self, method: str, case: str) -> list[float]:
        """Values of all columns for one method and case."""
        scores = self.board.scores
        return [float(v) for v in scores.values[scores.methods.index(method), scores.cases.index(case)]]

    @property
    def published(self) -> dict[str, Any] | None:
        """The paper's row beside ours, for the protocol `paper`."""
        table = paper_table(self.board) if self.board.protocol == "paper" else pd.DataFrame()
        if table.empty:
            return None
        metrics = [c for c in table.columns if c not in ("method", "data", "control")]
        rows = [
            {
                "method": r["method"],
                "data": r["data"],
                "control": r["control"],
                "values": [number(r[m]) for m in metrics],
            }
            for r in table.to_dict("records")
        ]
        return {"note": NOTE, "metrics": metrics, "rows": rows}

    @property
    def stability(self) -> list[dict[str, Any]]:
        """Position intervals of the ranked methods."""
        table = self.board.ranking.table
        if len(table) < 2:
            return []

        def between(low: float, high: float) -> str:
            return "–" if np.isnan(low) else f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"

        return [
            {
                "method": r["method"],
                "average": r["average"],
                "positions": between(r["best"], r["worst"]),
                "lomo": between(r["lomo_best"], r["lomo_worst"]),
            }
            for r in table.reset_index().to_dict("records")
        ]

    @property
    def leave_out(self) -> list[dict[str, Any]]:
        """Kendall's tau of the ranking without one metric."""
        table = self.board.ranking.leave_one_out
        return [
            {"metric": m, "tau": "–" if np.isnan(r["tau"]) else f"{r['tau']:.2f}", "first": r["first"]}
            for m, r in table.to_dict(orient="index").items()
        ]

    @property
    def friedman(self) -> str:
        """Friedman's test in words."""
        test = self.board.ranking.friedman
        if test is None:
            return ""
        return (
            f"Friedman's test over {plural(len(self.board.ranking.blocks), 'subject')}: "
            f"chi-square {test.chi2:.2f}, Iman-Davenport F {test.f:.2f}, p = {test.p:.2g}."
        )


def slug(name: str) -> str:
    """A name as a file name: safe characters only, a hash where some were replaced."""
    safe = re.sub(r"[^a-z0-9._-]", "-", name).strip(".-")[:60]
    return safe if safe == name else f"{safe or 'x'}-{hashlib.sha1(name.encode()).hexdigest()[:8]}"


def _sortable(x: float | str | None) -> str:
    """The sort key of a cell: nothing for no value, JavaScript's spelling for an infinite one."""
    if x is None or x != x:
        return ""
    return str(x).replace("inf", "Infinity") if isinstance(x, float) else str(x)


def _short(x: float) -> str:
    """Four significant digits."""
    return "–" if np.isnan(x) else f"{x:.4g}".replace("inf", "∞")


def environment(manifest: Mapping[str, Any]) -> Environment:
    """Templates that escape all names, with the facts of a run that every page shows."""
    made = Environment(
        loader=FileSystemLoader(SITE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["sortable"] = _sortable
    made.filters["short"] = _short
    hardware = manifest.get("hardware", {})
    made.globals.update(
        slug=slug,
        home="Leaderboard",
        nav=[],
        run={"id": "", "created": "", **manifest.get("run", {})},
        versions={"fusebench": "", **manifest.get("versions", {})},
        commit=str(manifest.get("git", {}).get("commit") or ""),
        hardware=", ".join(str(hardware[k]) for k in ("processor", "machine") if hardware.get(k)),
    )
    return made


class Pages:
    """Renders the site; all names pass Jinja2's autoescape."""

    def __init__(self, found: Runs, sections: list[Section], out: Path) -> None:
        self.found, self.sections, self.out = found, sections, out
        self.environment = environment(found.manifest)
        self.environment.globals["nav"] = [{"href": "index.html#cases", "text": "Cases"}]

    def write(self, viewer_cases: int) -> None:
        """Render everything; at most `viewer_cases` cases get an image viewer."""
        cases = self._cases(viewer_cases)
        self._render(
            "index.html", "index.html", boards=self.sections, cases=cases, dataset_lines=self._dataset()
        )
        for name in dict.fromkeys(x.method for s in self.sections for x in s.board.lines):
            self._method(name)
        for name in dict.fromkeys(c.id for s in self.sections for c in s.columns):
            self._metric(name)

    def _render(self, template: str, path: str, **values: Any) -> None:
        root = "../" * path.count("/")
        text = self.environment.get_template(template).render(root=root, **values)
        write_text(self.out / path, text)

    def _dataset(self) -> list[str]:
        lines = []
        for dataset in self.found.datasets:
            facts = self.found.manifest_of(dataset).get("dataset", {})
            split = f", {facts['split']} split" if facts.get("split") else ""
            said = [f"Dataset {facts.get('name') or dataset}{split}", str(facts.get("summary") or "")]
            said += [f"{k.capitalize()} {facts[k]}" for k in ("licence", "fingerprint") if facts.get(k)]
            lines.append(" ".join(f"{x.rstrip('.')}." for x in said if x))
        return lines

    def _method(self, name: str) -> None:
        info = {"summary": "", "control": False, "dims": None, "origin": ""}
        info |= self.found.manifest.get("methods", {}).get(name, {})
        boards = []
        for s in self.sections:
            line = next((x for x in s.board.lines if x.method == name), None)
            if line is None:
                continue
            rows = [
                {
                    "case": case,
                    "slug": slug(case),
                    "values": s.values(name, case),
                    "status": s.statuses.get((name, case), NOTHING),
                }
                for case in s.board.scores.cases
            ]
            boards.append(
                {"title": s.title, "slug": s.slug, "line": line, "columns": s.columns, "cases": rows}
            )
        self._render(
            "method.html",
            f"methods/{slug(name)}.html",
            name=name,
            info=info,
            card=method_card(info),
            boards=boards,
        )

    def _metric(self, name: str) -> None:
        facts = {"title": name, **facts_of(name, self.found.manifest)}
        boards = []
        for s in self.sections:
            for column in s.columns:
                if column.id == name:
                    stems = {f"{kind}-{charts.file_name(name)}" for kind in ("distribution", "paired")}
                    figures = [f for f in s.figures if f["stem"] in stems]
                    boards.append({"title": s.title, "slug": s.slug, "column": column, "lines": s.board.lines,
                                   "figures": figures})  # fmt: skip
        self._render(
            "metric.html",
            f"metrics/{slug(name)}.html",
            name=name,
            facts=facts,
            card=metric_card(facts),
            boards=boards,
        )

    def _cases(self, viewer_cases: int) -> list[dict[str, Any]]:
        stored = {}
        for folder in self.found.folders:
            for case in volumes.stored_cases(folder):
                stored[f"{case.dataset}/{case.case}"] = case
        groups = dict(
            zip(
                self.found.rows["dataset"] + "/" + self.found.rows["case"],
                self.found.rows["group"],
                strict=True,
            )
        )
        listed, viewers = [], 0
        for name, group in groups.items():
            dataset, _, case = name.partition("/")
            viewer = None
            if name in stored and viewers < viewer_cases:
                viewers += 1
                viewer = self._viewer(name, stored[name])
            boards = [self._case_board(s, name) for s in self.sections if name in s.board.scores.cases]
            failures = sum(r["status"].failed for b in boards for r in b["rows"])
            self._render(
                "case.html",
                f"cases/{slug(name)}.html",
                name=case,
                dataset=dataset,
                group=group,
                viewer=viewer,
                study=f"{slug(name)}-study.html" if viewer and viewer["findings"] else "",
                boards=boards,
            )
            if viewer and viewer["findings"]:
                page = f"{slug(name)}.html"
                self._render(
                    "study.html", f"cases/{slug(name)}-study.html", name=case, page=page, viewer=viewer
                )
            listed.append({"case": case, "dataset": dataset, "group": group, "slug": slug(name),
                           "images": int(viewer is not None), "failures": failures})  # fmt: skip
        return listed

    def _case_board(self, section: Section, case: str) -> dict[str, Any]:
        rows = [
            {
                "method": x.method,
                "control": x.control,
                "values": section.values(x.method, case),
                "status": section.statuses.get((x.method, case), NOTHING),
            }
            for x in section.board.lines
        ]
        return {"title": section.title, "slug": section.slug, "columns": section.columns, "rows": rows}

    def _viewer(self, name: str, stored: volumes.StoredCase) -> dict[str, Any]:
        """Everything the viewer of a case needs; writes its volumes as scripts."""
        images = [("mri", "MRI", stored.sources["mri"]), ("pet", "PET", stored.sources["pet"])]
        # Best first, as on the first board that has it; what is on disk but on no board comes last.
        known = {x.method: i for s in reversed(self.sections) for i, x in enumerate(s.board.lines)}
        for method in sorted(stored.fused, key=lambda m: (known.get(m, len(known)), m)):
            images.append((f"method:{method}", method, stored.fused[method]))
        folder = self.out / "data" / slug(name)
        folder.mkdir(parents=True)
        listed = []
        for i, (key, label, path) in enumerate(images):
            stem = f"{i}-{slug(label)}"
            url = self._script(folder, stem, f"{name} {key}", path)
            entry: dict[str, Any] = {
                "id": key,
                "label": label,
                "key": f"{name} {key}",
                "url": url,
                "with": None,
            }
            path_with = stored.with_findings.get(key.removeprefix("method:"))
            if path_with:
                key_with = f"{name} {key} with findings"
                url = self._script(folder, f"{stem}-with", key_with, path_with)
                entry["with"] = {"key": key_with, "url": url}
            listed.append(entry)
        chroma = None
        if stored.chroma:
            key = f"{name} chroma"
            url = self._script(folder, "chroma", key, stored.chroma, levels=True)
            chroma = {"key": key, "url": url}
        found = volumes.findings(stored.findings) if stored.findings else []
        return {**volumes.geometry(stored.sources["mri"]), "volumes": listed, "chroma": chroma, "case": name,
                "findings": found, "niivue": "../static/niivue.umd.js"}  # fmt: skip

    def _script(self, folder: Path, stem: str, key: str, path: Path, *, levels: bool = False) -> str:
        write_text(folder / f"{stem}.js", volumes.script(key, path, levels=levels))
        return f"../data/{folder.name}/{stem}.js"
