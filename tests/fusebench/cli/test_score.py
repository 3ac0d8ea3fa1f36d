"""`score` of images made elsewhere: which files are taken, and as what."""

import csv
import errno
import os
import subprocess

import numpy as np
import pytest

from fusebench.cli import main
from fusebench.metrics import evaluate

from ...saving import save_picture, save_volume

RNG = np.random.default_rng(0)
MRI, PET = RNG.integers(0, 256, (2, 40, 44), dtype=np.uint8)
MRI[0, :2] = PET[0, :2] = 0, 255
FUSED = (MRI // 4 + PET // 4).astype(np.uint8)  # fills half of its range


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(path, pixels, folder):
    (save_volume if path.endswith(".nii") else save_picture)(folder / path, pixels)


def score(*arguments):
    """Exit code and rows of ``psnr``."""
    code = main(["score", *arguments, "--metrics", "psnr", "--csv", "s.csv"])
    with open("s.csv", encoding="utf-8") as handle:
        return code, {(r["method"], r["case"]): r["psnr"] for r in csv.DictReader(handle)}


FILES = ["--mri", "m.png", "--pet", "p.png"]


@pytest.fixture
def sources(tmp_path):
    save("m.png", MRI, tmp_path)
    save("p.png", PET, tmp_path)


@pytest.fixture
def folders(tmp_path):
    """Sources of three cases; arguments that score ``fused``."""
    for case in ("one", "two", "three"):
        save(f"mri/{case}.png", MRI, tmp_path)
        save(f"pet/{case}.png", PET, tmp_path)
    return ["--mri", "mri", "--pet", "pet", "--fused"]


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("f.png", FUSED),
        ("f.png", FUSED.astype(np.uint16) * 257),
        ("f.tif", FUSED / np.float32(255)),
        ("f.nii", FUSED),
        ("f.nii", FUSED.astype(np.uint16) * 257),
        ("f.nii", FUSED / np.float32(255)),
    ],
)
def test_a_fused_image_of_every_type_scores_alike_unstretched(name, pixels, sources, tmp_path):
    save(name, pixels, tmp_path)
    code, rows = score(*FILES, "--fused", name)
    wanted = evaluate(MRI, PET, FUSED, ["psnr"])["psnr"]
    assert code == 0 and float(rows["f", "m"]) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("pixels", "hint"),
    [
        (FUSED.astype(np.float32), "--fused-range 0 255"),
        (FUSED.astype(np.int16), "--fused-range 0 255"),
        (FUSED / np.float32(255) - np.float32(0.05), "--fused-range 0 1"),
    ],
)
def test_a_range_that_is_not_known_must_be_told(pixels, hint, sources, tmp_path, capsys):
    save("f.nii", pixels, tmp_path)
    assert main(["score", *FILES, "--fused", "f.nii", "--metrics", "psnr"]) == 2
    assert hint in capsys.readouterr().err
    assert score(*FILES, "--fused", "f.nii", *hint.split())[0] == 0


def test_a_case_that_one_method_lacks_is_a_failed_row(folders, tmp_path, capsys, caplog):
    for method, case in (("avg", "one"), ("avg", "two"), ("lap", "one")):
        save(f"fused/{method}/{case}.png", FUSED, tmp_path)
    (tmp_path / "fused" / "none").mkdir()
    code, rows = score(*folders, "fused")
    assert code == 1
    assert {k for k, v in rows.items() if not v} == {("lap", "two"), ("none", "one"), ("none", "two")}
    out = capsys.readouterr().out
    assert "failed: lap two: no fused image of this name" in out
    assert "three not scored" in caplog.text


def test_methods_of_one_name_are_told_apart(sources, folders, tmp_path):
    for name in ("a/res.png", "b/res.png", "f.png", "f.nii", "x/net/one.png", "y/net/one.png"):
        save(name, FUSED, tmp_path)
    _, rows = score(*FILES, "--fused", "a/res.png", "b/res.png", "./a/../a/res.png")
    assert [method for method, _ in rows] == ["a/res.png", "b/res.png"]
    _, rows = score(*FILES, "--fused", "f.png", "f.nii")
    assert [method for method, _ in rows] == ["f.png", "f.nii"]
    _, rows = score(*folders, "x", "y")
    assert [method for method, _ in rows] == ["x/net", "y/net"]


def test_a_fused_picture_of_another_size_is_not_told_to_register(sources, tmp_path, capsys):
    save("f.png", FUSED[:20], tmp_path)
    assert main(["score", *FILES, "--fused", "f.png"]) == 2
    error = capsys.readouterr().err
    assert "crop or resize it" in error and "--register" not in error


def test_images_beside_folders_of_images_are_refused(folders, tmp_path, capsys):
    save("mix/one.png", FUSED, tmp_path)
    save("mix/lap/one.png", FUSED, tmp_path)
    assert main(["score", *folders, "mix"]) == 2
    assert "folders of images (lap)" in capsys.readouterr().err


def test_options_of_a_results_folder_are_refused_without_one(sources, tmp_path, capsys):
    save("f.png", FUSED, tmp_path)
    for option, value in (("--name", "net"), ("--jobs", "1")):
        assert main(["score", *FILES, "--fused", "f.png", option, value]) == 2
        assert option in capsys.readouterr().err


def test_a_reading_cannot_be_scored_from_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["score", "--mri", "a.nii", "--pet", "b.nii", "--fused", "f.nii", "--metrics", "psnr,outline"])
        == 2
    )
    assert "metric outline reads a second image" in capsys.readouterr().err


def test_scores_go_to_a_device_as_they_are_and_to_a_file_whole(sources, tmp_path, monkeypatch, capfd):
    save("f.png", FUSED, tmp_path)
    command = ["score", *FILES, "--fused", "f.png", "--metrics", "psnr", "--csv"]
    os.mkfifo("pipe")
    reader = subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True)
    assert main([*command, "pipe"]) == 0
    assert reader.communicate()[0].startswith("method,case,psnr")
    (tmp_path / "s.csv").write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fusebench.files.os.replace", full)
    assert main([*command, "s.csv"]) == 2
    assert (tmp_path / "s.csv").read_text() == "old"
    assert "s.csv: cannot be written (No space left on device)" in capfd.readouterr().err
