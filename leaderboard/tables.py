"""Boards from stored rows: which metrics count, what each method scored, and why cases are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusebench.metric import MetricId
from fusebench.text import plural

from .board import Board, Cell, Column, Line, known_by_files
from .ranking import MISSING_RULE, Ranking, Scores, gameable, rank, summarise


def build(
    rows: pd.DataFrame, manifest: Mapping[str, Any], protocol: str, metrics: Sequence[str] | None = None
) -> Board:
    """Make the board of one protocol from stored rows and the manifest alone.

    Parameters
    ----------
    rows : DataFrame
        Columns of `fusebench.store.rows.Row`.
    manifest : mapping
        ``methods`` and ``metrics`` by name with the fields of their infos.
    protocol : str
    metrics : sequence of str, optional
        Ids to show and to rank on.  By default every id in the rows is on the board and the default
        ranking set counts: a metric with ``ranked`` true, and its ``worst`` part.  Where images made
        elsewhere are on the board, metrics that need the method itself are shown but rank nobody.

    Returns
    -------
    Board
    """
    mine = rows[rows["protocol"] == protocol]
    columns = _columns(mine, manifest, metrics)
    infos: Mapping[str, Any] = manifest.get("methods", {})
    names = list(dict.fromkeys([*infos, *mine["method"].astype(str)]))
    controls = [m for m in names if infos.get(m, {}).get("control")]
    # "none" is kept out of the ranking; so is a metric that is on the board but not in the ranking set.
    directions = {c.id: c.direction for c in columns}
    scores = Scores.from_rows(mine, names, [c.id for c in columns], directions)
    summary = summarise(scores)
    flags = gameable(summary, scores, controls)
    columns = tuple(_finish(c, summary, flags.get(c.id, "")) for c in columns)
    ranked = [c.id for c in columns if c.ranked]
    silent = _silent(scores)
    ranking = rank(scores.take([m for m in names if m not in silent], ranked), controls)
    lines = _lines(mine, manifest, names, controls, columns, scores, summary, ranking)
    dataset = ", ".join(sorted(set(mine["dataset"].astype(str))))
    return Board(
        f"{dataset or 'no data'}, protocol {protocol}, {plural(len(scores.cases), 'case')} of "
        f"{plural(len(scores.subjects), 'subject')}",
        protocol,
        dataset,
        columns,
        lines,
        ranking,
        scores,
        summary,
        (*_board_notes(columns, ranking, lines), *manifest.get("dataset", {}).get("doubts", ())),
    )


def _silent(scores: Scores) -> set[str]:
    """Methods without any value: listed with their reason, but no rank can be stated."""
    return {m for i, m in enumerate(scores.methods) if np.isnan(scores.values[i]).all()}


def facts_of(metric: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest's facts for a metric id, of the id itself or of its metric, with the variant's unit."""
    known: Mapping[str, Any] = manifest.get("metrics", {})
    mid = MetricId.parse(metric)
    facts = known.get(metric) or known.get(mid.name) or {}
    # Runs from before `units` have none.
    units: Mapping[str, str] = facts.get("units") or {}
    return {**facts, "unit": units.get(mid.variant, facts.get("unit", ""))}


def _columns(
    rows: pd.DataFrame, manifest: Mapping[str, Any], metrics: Sequence[str] | None
) -> tuple[Column, ...]:
    ids = [m for m in dict.fromkeys(rows["metric"].dropna().astype(str)) if m]
    # Task metrics have skips and no value outside their protocol: they tell no method from another.
    of = {status: set(rows.loc[rows["status"] == status, "metric"]) for status in ("ok", "skip")}
    present = [m for m in ids if m in of["ok"] or m not in of["skip"]] or ids
    wanted = present if metrics is None else list(metrics)
    columns = []
    for name in wanted:
        facts = facts_of(name, manifest)
        mid = MetricId.parse(name)
        direction = str(facts.get("direction", "none"))
        default = bool(facts.get("ranked")) and not mid.variant and mid.part in ("", "worst")
        columns.append(
            Column(
                name,
                str(facts.get("title", name)),
                direction,
                str(facts.get("unit", "")),
                _number(facts.get("low"), -np.inf),
                _number(facts.get("high"), np.inf),
                direction != "none" and (default if metrics is None else name in present),
                facts=facts,
            )
        )
    if not any(c.ranked for c in columns):
        # Protocols made of variants only (`paper`) rank on everything that has a direction.
        columns = [_replace(c, ranked=c.direction != "none") for c in columns]
    infos: Mapping[str, Any] = manifest.get("methods", {})
    if any(known_by_files(infos.get(m, {})) for m in rows["method"].unique()):
        # Entries of images cannot have these values, so the last rank for them would say nothing.
        columns = [_replace(c, ranked=c.ranked and not c.facts.get("needs_twin")) for c in columns]
    return tuple(sorted(columns, key=lambda c: not c.ranked)) if metrics is None else tuple(columns)


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def _replace(column: Column, **changes: Any) -> Column:
    return Column(**{**column.__dict__, **changes})


