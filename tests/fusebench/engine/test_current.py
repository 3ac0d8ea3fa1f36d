"""Rows outside a run: left out, and counted, where what they were made of has changed or is gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusebench.store.read_rows import read_rows

from ...saving import save_volume

Bench = Callable[..., int]
Rows = Callable[[], pd.DataFrame]
OTHER_CODE = "made with other code"
GONE = "no longer to be checked"
METHOD = """
from pathlib import Path
from fusebench.method import Method, MethodInfo

class Mine(Method):
    info = MethodInfo(name="mine", summary="test")

    def __init__(self, weights: str = "") -> None:
        self.weights = weights

    def fuse(self, a, b):
        return {value} * (a + b)
"""
METRIC = """
from fusebench.metric import MetricInfo, metric

@metric(MetricInfo(name="own", title="own", family="fidelity", direction="higher", low=0, high=9))
def own(triple, part, variant):
    return triple.fused.new_full((len(triple),), {value})
"""
DATASET = """
from functools import partial
from pathlib import Path
import numpy as np
from fusebench.case import Case, Pair, Volume
from fusebench.dataset import Dataset, DatasetInfo

def load(seed, file):
    a, b = np.random.default_rng(seed).random((2, 8, 8, 8), dtype=np.float32)
    scale = np.float32(float(Path(file).read_text()))
    return Pair(Volume(a * scale), Volume(b * np.float32({value})), a >= 0)

class Edited(Dataset):
    info = DatasetInfo(name="edited", summary="the same fingerprints always", splits=("test", "val"))

    def cases(self, split="test"):
        file = Path(__file__).parent / "scale" / "value"
        return [Case(f"c{i}", "edited", f"g{i}", f"f{i}", partial(load, i, str(file))) for i in range(2)]
