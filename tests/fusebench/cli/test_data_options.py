"""``--data-dir`` without ``--dataset``, and what ``score --results-dir`` takes from the run that it joins."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusebench.cli import main

from ...layouts import LAYOUTS
from ...saving import save_picture


@pytest.mark.parametrize(
    ("layout", "guess"),
    [
        ("pairs", "3 cases of dataset aanlib or pairs; say which with --dataset"),
        ("bids", "2 cases of dataset bids or pairs; say which with --dataset"),
        ("adni", "2 cases of dataset adni; add --dataset adni"),
        ("aanlib", "2 cases of dataset aanlib; add --dataset aanlib"),
    ],
)
def test_a_folder_without_a_name_is_guessed(
    layout: str, guess: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    LAYOUTS[layout](tmp_path)
    assert main(["run", "--methods", "average", "--data-dir", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert guess in line


def test_a_folder_of_nothing_is_said_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, words in ((tmp_path, "none of them finds cases"), (tmp_path / "no", "no such folder")):
        assert main(["run", "--methods", "average", "--data-dir", str(folder)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run on a folder of pictures, and images of another program beside it."""
    monkeypatch.chdir(tmp_path)
    LAYOUTS["pairs"](tmp_path / "data")
    options = ["--dataset", "pairs", "--data-dir", "data", "--split", "all", "--cases", "2"]
    options += ["--metrics", "psnr,mi@cddfuse", "--protocol", "slices", "--jobs", "0", "--out", "out"]
    assert main(["run", "--methods", "average", *options]) == 0
    for number in range(3):
        save_picture(
            tmp_path / "theirs" / "net" / f"p{number}.png", np.random.default_rng(0).random((32, 28))
        )
    return tmp_path / "out"


def test_results_are_scored_as_the_run_that_they_join(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["score", "--results-dir", "theirs", "--out", "out", "--jobs", "0"]) == 0
    said = capsys.readouterr().out
    assert "as of the run in out: " in said and "split all" in said and "metrics psnr, mi@cddfuse" in said
    rows = pd.read_csv(run / "rows.csv")
    parts = [
        set(map(tuple, part[["case", "protocol", "metric"]].values)) for _, part in rows.groupby("method")
    ]
    assert len(parts) == 2 and parts[0] == parts[1] and len(parts[0]) == 4


def test_what_is_given_counts_before_what_the_run_had(run: Path) -> None:
    command = ["score", "--results-dir", "theirs", "--out", "out", "--jobs", "0"]
    assert main([*command, "--metrics", "ssim", "--cases", "1"]) == 0
    rows = pd.read_csv(run / "rows.csv").query("method == 'net'")
    assert list(rows.metric) == ["ssim"] and list(rows.protocol) == ["slices"]


@pytest.mark.parametrize(
    ("nonsense", "words"),
    [
        ({"metrics": "psnr"}, "no manifest of a run (options: metrics); delete it and run again"),
        ({"data_dir": 7}, "no manifest of a run (options: data_dir); delete it and run again"),
    ],
)
def test_a_manifest_of_nonsense_is_not_taken(
    nonsense: dict[str, object], words: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["options"] |= nonsense
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["score", "--results-dir", "theirs", "--out", "out", "--jobs", "0"]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_for_a_dataset_that_reads_none_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--data-dir", str(tmp_path), "--dataset", "phantom", "--dry-run", "--jobs", "0"]) == 2
    assert "--data-dir: dataset phantom reads no folder" in capsys.readouterr().err
