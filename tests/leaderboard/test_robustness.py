"""The robustness protocol on small phantoms with methods whose results are known."""

import importlib

import numpy as np
import pytest

import fusebench
from fusebench.cli import main

robustness = importlib.import_module("fusebench.leaderboard.robustness")


@pytest.fixture(scope="module")
def rows():
    methods = {name: fusebench.create_method(name) for name in ("source-pet", "source-mri", "average")}
    for method in methods.values():
        method.setup("cpu")
    return robustness.measure(methods, misalign=[0, 8], split="val", cases=2, phantom={"size": 32})


def value(rows, method, misalign, metric):
    part = rows[(rows.method == method) & (rows.misalign == misalign) & (rows.metric == metric)]
    return part.value.mean()


def test_scored_against_the_aligned_source(rows):
    assert value(rows, "source-pet", 0, "ssim.b") == pytest.approx(1)
    assert value(rows, "source-pet", 8, "ssim.b") < 0.9
    assert value(rows, "source-mri", 0, "ssim.b") == value(rows, "source-mri", 8, "ssim.b")
    assert value(rows, "average", 8, "psnr.b") < value(rows, "average", 0, "psnr.b")


def test_lesions_are_looked_for_where_they_are(rows):
    lesions = [value(rows, "source-pet", mm, "lesion_contrast") for mm in (0, 8)]
    assert lesions[0] > lesions[1] + 0.05
    assert value(rows, "source-mri", 8, "lesion_contrast") == pytest.approx(0, abs=1e-6)


def test_fixed_blends_do_not_flicker_and_slicewise_noise_does(rows):
    assert value(rows, "average", 0, "through_plane_error") == pytest.approx(0, abs=1e-7)
    rng = np.random.default_rng(0)
    a, b = 0.3 + 0.4 * rng.random((2, 12, 20, 20), dtype=np.float32)
    mask = np.ones(a.shape, bool)
    flicker = (a + b) / 2 + 0.08 * rng.uniform(-2, 2, (12, 1, 1)).astype(np.float32)
    out = robustness.through_plane(a, b, flicker, mask)
    assert out["through_plane_error"] > 0.005
    assert out["in_plane_error"] < 1e-7


def test_ssim_in_three_planes():
    rng = np.random.default_rng(1)
    a = rng.random((14, 16, 18), dtype=np.float32)
    out = robustness.through_plane(a, a, a, np.ones(a.shape, bool))
    assert [out[f"ssim_{p}"] for p in ("axial", "coronal", "sagittal")] == pytest.approx([1, 1, 1])


def test_table_and_chart(rows, tmp_path):
    table = robustness.table(rows)
    assert table.loc[("average", 8), "psnr"] == pytest.approx(value(rows, "average", 8, "psnr"))
    paths = robustness.chart(rows, tmp_path / "chart")
    assert [p.suffix for p in paths] == [".png", ".svg"]
    assert all(p.stat().st_size > 5000 for p in paths)


def test_command(tmp_path, capsys):
    out = tmp_path / "out"
    options = "--methods average --misalign 0,4 --split val --cases 1 --data-option size=32"
    code = main(
        ["robustness", *options.split(), "--metrics", "psnr", "--metrics", "ssi[m]", "--out", str(out)]
    )
    assert code == 0
    assert {p.name for p in out.iterdir()} >= {"robustness.csv", "robustness_means.csv", "robustness.png"}
    assert "average" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--with", "x"], "LABEL=METHOD,PARAM=VALUE"),
        (["--with", "x=dcfb,weights"], "LABEL=METHOD,PARAM=VALUE"),
        (["--with", "x=dcfb,size=3"], "size"),
        (["--with", "x=dcfb,weights=none.pt"], "no such file"),
        (["--data-option", "size=abc"], "phantom: size='abc' is not a whole number"),
        (["--data-option", "misalign=2"], "give the amounts with --misalign"),
    ],
)
def test_bad_options(options, message, capsys):
    assert main(["robustness", "--methods", "average", *options]) == 2
    assert message in capsys.readouterr().err
