"""Numbers that papers report, to stand beside our own, never among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusebench.metric import MetricId

from .board import Board
from .escape import markdown_text


@dataclass(frozen=True)
class Published:
    """One row of a paper's table."""

    method: str
    data: str
    values: Mapping[str, float]


# Only the paper's own row: it is the one we could check against a source.
DC2FUSION = Published(
    "DC2Fusion, as published",
    "ADNI, the authors' 660 patients and slices",
    {"psnr": 20.714, "ssim": 0.718, "nmi": 1.312},
)
NOTE = (
    "The first row is from Liu et al. 2023, Three-Dimensional Medical Image Fusion with Deformable "
    "Cross-Attention (arXiv 2310.06291), Table 1. It was measured on other data: field of view and "
    "normalisation alone move these values by more than methods differ, so no row here may be ranked "
    "against it."
)


def paper_table(board: Board, published: Published = DC2FUSION) -> pd.DataFrame:
    """The published row above our own, on the metrics both have.

    Returns
    -------
    DataFrame
        Columns ``method data control`` and the metric ids of the board; empty where they share no metric.
    """
    ids = {}
    for name in published.values:
        found = [c.id for c in board.columns if MetricId.parse(c.id).name == name]
        whole = [i for i in found if not MetricId.parse(i).part]
        if whole:
            # A variant is closer to what a paper did than our own default.
            ids[name] = max(whole, key=lambda i: bool(MetricId.parse(i).variant))
    if not ids:
        return pd.DataFrame()
    rows = [{"method": published.method, "data": published.data, "control": False,
             **{ids[k]: published.values[k] for k in ids}}]  # fmt: skip
    for x in board.lines:
        values = {i: x.cells[i].mean if x.cells[i].n else np.nan for i in ids.values()}
        rows.append({"method": x.method, "data": board.dataset, "control": x.control, **values})
    return pd.DataFrame(rows)


def number(x: float) -> str:
    """Three decimals; a dash where there is none."""
    return "–" if np.isnan(x) else f"{x:.3f}" if np.isfinite(x) else "∞"


def paper_markdown(table: pd.DataFrame) -> str:
    """`paper_table` in Markdown, with the warning."""
    metrics = [c for c in table.columns if c not in ("method", "data", "control")]
    lines = ["| method | measured on | " + " | ".join(map(markdown_text, metrics)) + " |"]
    lines.append("| :-- | :-- |" + " --: |" * len(metrics))
    for row in table.to_dict("records"):
        name = markdown_text(str(row["method"])) + (" *(control)*" if row["control"] else "")
        cells = [number(row[m]) for m in metrics]
        lines.append(f"| {name} | {markdown_text(str(row['data']))} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", NOTE, ""])
