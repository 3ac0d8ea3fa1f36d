"""Misaligned phantoms scored against the aligned sources, with methods whose results are known."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from fusebench.leaderboard import robustness

from fusebench.cli import main


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("robustness")
    options = "--methods source-pet,source-mri,average --misalign 0,8 --split val --cases 2 --jobs 0"
    assert main(["robustness", *options.split(), "--data-option", "size=32", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def rows(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "robustness.csv")


def value(rows: pd.DataFrame, method: str, misalign: float, metric: str) -> float:
    part = rows[(rows.method == method) & (rows.misalign == misalign) & (rows.metric == metric)]
    return float(part.value.mean())


def test_scored_against_the_aligned_source(rows: pd.DataFrame) -> None:
    assert value(rows, "source-pet", 0, "ssim.b") == pytest.approx(1)
    assert value(rows, "source-pet", 8, "ssim.b") < 0.9
    assert value(rows, "source-mri", 0, "ssim.b") == value(rows, "source-mri", 8, "ssim.b")
    assert value(rows, "average", 8, "psnr.b") < value(rows, "average", 0, "psnr.b")


def test_lesions_are_looked_for_where_they_are(rows: pd.DataFrame) -> None:
    lesions = [value(rows, "source-pet", mm, "lesion_contrast") for mm in (0, 8)]
    assert lesions[0] > lesions[1] + 0.05
    assert value(rows, "source-mri", 8, "lesion_contrast") == pytest.approx(0, abs=1e-6)


def test_files_and_means(out: Path, rows: pd.DataFrame) -> None:
    names = {p.name for p in out.iterdir()}
    assert names >= {
        "0mm",
        "8mm",
        "robustness.csv",
        "robustness_means.csv",
        "robustness.png",
        "robustness.svg",
    }
    assert all((out / name).stat().st_size > 5000 for name in ("robustness.png", "robustness.svg"))
    table = robustness.table(rows)
    assert table.loc[("average", 8), "psnr"] == pytest.approx(value(rows, "average", 8, "psnr"))


def test_the_same_command_runs_nothing_again(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--methods average --misalign 8 --split val --cases 2 --jobs 0 --data-option size=32"
    assert main(["robustness", *options.split(), "--out", str(out)]) == 0
    assert "0 fusions to do" in capsys.readouterr().out


def test_a_label_for_a_method_with_parameters(tmp_path: Path) -> None:
    options = (
        "--method-as mostly-mri=blend,t=0.1 --misalign 0 --split val --cases 1 --jobs 0 --metrics psnr.a"
    )
    out = tmp_path / "out"
    assert main(["robustness", *options.split(), "--data-option", "size=24", "--out", str(out)]) == 0
    assert set(pd.read_csv(out / "robustness.csv").method) == {"mostly-mri"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method-as", "x"], "LABEL=METHOD,PARAM=VALUE"),
        (["--method-as", "x=dcfb,weights"], "LABEL=METHOD,PARAM=VALUE"),
        (["--method-as", "x=dcfb,size=3"], "size"),
        (["--method-as", "x=dcfb,weights=none.pt"], "no such file"),
        (["--method-as", "average=dcfb"], "the label is a method's name"),
        (["--data-option", "size=abc"], "phantom: size='abc' is not a whole number"),
        (["--data-option", "misalign=2"], "give the amounts with --misalign"),
    ],
)
def test_bad_options(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    common = ["--methods", "average", "--jobs", "0", "--out", str(tmp_path)]
    assert main(["robustness", *common, *options]) == 2
    assert message in capsys.readouterr().err
