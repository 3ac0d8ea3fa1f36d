"""The rows that a board may hold: of the split that the run states; what else there is is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fusebench.text import plural


def current(rows: pd.DataFrame, manifest: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """Leave out rows of other splits; say which methods were run under another seed.

    Parameters
    ----------
    rows : DataFrame
        With a column ``split`` where rows state theirs; "" says nothing.
    manifest : mapping
        ``dataset`` with its ``split``, ``options`` with the ``seed``, ``run`` with whether it ``ended``.

    Returns
    -------
    kept : DataFrame
    notes : list of str
        How many rows were left out, and what is mixed in those that were kept.
    """
    notes = []
    if manifest.get("run", {}).get("ended") is False:  # killed, or going on
        notes.append(
            "The run in this folder has not ended: rows that it was to replace may be among these. The same "
            "command goes on."
        )
    split = str(manifest.get("dataset", {}).get("split") or "")
    if split and "split" in rows:
        theirs = rows["split"].astype(object).where(rows["split"].notna(), "")
        other = ~theirs.isin(["", split])
        if other.any():
            named = ", ".join(sorted(set(theirs[other])))
            notes.append(
                f"{plural(int(other.sum()), 'row')} of another split ({named}) left out; this is {split}."
            )
            rows = rows[~other]
    seed = manifest.get("options", {}).get("seed")
    if seed is not None and "seed" in rows:
        other = pd.to_numeric(rows["seed"], errors="coerce").fillna(seed) != seed
        if other.any():
            names = ", ".join(rows.loc[other, "method"].astype(str).unique())
            notes.append(
                f"{plural(int(other.sum()), 'row')} made under another seed than {seed}: {names}; run these "
                "methods again."
            )
    return rows, notes