"""


@pytest.fixture
def board(tmp_path: Path) -> Callable[[], str]:
    """Text of the board of the run."""
    return lambda: (tmp_path / "run" / "leaderboard.md").read_text()


@pytest.fixture
def images(tmp_path: Path) -> Callable[[int], list[str]]:
    """Makes the images of an entry called net, of one seed, and tells how they are scored."""

    def make(seed: int) -> list[str]:
        rng = np.random.default_rng(seed)
        for i in range(3):
            path = tmp_path / "theirs" / "net" / f"case{i:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            save_volume(path, rng.random((8, 8, 8), dtype=np.float32), np.eye(4))
        return ["--results-dir", str(tmp_path / "theirs")]

    return make


@pytest.fixture
def score(tmp_path: Path) -> Bench:
    from fusebench.cli import main

    plugins = str(Path(__file__).parent.with_name("engine_plugins.py"))
    common = ["score", "--plugin", plugins, "--dataset", "tiny", "--metrics", "psnr", "--protocol", "volume"]
    return lambda *more: main([*common, "--jobs", "0", "--out", str(tmp_path / "run"), *more])


def write(path: Path, text: str) -> Path:
    """Write a plugin with a size of its own, whatever the clock says."""
    path.write_text(text)
    os.utime(path, ns=(path.stat().st_mtime_ns + 10**9,) * 2)
    return path


def test_weights_of_a_method_outside_the_run(
    bench: Bench, rows: Rows, board: Callable[[], str], tmp_path: Path
) -> None:
    plugin, weights = write(tmp_path / "mine.py", METHOD.format(value=0.5)), write(tmp_path / "w.txt", "1")
    given = ("--plugin", str(plugin))
    assert bench("--methods", "mine", "--weights", f"mine={weights}", *given) == 0
    assert bench("--methods", "healthy", *given) == 0
    assert set(rows().method) == {"mine", "healthy"}, "nothing has changed"
    write(weights, "2")
    assert bench("--methods", "healthy", *given) == 0
    assert set(rows().method) == {"healthy"} and f"Left out, {OTHER_CODE}" in board()
    weights.unlink()
    assert bench("--methods", "healthy", *given) == 0
    assert set(rows().method) == {"healthy"} and f"Left out, {GONE}" in board()


def test_plugin_of_a_method_outside_the_run(
    bench: Bench, rows: Rows, board: Callable[[], str], tmp_path: Path
) -> None:
    plugin = write(tmp_path / "mine.py", METHOD.format(value=0.5))
    assert bench("--methods", "mine", "--plugin", str(plugin)) == 0
    assert bench("--methods", "healthy") == 0
    assert set(rows().method) == {"mine", "healthy"}, "it lies where it was"
    write(plugin, METHOD.format(value=0.25))
    assert bench("--methods", "healthy") == 0
    assert set(rows().method) == {"healthy"} and f"Left out, {OTHER_CODE}" in board()
    plugin.unlink()
    assert bench("--methods", "healthy") == 0
    assert set(rows().method) == {"healthy"} and f"Left out, {GONE}" in board() and "mine (3)" in board()


def test_images_that_were_made_anew(
    bench: Bench,
    score: Bench,
    rows: Rows,
    board: Callable[[], str],
    images: Callable[[int], list[str]],
    tmp_path: Path,
) -> None:
    assert score(*images(0)) == 0
    assert bench("--methods", "healthy") == 0
    assert len(rows()) == 6, "the images are those that were scored"
    assert score(*images(1), "--cases", "1") == 0
    assert sorted(rows().case[rows().method == "net"]) == ["case0000"]
    assert "Left out, made of other images" in board() and "net (2)" in board()
    images(2)
    assert bench("--methods", "healthy") == 0
    assert set(rows().method) == {"healthy"} and "net (3)" in board()
    (tmp_path / "theirs").rename(tmp_path / "elsewhere")
    assert bench("--methods", "healthy") == 0
    assert set(rows().method) == {"healthy"} and f"Left out, {GONE}" in board()


def test_metric_of_an_entry_from_files(
    bench: Bench, score: Bench, rows: Rows, images: Callable[[int], list[str]], tmp_path: Path
) -> None:
    plugin = write(tmp_path / "own.py", METRIC.format(value=1))
    own = ("--metrics", "psnr,own", "--plugin", str(plugin))
    assert score(*images(0), *own) == 0
    write(plugin, METRIC.format(value=22))
    assert bench("--methods", "healthy", *own, "--jobs", "1") == 0
    net = rows()[rows().method == "net"]
    assert set(net.metric) == {"psnr"}, "the values of the metric as it was are left out"


def test_a_lost_table_brings_no_outdated_rows_back(bench: Bench, tmp_path: Path) -> None:
    plugin = write(tmp_path / "mine.py", METHOD.format(value=0.5))
    given = ("--plugin", str(plugin))
    assert bench("--methods", "mine,healthy", *given) == 0
    write(plugin, METHOD.format(value=0.25))
    assert bench("--methods", "mine", "--cases", "1", "--jobs", "1", *given) == 0
    run = tmp_path / "run"
    order = ["method", "case"]
    before = read_rows(run).sort_values(order)[[*order, "value"]].to_numpy().tolist()
    assert len(before) == 4
    for damage in (b"", b"PAR1rubbish", None):
        (run / "rows.parquet").unlink() if damage is None else (run / "rows.parquet").write_bytes(damage)
        after = read_rows(run).sort_values(order)[[*order, "value"]].to_numpy().tolist()
        assert after == before
    assert len(read_rows(run / "rows.jsonl")) == 4


@pytest.fixture
def edited(tmp_path: Path) -> list[str]:
    """Arguments for a dataset of two cases, ``edited.py``, whose fingerprints do not say what they hold."""
    (tmp_path / "scale").mkdir()
    write(tmp_path / "scale" / "value", "1")
    plugin = write(tmp_path / "edited.py", DATASET.replace("{value}", "1"))
    return ["--plugin", str(plugin), "--dataset", "edited"]


@pytest.mark.parametrize("jobs", ["0", "1"])
def test_rows_follow_the_dataset(
    bench: Bench, rows: Rows, board: Callable[[], str], tmp_path: Path, edited: list[str], jobs: str
) -> None:
    run = ("--methods", "healthy", "--jobs", jobs, *edited)
    found = []
    for change in ("", "", "code", "file"):
        if change == "code":
            write(tmp_path / "edited.py", DATASET.replace("{value}", "0.5"))
        elif change == "file":
            write(tmp_path / "scale" / "value", "0.25")
        assert bench(*run) == 0
        found.append(rows())
        assert set(found[-1].status) == {"ok"}
    first, again, code, file = ({(r.case, r.key, r.value) for r in table.itertuples()} for table in found)
    assert first == again and not first & code and not code & file
    assert not set(found[0].fingerprint) & set(found[2].fingerprint), "so that a board of two runs says so"
    write(tmp_path / "scale" / "value", "0.5")
    assert bench("--methods", "average", *edited) == 0
    assert set(rows().method) == {"average"}
    assert "Left out, made from other data of the same cases: healthy (2)" in board()


def test_images_from_files_follow_the_dataset(
    score: Bench, rows: Rows, images: Callable[[int], list[str]], tmp_path: Path, edited: list[str]
) -> None:
    given = images(0)
    for i in range(2):
        (tmp_path / "theirs" / "net" / f"case000{i}.nii.gz").rename(
            tmp_path / "theirs" / "net" / f"c{i}.nii.gz"
        )
    (tmp_path / "theirs" / "net" / "case0002.nii.gz").unlink()
    assert score(*given, *edited) == 0
    before = rows()
    write(tmp_path / "edited.py", DATASET.replace("{value}", "0.5"))
    assert score(*given, *edited) == 0
    assert not set(before.key) & set(rows().key) and not set(before.value) & set(rows().value)


def test_a_case_of_two_splits_is_on_the_board_of_each(
    bench: Bench, rows: Rows, board: Callable[[], str], edited: list[str]
) -> None:
    first = None
    for split in ("test", "val", "test"):
        assert bench("--methods", "healthy", "--split", split, *edited) == 0
        made = rows()[["value", "fuse_seconds"]].to_numpy().tolist()
        assert set(rows().split) == {split} and "2/2" in board()
        assert made == (first or made), "made once"
        first = made
