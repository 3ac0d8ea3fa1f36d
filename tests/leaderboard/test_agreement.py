"""Agreement of likeness and reading, against scipy and on boards with a known answer."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from .conftest import with_readings, write_run

agreement = importlib.import_module("fusebench.leaderboard.agreement")
charts = importlib.import_module("fusebench.leaderboard.charts")
report = importlib.import_module("fusebench.leaderboard.report")
tables = importlib.import_module("fusebench.leaderboard.tables")

NAMES = [f"m{i}" for i in range(8)]
UP = {m: float(i) for i, m in enumerate(NAMES)}


def board_of(reading: dict[str, float], **options: Any) -> Any:
    options = {"cases": 6, "noise": 0.2, "metrics": ["psnr", "ssim"], "controls": ("m0",), **options}
    return tables.build(*with_readings(UP, reading, **options), "volume")


def test_taus_are_those_of_scipy() -> None:
    board = board_of({m: float(np.sin(2 * i)) for i, m in enumerate(NAMES)}, noise=0.8)
    found = agreement.agreement(board)
    assert found.similarities == ("psnr", "ssim") and "cho_auc.a" in found.readings
    mean = board.summary["mean"]
    for s in found.similarities:
        for r in found.readings:
            x, y = (mean.xs(m, level="metric").loc[NAMES] for m in (s, r))
            assert found.tau.loc[s, r] == pytest.approx(stats.kendalltau(x, y).statistic)


@pytest.mark.parametrize("sign", [1, -1])
def test_order_and_its_reverse(sign: int) -> None:
    found = agreement.agreement(board_of({m: sign * v for m, v in UP.items()}))
    assert found.tau.loc["psnr", "reading"] * sign > 0.9
    low, high = found.low.loc["psnr", "reading"], found.high.loc["psnr", "reading"]
    assert low <= high and (low > 0.6 if sign > 0 else high < -0.6)


def test_a_metric_that_is_best_at_zero_or_low_is_turned() -> None:
    rows, manifest = with_readings(UP, UP, cases=6, noise=0.1, metrics=["psnr", "nabf"])
    found = agreement.agreement(tables.build(rows, manifest, "volume"))
    assert found.tau.loc["nabf", "reading"] > 0.9


def test_the_interval_is_over_subjects() -> None:
    one = agreement.agreement(board_of(UP, cases=6, per_subject=6))
    assert one.subjects == 1 and one.low.isna().all(axis=None)
    wide = agreement.agreement(board_of(UP, cases=12, per_subject=4, noise=3.0, seed=4))
    narrow = agreement.agreement(board_of(UP, cases=60, per_subject=2, noise=3.0, seed=4))
    assert wide.subjects == 3 and narrow.subjects == 30

    def width(found: Any) -> float:
        return float((found.high - found.low).to_numpy().mean())

    assert width(narrow) < width(wide)


def test_methods_without_readings_take_no_part_and_few_are_no_order() -> None:
    rows, manifest = with_readings(UP, UP, cases=4, metrics=["psnr"])
    some = rows[(rows["protocol"] == "volume") | ~rows["method"].isin(["m1", "m2"])]
    assert agreement.agreement(tables.build(some, manifest, "volume")).methods == 6
    few = rows[rows["method"].isin(NAMES[:3])]
    manifest["methods"] = {m: manifest["methods"][m] for m in NAMES[:3]}
    assert agreement.agreement(tables.build(few, manifest, "volume")) is None
    assert agreement.agreement(tables.build(rows[rows["protocol"] == "volume"], manifest, "volume")) is None


def test_the_report_holds_table_and_charts(tmp_path: Path) -> None:
    rows, manifest = with_readings(UP, UP, cases=3, metrics=["psnr"], controls=("m0",))
    out = report.write(write_run(tmp_path / "run", rows, manifest), tmp_path / "out")[0].parent
    table = pd.read_csv(out / "tables" / "phantom-volume-agreement.csv")
    assert set(table.columns) >= {"similarity", "reading", "tau", "low", "high"} and len(table) == 4
    assert "Kendall's tau over 8 methods" in (out / "tables" / "phantom-volume-agreement.md").read_text(
        "utf-8"
    )
    for stem in ("agreement", "reading-similarity"):
        assert (out / "figures" / f"phantom-volume-{stem}.svg").stat().st_size > 1000
    index = (out / "index.html").read_text("utf-8")
    assert 'id="agreement-phantom-volume"' in index and "reading rank" in index
    assert "m0" in (out / "figures" / "phantom-volume-reading-similarity.svg").read_text("utf-8")