def _finish(column: Column, summary: pd.DataFrame, control: str) -> Column:
    """Decimals from the size of the values: four significant digits at the usual spread."""
    mean = summary["mean"].xs(column.id, level="metric").abs()
    mean = mean[np.isfinite(mean)]
    top = float(mean.max()) if len(mean) else 1.0
    decimals = 4 if top < 1 else 3 if top < 10 else 2 if top < 1000 else 1
    return _replace(column, gameable=control, decimals=decimals)


def _marks(summary: pd.DataFrame, column: Column, ranked: Sequence[str]) -> dict[str, str]:
    """Best and second mean among ranked methods with the most cases: no gain by missing the hard ones."""
    if column.direction == "none" or not ranked:
        return {}
    table = summary.xs(column.id, level="metric").loc[list(ranked)]
    table = table[table["n"].gt(0) & table["n"].eq(table["n"].max())]
    place = table["good"].rank(ascending=False, method="min")
    return {str(m): {1.0: "best", 2.0: "second"}[p] for m, p in place.items() if p <= 2}


def _lines(
    rows: pd.DataFrame,
    manifest: Mapping[str, Any],
    names: Sequence[str],
    controls: Sequence[str],
    columns: Sequence[Column],
    scores: Scores,
    summary: pd.DataFrame,
    ranking: Ranking,
) -> tuple[Line, ...]:
    infos: Mapping[str, Any] = manifest.get("methods", {})
    data: Mapping[str, Any] = manifest.get("dataset", {})
    scored = f"{data.get('name')}/{data.get('split')}"
    marks = {c.id: _marks(summary, c, [m for m in names if m not in controls]) for c in columns}
    costs = _costs(rows)
    k = [i for i, c in enumerate(columns) if c.ranked] or list(range(len(columns)))
    asked = scores.asked[:, k]
    there: NDArray[np.bool_] = ~np.isnan(scores.values[:, :, k])
    complete = np.asarray((there | ~asked).all(axis=2) & asked.any(axis=1))
    table = summary.to_dict(orient="index")
    cells = {
        m: {c.id: Cell(**_cell(table[(m, c.id)]), mark=marks[c.id].get(m, "")) for c in columns}
        for m in names
    }
    places = ranking.table.to_dict(orient="index")
    lines = []
    for i, m in enumerate(names):
        info = infos.get(m, {})
        row: Mapping[Any, Any] | None = places.get(m)
        lines.append(
            Line(
                method=m,
                control=m in controls,
                position=None if row is None or np.isnan(row["average"]) else int(row["position"]),
                average=float(ranking.controls.get(m, np.nan)) if row is None else float(row["average"]),
                low=np.nan if row is None else float(row["low"]),
                high=np.nan if row is None else float(row["high"]),
                best=np.nan if row is None else float(row["best"]),
                worst=np.nan if row is None else float(row["worst"]),
                group="" if row is None else str(row["group"]),
                win_rate=np.nan if row is None else float(row["win_rate"]),
                cells=cells[m],
                ok=int(complete[i].sum()),
                asked=len(scores.cases),
                seconds=float(costs["seconds"].get(m, np.nan)),
                memory_mb=float(costs["memory"].get(m, np.nan)),
                gpu_memory_mb=float(costs["gpu"].get(m, np.nan)),
                params=int(info.get("params") or 0),
                dims=info.get("dims"),
                trained_on=str(info.get("trained_on") or ""),
                overlap=scored in str(info.get("trained_on") or "").replace(",", " ").split(),
                reasons=_reasons(rows[rows["method"] == m], info),
                facts=info,
            )
        )
    return tuple(
        sorted(lines, key=lambda x: (x.control, x.position or np.inf, np.nan_to_num(x.average, nan=np.inf)))
    )


