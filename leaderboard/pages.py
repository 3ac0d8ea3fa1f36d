"""Pages of the HTML site: index, methods, metrics and cases."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusebench.errors import FuseBenchError
from fusebench.files import atomic_path, write_text

from . import case_images, charts, volumes
from .cards import method_card, metric_card
from .case_images import CaseImages
from .columns import facts_of
from .runs import Runs
from .section import Section, digits, short, sortable
from .terms import images_line, may_be_shared

SITE = Path(__file__).parent / "site"
# What every page asks for.
_SHARED = ("style.css", "state.js", "table.js")


def copy_shared(out: Path) -> None:
    """Put style and scripts of all pages into ``static/`` of a site."""
    (out / "static").mkdir(parents=True, exist_ok=True)
    for name in _SHARED:
        with atomic_path(out / "static" / name) as temporary:  # no link is followed
            shutil.copyfile(SITE / "static" / name, temporary)


def slug(name: str) -> str:
    """A name as a file name: safe characters only, a hash where some were replaced."""
    safe = re.sub(r"[^a-z0-9._-]", "-", name).strip(".-")[:60]
    return safe if safe == name else f"{safe or 'x'}-{hashlib.sha1(name.encode()).hexdigest()[:8]}"


def environment(manifest: Mapping[str, Any]) -> Environment:
    """Templates that escape all names, with the facts of a run that every page shows."""
    made = Environment(
        loader=FileSystemLoader(SITE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["sortable"] = sortable
    made.filters["short"] = short
    made.filters["digits"] = digits
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

    def __init__(
        self,
        found: Runs,
        sections: list[Section],
        out: Path,
        *,
        radiological: bool = False,
        embed_volumes: bool = False,
    ) -> None:
        self.found, self.sections, self.out, self.radiological = found, sections, out, radiological
        self.embed = embed_volumes
        self.shared = {d: may_be_shared(d, found.manifest_of(d)) for d in found.datasets}
        self.images: dict[str, CaseImages] = {}
        self.environment = environment(found.manifest)
        self.environment.globals["nav"] = [{"href": "index.html#cases", "text": "Cases"}]

    def write(self, viewer_cases: int) -> None:
        """Render everything; at most `viewer_cases` cases get an image viewer."""
        cases = self._cases(viewer_cases)
        self._render(
            "index.html",
            "index.html",
            boards=self.sections,
            cases=cases,
            dataset_lines=self._dataset(),
            shown=self._first_images(),
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
            summary = str(facts.get("summary") or "")
            said = [f"Dataset {facts.get('name') or dataset}{split}", summary[:1].upper() + summary[1:]]
            said += [
                f"{k.capitalize()} {facts[k]}" for k in ("licence", "citation", "fingerprint") if facts.get(k)
            ]
            lines.append(" ".join(f"{x.rstrip('.')}." for x in said if x))
            about_images = images_line(dataset, self.shared[dataset], self.embed)
            lines += [about_images] if about_images else []
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
                {"case": case, "slug": slug(case), "outcome": s.outcome(name, case)}
                for case in s.board.scores.cases
            ]
            boards.append(
                {
                    "title": s.title,
                    "slug": s.slug,
                    "line": line,
                    "columns": s.columns,
                    "cases": rows,
                }
            )
        self._render(
            "method.html",
            f"methods/{slug(name)}.html",
            name=name,
            info=info,
            card=method_card(info),
            shown=[x for x in self._first_images().values() if name in x.of_methods],
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

    def _images(self, name: str, stored: volumes.StoredCase, order: list[str]) -> CaseImages | None:
        """Images of a case; of one with a damaged file a note, and its page is without them."""
        folder = slug(name)
        try:
            self.images[name] = case_images.write(
                self.out, name, folder, stored, order, self._controls(), radiological=self.radiological
            )
        except FuseBenchError as error:
            print(f"note: no images of {name}: {error}", file=sys.stderr)
            for kind in ("data", "pictures"):
                shutil.rmtree(self.out / kind / folder, ignore_errors=True)
        return self.images.get(name)

    def _cases(self, viewer_cases: int) -> list[dict[str, Any]]:
        stored = volumes.of_runs(self.found.cases, self.found.gone)
        cases = self.found.rows.drop_duplicates(["dataset", "case"], keep="last")
        groups = dict(zip(cases["dataset"] + "/" + cases["case"], cases["group"], strict=True))
        order = list(dict.fromkeys(x.method for s in self.sections for x in s.board.lines))
        listed = []
        for name, group in sorted(groups.items()):
            dataset, _, case = name.partition("/")
            images = None
            shown = self.shared[dataset] or self.embed
            if shown and name in stored and len(self.images) < viewer_cases:
                images = self._images(name, stored[name], order)
            viewer = images.viewer if images else None
            boards = [self._case_board(s, name) for s in self.sections if name in s.board.scores.cases]
            failures = sum(r["outcome"].status.failed for b in boards for r in b["rows"])
            self._render(
                "case.html",
                f"cases/{slug(name)}.html",
                name=case,
                dataset=dataset,
                group=group,
                viewer=viewer,
                images=images,
                study=f"{slug(name)}-study.html" if viewer and viewer["findings"] else "",
                boards=boards,
            )
            if viewer and viewer["findings"]:
                page = f"{slug(name)}.html"
                self._render(
                    "study.html", f"cases/{slug(name)}-study.html", name=case, page=page, viewer=viewer
                )
            listed.append({"case": case, "dataset": dataset, "group": group, "slug": slug(name),
                           "images": int(images is not None), "failures": failures})  # fmt: skip
        return listed

    def _controls(self) -> set[str]:
        return {x.method for s in self.sections for x in s.board.controls}

    def _first_images(self) -> dict[str, CaseImages]:
        """Images of the first case of each dataset that has some, one in colour before others."""
        first: dict[str, CaseImages] = {}
        for name, images in sorted(self.images.items(), key=lambda item: not item[1].coloured):
            first.setdefault(name.partition("/")[0], images)
        return first

    def _case_board(self, section: Section, case: str) -> dict[str, Any]:
        rows = [
            {"method": x.method, "control": x.control, "outcome": section.outcome(x.method, case)}
            for x in section.board.lines
        ]
        return {
            "title": section.title,
            "slug": section.slug,
            "columns": section.columns,
            "rows": rows,
        }
