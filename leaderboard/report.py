"""The report of one or more runs: tables, figures and an HTML site that opens from disk."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fusebench.errors import InputError
from fusebench.files import refuse_foreign, refuse_links, whole_folder, write_text
from fusebench.metric import MetricId
from fusebench.scoring.protocol import READERS
from fusebench.scoring.select import metric_registry
from fusebench.text import csv_value

from . import charts, likeness, runs
from .agreement import agreement
from .board import Board, Column
from .pages import SITE, Pages, slug
from .paper_values import paper_markdown, paper_table
from .section import Section, Span, Status
from .tables import MAIN, boards_of, build
from .terms import images_line, may_be_shared

FOLDERS = ("tables", "figures", "static", "data", "pictures", "methods", "metrics", "cases")
MARKER = ".fusebench-report"


def write(
    run_dirs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    metrics: Sequence[str] | None = None,
    viewer_cases: int = 8,
    figures: bool = True,
    rank_by: str = "",
    test: str = "permutation",
    radiological: bool = False,
    embed_volumes: bool = False,
) -> list[Path]:
    """Write tables, figures and the site of some run folders.

    Parameters
    ----------
    run_dirs : path or sequence of paths
        Run folders; of equal rows the later folder's counts.
    out : path
        Folder to write into; ``index.html`` is the entry.  An earlier report there stays until this one is
        whole.
    metrics : sequence of str, optional
        Metrics to show and rank on, as in `tables.build`.
    viewer_cases : int
        At most so many cases with stored volumes get an image viewer.
    figures : bool
        Draw the figures; they take most of the time.
    rank_by, test : str
        As of `tables.build`.
    radiological : bool
        Pictures, and the viewer at first, have the patient's right on the left.
    embed_volumes : bool
        Also images whose terms do not let them be passed on; the page says so.

    Returns
    -------
    list of Path
        ``index.html`` first, then tables and figures.

    Raises
    ------
    InputError
        `out` holds files of a report's names that no report made or cannot be written, or no run has one of
        `metrics`.
    """
    found = runs.load([run_dirs] if isinstance(run_dirs, str | Path) else run_dirs)
    _check_present(metrics or (), found)
    out = Path(out)
    _check_ours(out)
    try:
        with whole_folder(out) as made:
            files = _write(
                found, made, metrics, viewer_cases, figures, rank_by, test, radiological, embed_volumes
            )
        return [out / file for file in files]
    except OSError as error:
        raise InputError(
            f"{error.filename or out}: cannot be written ({error.strerror}); make room, report again"
        ) from None


def said_of_images(run_dirs: Sequence[Path], embedded: bool) -> list[str]:
    """What the report of some run folders says of images whose terms do not let them be passed on."""
    found = runs.load(run_dirs)
    shared = {d: may_be_shared(d, found.manifest_of(d)) for d in found.datasets}
    return [line for d, may in shared.items() if (line := images_line(d, may, embedded))]


def _write(
    found: runs.Runs,
    out: Path,
    metrics: Sequence[str] | None,
    viewer_cases: int,
    figures: bool,
    rank_by: str,
    test: str,
    radiological: bool,
    embed_volumes: bool,
) -> list[str]:
    """Write the report into an empty folder; returns the names of its files, the entry first."""
    write_text(out / MARKER, "A report of FuseBench; the next one made here replaces its folders.\n")
    for name in FOLDERS:
        (out / name).mkdir()
    for file in (SITE / "static").iterdir():
        shutil.copyfile(file, out / "static" / file.name)
    sections = [
        _section(found, dataset, protocol, metrics, out, figures, rank_by, test)
        for dataset in found.datasets
        for protocol in boards_of(found.protocols)
        if ((found.rows["dataset"] == dataset) & (found.rows["protocol"] == protocol)).any()
    ]
    pages = Pages(found, sections, out, radiological=radiological, embed_volumes=embed_volumes)
    pages.write(viewer_cases)
    files = [f["href"] for s in sections for f in s.files]
    pictures = [f[kind] for s in sections for f in s.figures for kind in ("png", "svg")]
    return ["index.html", *files, *pictures]


def _check_present(metrics: Sequence[str], found: runs.Runs) -> None:
    """Raise `InputError` for ids without rows."""
    present = [m for m in found.rows["metric"].dropna().astype(str).unique() if m]
    for name in metrics:
        if name not in present:
            metric_registry().entry(MetricId.parse(name).name)
            raise InputError(f"{found.folders[-1]}: this run has no {name}; it has {', '.join(present)}")


def _check_ours(out: Path) -> None:
    """Raise `InputError` where the report would replace files of others, or links to them."""
    if not (out / MARKER).is_file():
        refuse_foreign(out, ("index.html", *FOLDERS), "a report")
    refuse_links(out, FOLDERS)


def _section(
    found: runs.Runs,
    dataset: str,
    protocol: str,
    metrics: Sequence[str] | None,
    out: Path,
    draw: bool,
    rank_by: str,
    test: str,
) -> Section:
    parts = [MAIN, READERS] if protocol == MAIN else [protocol]
    rows = found.rows[(found.rows["dataset"] == dataset) & found.rows["protocol"].isin(parts)]
    manifest = found.manifest_of(dataset)
    alike = {k: v for f in found.folders for k, v in likeness.equals(f, manifest.get("methods", {})).items()}
    board = build(rows, manifest, protocol, metrics, rank_by=rank_by, test=test, alike=alike)
    left_out = [line for p in parts for line in found.left_out.get((dataset, p), ())]
    board = replace(board, notes=(*board.notes, *left_out))
    name = slug(f"{dataset}-{protocol}")
    tables = {
        f"{name}.csv": board.to_csv(),
        f"{name}.md": board.to_markdown(),
        f"{name}.tex": board.to_latex(),
        f"{name}-cases.csv": per_case(rows, board).map(csv_value).to_csv(index=False, lineterminator="\n"),
    }
    agreed = agreement(board)
    if agreed is not None:
        tables[f"{name}-agreement.csv"] = agreed.table().to_csv(index=False, lineterminator="\n")
        tables[f"{name}-agreement.md"] = agreed.to_markdown()
    paper = paper_table(board) if protocol == "paper" else pd.DataFrame()
    if len(paper):
        tables[f"{name}-beside-paper.md"] = paper_markdown(paper)
    for file, text in tables.items():
        write_text(out / "tables" / file, text)
    figures = []
    for stem, caption, figure in charts.all_charts(board) if draw else ():
        png, svg = charts.save(figure, out / "figures" / f"{name}-{stem}")
        figures.append({"stem": stem, "caption": caption, "png": f"figures/{png.name}",
                        "svg": f"figures/{svg.name}"})  # fmt: skip
    files = [{"href": f"tables/{f}", "text": f} for f in tables]
    return Section(
        board,
        name,
        rows,
        _statuses(rows),
        figures,
        files,
        {c.id: _span(board, c) for c in board.columns},
        agreed,
    )


def _outcomes(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The outcome of each method and case: a failure counts before a value, a value before a skip."""
    weight = np.select([runs.failed(rows), rows["status"] == "ok"], [2, 1])
    ordered = rows.assign(weight=weight).sort_values("weight", kind="stable")
    return ordered.groupby(keys)[["fuse_seconds", "memory_mb", "status", "reason"]].last()


def _statuses(rows: pd.DataFrame) -> dict[tuple[str, str], Status]:
    found = _outcomes(rows, ["method", "dataset", "case"])
    each = zip(found.index, found["status"], found["reason"], runs.failed(found), strict=True)
    return {(m, f"{d}/{c}"): Status(f"{s}: {r}" if r else s, bool(bad)) for (m, d, c), s, r, bad in each}


def _span(board: Board, column: Column) -> Span:
    cells = [x.cells[column.id] for x in board.lines]
    known = np.array([v for c in cells for v in (c.mean, c.low, c.high) if np.isfinite(v)])
    return Span(float(known.min()), float(known.max())) if known.size else Span(0, 1)


def per_case(rows: pd.DataFrame, board: Board) -> pd.DataFrame:
    """One row per method and case: values of all metrics, time, status and reason."""
    keys = ["method", "dataset", "case", "group"]
    values = rows.pivot_table(index=keys, columns="metric", values="value", aggfunc="last", dropna=False)
    values = values.reindex(columns=[c.id for c in board.columns])
    last = _outcomes(rows, keys)
    present = last.index  # pivot_table also makes combinations that never were
    return values.reindex(present).join(last).reset_index()
