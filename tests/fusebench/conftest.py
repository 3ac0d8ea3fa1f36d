"""Run the command line in this process on the tiny dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fusebench.cli import main

PLUGINS = Path(__file__).with_name("engine_plugins.py")
Bench = Callable[..., int]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """``bench("--methods", "healthy", ...)``: exit code of a run into ``tmp_path / "run"``."""

    def run(*arguments: str, out: Path = tmp_path / "run") -> int:
        common = ["--plugin", str(PLUGINS), "--dataset", "tiny", "--metrics", "psnr", "--out", str(out)]
        return main([*common, "--jobs", "0", *arguments])

    return run


@pytest.fixture
def rows(tmp_path: Path) -> Callable[[], pd.DataFrame]:
    """The consolidated rows of ``tmp_path / "run"``."""
    return lambda: pd.read_parquet(tmp_path / "run" / "rows.parquet")
