"""Boards from stored rows: what counts, where each method stands, and what it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusebench.scoring.protocol import READERS
from fusebench.text import plural

from .board import Board, Cell, Column, Line, Standing, known_by_files
from .columns import READINGS, columns_of, settle
from .current import current
from .intervals import summarise
from .notes import board_notes, reasons
from .ranking import Ranking, gameable, rank
from .scores import Scores
from .terms import roles_note

# The protocol whose board the readings join.
MAIN = "volume"
RANK_BY = ("reading", "similarity", "all")


def boards_of(protocols: Sequence[str]) -> list[str]:
    """Protocols that have a board of their own: `READERS` joins that of `MAIN` where there is one."""
    return [p for p in protocols if p != READERS or MAIN not in protocols]


def build(
    rows: pd.DataFrame,
    manifest: Mapping[str, Any],
    protocol: str,
    metrics: Sequence[str] | None = None,
    *,
    rank_by: str = "",
    test: str = "permutation",
    alike: Mapping[str, str] | None = None,
) -> Board:
    """Make the board of one protocol from stored rows and the manifest alone.

    Parameters
    ----------
    rows : DataFrame
        Columns of `fusebench.store.rows.Row`.
    manifest : mapping
        ``methods`` and ``metrics`` by name with the fields of their infos.
    protocol : str
        The board of ``volume`` holds the readings of protocol ``readers``, too.
    metrics : sequence of str, optional
        Ids to show and to rank on.  By default every id in the rows is on the board and the default
        ranking set counts: `reading`, and every metric with ``ranked`` true and its ``worst`` part, but for
        those on which a control beats every method.
    rank_by : {"", "reading", "similarity", "all"}
        What gives the places; by default the readings where there are some, else the likeness to the
        sources; "all" averages over both.
    test : {"permutation", "wilcoxon"}
        Of the groups, see `significance.compare_all`.
    alike : mapping, optional
        Learned methods and the unlearned ones that they equal.

    Returns
    -------
    Board
    """
    parts = [MAIN, READERS] if protocol == MAIN else [protocol]
    mine, old = current(rows[rows["protocol"].isin(parts)], manifest)
    columns = columns_of(mine, manifest, metrics)
    infos: Mapping[str, Any] = manifest.get("methods", {})
    names = list(dict.fromkeys([*infos, *mine["method"].astype(str).unique()]))
    controls = [m for m in names if infos.get(m, {}).get("control")]
    files = [m for m in names if known_by_files(infos.get(m, {}))]
    directions = {c.id: c.direction for c in columns}
    scores = Scores.from_rows(mine, names, [c.id for c in columns], directions, files)
    summary = summarise(scores)
    flags = gameable(scores, controls)
    wanted = _wanted(columns, {} if metrics is not None else flags)
    if rank_by == "all":
        wanted = {"all": [m for ids in wanted.values() for m in ids]}
    rankings = {
        name: rank(
            scores.take(metrics=ids),
            controls,
            # Who lacks one of these has no reading; that others were not asked for a task metric is no loss.
            required=READINGS if name == "reading" else (),
            test=test,
        )
        for name, ids in wanted.items()
    }
    by = _placing(rankings, rank_by)
    counted = {m for r in rankings.values() for m in r.metrics}
    columns = tuple(settle(c, summary, flags.get(c.id, ""), c.id in counted) for c in columns)
    lines = _lines(mine, manifest, names, controls, columns, scores, summary, rankings, by, alike or {})
    dataset = ", ".join(sorted(set(mine["dataset"].astype(str))))
    named = [p for p in parts if (mine["protocol"] == p).any()] or [protocol]
    title = (
        f"{dataset or 'no data'}, protocol {' and '.join(named)}, {plural(len(scores.cases), 'case')} of "
        f"{plural(len(scores.subjects), 'subject')}"
    )
    notes = board_notes(columns, rankings, by, lines, wanted, test)
    doubts = manifest.get("dataset", {}).get("doubts", ())
    notes = (*roles_note(manifest.get("dataset", {})), *notes, *doubts, *old)
    return Board(title, protocol, dataset, columns, lines, rankings, by, scores, summary, notes)


def _wanted(columns: Sequence[Column], flags: Mapping[str, str]) -> dict[str, list[str]]:
    """Metrics of each ranking: those that no control wins, or all where it wins all."""
    found = {}
    for name in ("reading", "similarity"):
        ids = [c.id for c in columns if c.ranked and c.kind == name]
        if ids:
            found[name] = [m for m in ids if m not in flags] or ids
    return found or {"similarity": []}


def _placing(rankings: Mapping[str, Ranking], asked: str) -> str:
    """The ranking that gives the places."""
    if asked in rankings:
        return asked
    first = rankings.get("reading")
    read = first is not None and len(first.order) and set(first.metrics) & set(READINGS)
    if "all" in rankings:
        return "all"
    return "reading" if read or "similarity" not in rankings else "similarity"


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
    rankings: Mapping[str, Ranking],
    by: str,
    alike: Mapping[str, str],
) -> tuple[Line, ...]:
    infos: Mapping[str, Any] = manifest.get("methods", {})
    data: Mapping[str, Any] = manifest.get("dataset", {})
    scored = f"{data.get('name')}/{data.get('split')}"
    marks = {c.id: _marks(summary, c, [m for m in names if m not in controls]) for c in columns}
    costs = _costs(rows)
    by_method = dict(tuple(rows.groupby(rows["method"].astype(str), observed=True)))
    k = [i for i, c in enumerate(columns) if c.ranked] or list(range(len(columns)))
    asked = scores.asked[:, k]
    there: NDArray[np.bool_] = ~np.isnan(scores.values[:, :, k])
    complete = np.asarray((there | ~asked).all(axis=2) & asked.any(axis=1))
    table = summary.to_dict(orient="index")
    cells = {
        m: {c.id: Cell(**_cell(table[(m, c.id)]), mark=marks[c.id].get(m, "")) for c in columns}
        for m in names
    }
    places = rankings[by].table.to_dict(orient="index")
    standings = {name: _standings(ranking) for name, ranking in rankings.items()}
    lines = []
    for i, m in enumerate(names):
        info = infos.get(m, {})
        row: Mapping[Any, Any] = places.get(m, {})
        ranks = {name: of.get(m, Standing()) for name, of in standings.items()}
        lines.append(
            Line(
                method=m,
                control=m in controls,
                position=int(row["position"]) if np.isfinite(ranks[by].average) and row else None,
                standing=ranks[by],
                ranks=ranks,
                best=float(row.get("best", np.nan)),
                worst=float(row.get("worst", np.nan)),
                group=str(row.get("group", "")),
                win_rate=float(row.get("win_rate", np.nan)),
                cells=cells[m],
                ok=int(complete[i].sum()),
                asked=len(scores.cases),
                seconds=float(costs["seconds"].get(m, np.nan)),
                memory_mb=float(costs["memory"].get(m, np.nan)),
                gpu_memory_mb=float(costs["gpu"].get(m, np.nan)),
                params=int(info.get("params") or 0),
                dims=info.get("dims"),
                trained_on=str(info.get("trained_on") or ""),
                overlap=_overlaps(info, scored),
                reasons=(
                    *(_unplaced(m, rankings, by) if m in by_method else ()),
                    *reasons(by_method.get(m, rows.iloc[:0]), info),
                ),
                alike=alike.get(m, ""),
                facts=info,
            )
        )

    def order(x: Line) -> tuple[bool, float, float]:
        rest = [x.standing.average, *(s.average for s in x.ranks.values())]
        return x.control, x.position or np.inf, next((r for r in rest if np.isfinite(r)), np.inf)

    return tuple(sorted(lines, key=order))


def _standings(ranking: Ranking) -> dict[str, Standing]:
    table = ranking.table
    found = {
        str(m): Standing(float(r["average"]), float(r["low"]), float(r["high"]))
        for m, r in table.to_dict(orient="index").items()
    }
    return found | {str(m): Standing(float(v), control=True) for m, v in ranking.controls.items()}


def _unplaced(method: str, rankings: Mapping[str, Ranking], by: str) -> tuple[str, ...]:
    """Why a method has no rank although it has values."""
    found = []
    for name, ranking in rankings.items():
        why = ranking.common.unplaced.get(method)
        if why:
            found.append(f"{'no place' if name == by else f'no {name} rank'}, {why}")
    return tuple(found)


def _overlaps(info: Mapping[str, Any], scored: str) -> bool:
    """True where a method learned from the very split that is scored."""
    splits = info.get("trained_splits")
    if splits is None:  # manifests from before it was stated
        splits = str(info.get("trained_on") or "").replace(",", " ").split()
    return scored in splits


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
