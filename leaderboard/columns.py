"""The columns of a board: which metrics it shows, which may count, and in which of the two average ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fusebench.metric import MetricId

from .board import Column

# Readings, in the order of the board.  The first is the worst share of the next three, and
# counts for them: each of these alone is won by a copy of one source.
READINGS = ("reading", "cho_auc.a", "cho_auc.b", "outline", "uptake_r2")
# Shown though it does not count: people look for MI, and Q_MI, the same with its scale taken out, ranks.
ALSO_SHOWN = ("mi",)


def facts_of(metric: str, manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The manifest's facts for a metric id or its metric, with the unit and tolerance of the variant."""
    known: Mapping[str, Any] = manifest.get("metrics", {})
    mid = MetricId.parse(metric)
    facts = known.get(metric) or known.get(mid.name) or {}
    # Runs from before `units` and `tolerances` have none.
    out = dict(facts)
    for one, several, default in (("unit", "units", ""), ("tolerance", "tolerances", 1e-6)):
        out[one] = (facts.get(several) or {}).get(mid.variant, facts.get(one, default))
    return out


def columns_of(
    rows: pd.DataFrame, manifest: Mapping[str, Any], metrics: Sequence[str] | None
) -> tuple[Column, ...]:
    """The metrics of some rows as columns, those of the default set first.

    A column is `Column.ranked` where it may count; `settle` says which do.
    """
    ids = [m for m in rows["metric"].dropna().astype(str).unique() if m]
    # Task metrics have skips and no value outside their protocol: they tell no method from another.
    of = {status: set(rows.loc[rows["status"] == status, "metric"]) for status in ("ok", "skip")}
    present = [m for m in ids if m in of["ok"] or m not in of["skip"]] or ids
    wanted = present if metrics is None else list(metrics)
    columns = []
    for name in wanted:
        facts = facts_of(name, manifest)
        mid = MetricId.parse(name)
        direction = str(facts.get("direction", "none"))
        reading = name in READINGS or facts.get("family") == "task"
        counts = bool(facts.get("ranked")) and not mid.variant and mid.part in ("", "worst")
        if name in READINGS or facts.get("needs_trial"):
            counts = name == READINGS[0] or (name in READINGS and READINGS[0] not in present)
        columns.append(
            Column(
                name,
                str(facts.get("title", name)),
                direction,
                str(facts.get("unit", "")),
                _number(facts.get("low"), -np.inf),
                _number(facts.get("high"), np.inf),
                kind="reading" if reading else "similarity",
                default=counts or name in (*READINGS, *ALSO_SHOWN) if metrics is None else True,
                ranked=direction != "none" and (counts if metrics is None else name in present),
                facts=facts,
            )
        )
    if not any(c.ranked for c in columns):
        # Protocols made of variants only (`paper`) rank on everything that has a direction.
        columns = [
            replace(c, ranked=c.direction != "none", default=c.default or c.direction != "none")
            for c in columns
        ]
    if metrics is not None:
        return tuple(columns)
    first = {name: i for i, name in enumerate(READINGS)}
    return tuple(sorted(columns, key=lambda c: (first.get(c.id, len(first)), not c.ranked, not c.default)))


def _number(value: Any, default: float) -> float:
    return default if value is None else float(value)


def settle(column: Column, summary: pd.DataFrame, control: str, ranked: bool) -> Column:
    """A column with what is known once all values are: the control that wins it, and if it counts.

    Decimals follow the size of the values: four significant digits at the usual spread.
    """
    mean = summary["mean"].xs(column.id, level="metric").abs()
    mean = mean[np.isfinite(mean)]
    top = float(mean.max()) if len(mean) else 1.0
    decimals = 4 if top < 1 else 3 if top < 10 else 2 if top < 1000 else 1
    return replace(column, gameable=control, decimals=decimals, ranked=ranked)