def _cell(row: Mapping[Any, Any]) -> dict[str, Any]:
    floats = {name: float(row[name]) for name in ("mean", "sd", "median", "low", "high", "good")}
    return {**floats, "n": int(row["n"]), "asked": int(row["asked"])}


def _costs(rows: pd.DataFrame) -> dict[str, pd.Series]:
    number = rows.assign(
        **{c: pd.to_numeric(rows[c], errors="coerce") for c in ("fuse_seconds", "memory_mb", "gpu_memory_mb")}
    )
    by_case = number.groupby(["method", "dataset", "case"], observed=True)["fuse_seconds"].max()
    by_method = number.groupby("method", observed=True)
    return {
        "seconds": by_case.groupby("method").median(),
        "memory": by_method["memory_mb"].max(),
        "gpu": by_method["gpu_memory_mb"].max(),
    }


def _reasons(rows: pd.DataFrame, info: Mapping[str, Any]) -> tuple[str, ...]:
    """``error in 2 cases: message`` for all rows of a method that are not ok, most frequent first.

    The metrics are named where only some have no value: ``skip in 1 case (lesion_auc): not defined ...``.
    """
    bad = rows[rows["status"] != "ok"]
    valued = set(rows.loc[rows["status"] == "ok", "case"])
    counted = []
    for (status, reason), some in bad.groupby(["status", "reason"], observed=True):
        names = dict.fromkeys(some["metric"].dropna().astype(str))
        cases = set(some["case"])
        which = f" ({_shortened(list(names))})" if status == "skip" or cases & valued else ""
        text = " ".join(str(reason).split()) or "no reason given"
        counted.append((len(cases), f"{status} in {plural(len(cases), 'case')}{which}: {text[:200]}"))
    found = [text for _, text in sorted(counted, key=lambda x: -x[0])]
    if not found and info.get("broken"):
        found.append(str(info["broken"]))
    if not found and not len(rows):
        found.append("no rows in this protocol")
    return tuple(found)


def _shortened(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _board_notes(columns: Sequence[Column], ranking: Ranking, lines: Sequence[Line]) -> tuple[str, ...]:
    ids = ", ".join(ranking.metrics)
    notes = ["Mean ± sd over cases; none of these metrics ranks."]
    if ids:
        notes = [
            f"Mean ± sd over cases; rank = average over {ids}, with its bootstrap 95 % interval by subject. "
            "Methods that share a group letter do not differ significantly (Wilcoxon, Holm)."
        ]
    if any(x.control for x in lines):
        notes.append("c: a control, never ranked; in brackets the average rank it would have.")
    gamed = [f"{c.id} ({c.gameable})" for c in columns if c.gameable and c.ranked]
    if gamed:
        notes.append("⚠ gameable here, a control beats every method: " + ", ".join(gamed))
    if ids and any(x.ok < x.asked for x in lines):
        notes.append(
            f"Missing cases are penalised by {MISSING_RULE}; marks go to methods with the most cases."
        )
    if any(x.dims == 2 for x in lines):
        notes.append("(2D): fuses slice by slice.")
    learned: dict[str, list[str]] = {}
    for line in lines:
        if line.trained_on and not line.from_files:
            learned.setdefault(line.trained_on, []).append(line.method)
    if learned:
        each = "; ".join(f"{', '.join(sorted(names))}: {source}" for source, names in learned.items())
        notes.append(f"Learned from: {each}.")
    if any(x.from_files for x in lines):
        notes.append("(files): scored from image files; how and at what cost they were made is not known.")
        beyond = [c.id for c in columns if c.facts.get("needs_twin") and not c.ranked]
        if beyond:
            notes.append(
                f"Not ranked, since it takes the method itself, not only its images: {', '.join(beyond)}."
            )
    return (*notes, *ranking.notes)
