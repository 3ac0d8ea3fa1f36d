"""`score --results-dir`: images of foreign programs score as the same arrays do in memory."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fusebench import create_dataset
from fusebench.cli import main
from fusebench.scoring.evaluate import evaluate
from fusebench.scoring.select import ranking_set

from ...saving import save_volume

OPTIONS = ["--data-option", "size=24", "--cases", "2", "--jobs", "0"]


@pytest.fixture
def cases():
    return create_dataset("phantom", size=24).cases("test")[:2]


def save(case, data, path):
    save_volume(path, data, case.a.affine)


def mean(case):
    return ((case.a.data + case.b.data) / 2).astype(np.float32)


def rows_of(folder):
    return pd.read_csv(folder / "rows.csv").set_index(["method", "case", "metric"])


def test_files_score_as_arrays_in_memory(cases, tmp_path):
    for case in cases:
        save(case, mean(case), tmp_path / "theirs" / "net" / f"{case.id}.nii.gz")
    out = tmp_path / "run"
    command = ["score", "--results-dir", str(tmp_path / "theirs"), *OPTIONS, "--out", str(out)]
    assert main([*command, "--jobs", "1"]) == 0
    rows = rows_of(out)
    for case in cases:
        expected = evaluate(
            case.a.data, case.b.data, mean(case), ranking_set(), mask=case.mask, spacing=case.a.spacing
        )
        for metric, value in expected.items():
            assert rows.loc[("net", case.id, metric), "value"] == pytest.approx(value, abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("protocol", ["volume", "slices", "paper"])
def test_score_of_saved_images_is_that_of_their_run(protocol, cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["--protocol", protocol, *([] if protocol == "paper" else ["--metrics", "psnr,ssim,qabf"])]
    command = ["run", "--methods", "max", *asked]
    assert main([*command, "--save-fused", *OPTIONS, "--cases", "1", "--out", "run"]) == 0
    folder = tmp_path / "run" / "fused" / "phantom" / cases[0].id
    save(cases[0], cases[0].mask.astype(np.uint8), tmp_path / "mask.nii")
    images = ["--mri", f"{folder}/sources/mri.nii.gz", "--pet", f"{folder}/sources/pet.nii.gz"]
    images += ["--fused", f"{folder}/max.nii.gz", "--mask", "mask.nii"]
    assert main(["score", *images, *asked, "--csv", "scores.csv"]) == 0
    scores = pd.read_csv("scores.csv").loc[0].drop(["method", "case"])
    rows = pd.read_csv("run/rows.csv").set_index("metric")["value"]
    assert set(scores.index) == set(rows.index) and len(rows) > 2
    assert scores.to_dict() == pytest.approx(rows.to_dict(), rel=1e-6)


def test_entry_joins_the_board_of_a_run_marked(cases, tmp_path):
    out = tmp_path / "run"
    assert main(["run", "--methods", "average,max", *OPTIONS, "--out", str(out)]) == 0
    for case in cases:
        save(case, mean(case), tmp_path / "theirs" / f"{case.id}.nii")
    command = [
        "score",
        "--results-dir",
        str(tmp_path / "theirs"),
        "--name",
        "net",
        *OPTIONS,
        "--out",
        str(out),
    ]
    assert main(command) == 0
    rows = rows_of(out)
    for case in cases:
        assert rows.loc[("net", case.id, "psnr"), "value"] == pytest.approx(
            rows.loc[("average", case.id, "psnr"), "value"], abs=1e-9
        )
    text = (out / "leaderboard.md").read_text()
    assert "net (files)" in text
    assert "scored from image files" in text
    assert "average (2D)" not in text
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["methods"]) == {"average", "max", "net"}
    [(run, how)] = manifest["earlier"].items()
    assert set(rows.xs("average")["run"]) == {run} == {how["run"]["id"]}
    assert (how["options"]["timeout"], manifest["options"]["timeout"]) == (900, 900)
    skipped = rows[(rows.index.get_level_values("method") == "net") & (rows["status"] == "skip")]
    assert "needs the method itself, not only its images" in set(skipped["reason"])


def test_resume_scores_changed_files_only(cases, tmp_path):
    folder, out = tmp_path / "theirs", tmp_path / "run"
    for case in cases:
        save(case, mean(case), folder / f"{case.id}.nii")
    command = ["score", "--results-dir", str(folder), "--metrics", "psnr,ssim", *OPTIONS, "--out", str(out)]
    assert main(command) == 0
    assert main(command) == 0
    lines = (out / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 4
    save(cases[0], cases[0].a.data, folder / f"{cases[0].id}.nii")
    assert main(command) == 0
    assert len((out / "rows.jsonl").read_text().splitlines()) == 6


def test_a_missing_or_wrong_image_is_a_row_with_the_reason(cases, tmp_path, capsys):
    folder, out = tmp_path / "theirs", tmp_path / "run"
    save(cases[0], mean(cases[0])[:, :-1], folder / f"{cases[0].id}.nii")
    command = ["score", "--results-dir", str(folder), "--metrics", "psnr", *OPTIONS, "--out", str(out)]
    assert main(command) == 1
    rows = rows_of(out)
    assert set(rows["status"]) == {"error"}
    assert rows["value"].isna().all()
    reason = rows.loc[("theirs", cases[0].id, "psnr"), "reason"]
    assert "shape" in reason and "resample it to that grid" in reason
    assert "no image of this case" in rows.loc[("theirs", cases[1].id, "psnr"), "reason"]


def test_an_entry_without_any_image_is_rows_with_the_reason(cases, tmp_path):
    folder, out = tmp_path / "theirs", tmp_path / "run"
    save(cases[0], mean(cases[0]), folder / "net" / f"{cases[0].id}.nii")
    (folder / "lost").mkdir()
    np.save(folder / "lost" / f"{cases[0].id}.npy", mean(cases[0]))
    (folder / ".hidden").mkdir()
    command = ["score", "--results-dir", str(folder), "--metrics", "psnr", *OPTIONS, "--out", str(out)]
    assert main([*command, "--cases", "1"]) == 1
    rows = rows_of(out)
    assert set(rows.index.get_level_values("method")) == {"net", "lost"}
    assert "no image of this case" in rows.loc[("lost", cases[0].id, "psnr"), "reason"]


@pytest.fixture
def pictures(tmp_path):
    """A data set of 2D pairs, and 8-bit fused arrays."""
    rng = np.random.default_rng(0)
    fused = {}
    for name in ("p1", "p2"):
        images = {m: rng.integers(0, 256, (40, 50), np.uint8) for m in ("mri", "pet")}
        for folder, image in images.items():
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "data" / folder / f"{name}.png")
        fused[name] = (
            images["mri"],
            images["pet"],
            ((images["mri"] // 2) + images["pet"] // 2).astype(np.uint8),
        )
    return tmp_path / "data", fused


@pytest.mark.parametrize("kind", ["png8", "png16", "tif8", "tif-float"])
def test_pictures_of_every_depth(pictures, tmp_path, kind):
    data, triples = pictures
    folder = tmp_path / "theirs" / "net"
    folder.mkdir(parents=True)
    for name, (_, _, fused) in triples.items():
        if kind == "png16":  # 257 k / 65535 = k / 255
            Image.fromarray(fused.astype(np.uint16) * 257).save(folder / f"{name}.png")
        elif kind == "tif-float":
            Image.fromarray(fused.astype(np.float32) / np.float32(255)).save(folder / f"{name}.tif")
        else:
            Image.fromarray(fused).save(folder / f"{name}.{kind[:3]}")
    out = tmp_path / "run"
    command = ["score", "--results-dir", str(tmp_path / "theirs"), "--dataset", "pairs", "--jobs", "0"]
    command += ["--data-dir", str(data)]
    assert main([*command, "--metrics", "psnr,ssim,mi,qabf", "--protocol", "slices", "--out", str(out)]) == 0
    rows = rows_of(out)
    for name, images in triples.items():
        for metric, value in evaluate(*images, ["psnr", "ssim", "mi", "qabf"]).items():
            assert rows.loc[("net", name, metric), "value"] == pytest.approx(value, abs=1e-9)


def test_a_picture_fused_by_a_run_scores_the_same_from_its_volume(pictures, tmp_path):
    data, triples = pictures
    options = ["--dataset", "pairs", "--data-dir", str(data), "--metrics", "psnr", "--jobs", "0"]
    options += ["--out", str(tmp_path / "run")]
    assert main(["run", "--methods", "source-mri", *options, "--save-fused"]) == 0
    for name in triples:
        stored = next((tmp_path / "run" / "fused").rglob(f"{name}/source-mri.nii.gz"))
        (tmp_path / "theirs").mkdir(exist_ok=True)
        (tmp_path / "theirs" / f"{name}.nii.gz").write_bytes(stored.read_bytes())
    assert main(["score", "--results-dir", str(tmp_path / "theirs"), *options]) == 0
    rows = rows_of(tmp_path / "run")["value"].unstack("method")
    assert rows["theirs"].to_numpy() == pytest.approx(rows["source-mri"].to_numpy(), abs=1e-6)


def test_an_unknown_range_must_be_told(cases, tmp_path):
    folder, out = tmp_path / "theirs", tmp_path / "run"
    for case in cases:
        save(case, mean(case) * 200, folder / f"{case.id}.nii")
    command = ["score", "--results-dir", str(folder), "--metrics", "psnr", *OPTIONS, "--out", str(out)]
    assert main(command) == 1
    assert "--fused-range 0 255" in rows_of(out).iloc[0]["reason"]
    assert main([*command, "--fused-range", "0", "200"]) == 0
    case = cases[0]
    expected = evaluate(case.a.data, case.b.data, mean(case), ["psnr"], mask=case.mask)["psnr"]
    assert rows_of(out).loc[("theirs", case.id, "psnr"), "value"] == pytest.approx(expected, abs=1e-4)


def test_other_pictures_beside_the_entries_are_passed_over(cases, tmp_path):
    folder, out = tmp_path / "theirs", tmp_path / "run"
    for case in cases:
        for name in (case.id, f"._{case.id}", "overview"):
            save(case, mean(case), folder / "net" / f"{name}.nii.gz")
        save(case, mean(case), folder / ".cache" / f"{case.id}.nii.gz")
    for name in ("overview.png", "overview.tif", "._overview.png"):
        (folder / name).write_bytes(b"")
    command = ["score", "--results-dir", str(folder), "--metrics", "psnr", *OPTIONS, "--out", str(out)]
    assert main(command) == 0
    assert set(pd.read_csv(out / "rows.csv")["method"]) == {"net"}


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([], [], "no image is named after a case"),
        (["other.nii"], [], "found other.nii, the cases are phantom-test-001"),
        (["phantom-test-001.nii", "phantom-test-001.png"], [], "keep one of them"),
        (["average/phantom-test-001.nii"], [], "a method is called 'average' as well"),
        (["phantom-test-001.nii"], ["--mri", "x.nii"], "leave out --mri"),
        (["phantom-test-001.nii"], ["--name", "../net"], "--name '../net': cannot name a file"),
        (["phantom-test-001.nii"], ["--dataset", "pairs"], "data"),
    ],
)
def test_unusable_folders_end_in_one_line(files, options, message, tmp_path, capsys):
    for file in files:
        (tmp_path / "theirs" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "theirs" / file).touch()
    (tmp_path / "theirs").mkdir(exist_ok=True)
    command = ["score", "--results-dir", str(tmp_path / "theirs"), "--out", str(tmp_path / "run"), *options]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_voxels_beside_a_header_are_scored_anew(cases, tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    itkio = pytest.importorskip("fusebench.images.dicom_itk")
    folder, out = tmp_path / "theirs", tmp_path / "run"
    folder.mkdir()
    image = folder / f"{cases[0].id}.mhd"
    sitk.WriteImage(itkio.to_itk(mean(cases[0]), cases[0].a.affine), str(image))
    command = ["score", "--results-dir", str(folder), "--metrics", "psnr", *OPTIONS, "--out", str(out)]
    command += ["--cases", "1", "--name", "net"]
    assert main(command) == 0
    before = rows_of(out)["value"]
    image.with_suffix(".raw").write_bytes(cases[0].a.data.astype(np.float32).tobytes())
    assert main(command) == 0
    assert rows_of(out)["value"].item() != before.item()
