"""``prepare``: report, resume, faults, splits; on synthetic data of known content."""

import csv
import importlib

import numpy as np
import pytest

import fusebench
from fusebench.cli import main

from .adni_trees import N3M, PET_8MM, collection_csv, head, ida_path, nifti, stub

pytest.importorskip("SimpleITK")
pipeline = importlib.import_module("fusebench.datasets.preprocessing.pipeline")
SUBJECTS = ("002_S_0001", "002_S_0002", "016_S_4353")


@pytest.fixture
def adni(tmp_path, own_cache):
    root = tmp_path / "data"
    rows = []
    for i, subject in enumerate(SUBJECTS):
        mri, pet = head(10 + i)
        nifti(ida_path(root, subject, N3M, "2012-03-31", 10 * i + 1, suffix=".nii.gz"), mri)
        nifti(ida_path(root, subject, PET_8MM, "2012-03-31", 10 * i + 2, suffix=".nii.gz"), pet)
        rows.append((f"I{10 * i + 1}", subject, ("CN", "AD", "MCI")[i], "MRI", N3M, "3/31/2012"))
    collection_csv(root / "list_4_01_2013.csv", rows)
    stub(ida_path(root, "003_S_0009", PET_8MM, "2012-03-31", 99))
    return root


def prepare(root, out, *more):
    options = ["--data-option", "register=never", "--data-option", "recipe=native", "--jobs", "1"]
    return main(["prepare", "--dataset", "adni", "--data-dir", str(root), "--out", str(out), *options, *more])


def report(out):
    with (out / "report.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_report_only_lists_and_prepares_nothing(adni, tmp_path, capsys):
    assert prepare(adni, tmp_path / "out", "--report") == 0
    text = capsys.readouterr().out
    assert "layout ida; 3 pairs of 3 subjects; 1 left out" in text
    assert "no usable T1 MRI of this subject" in text
    rows = report(tmp_path / "out")
    assert [r["status"] for r in rows] == ["paired"] * 3 + ["left out"]
    assert {r["diagnosis"] for r in rows[:3]} == {"CN", "AD", "MCI"}
    assert not any(pipeline.is_prepared(c.fingerprint) for s in ("train", "test") for c in cases(adni, s))


def cases(root, split="all"):
    dataset = fusebench.create_dataset("adni", data_dir=root, register="never", recipe="native")
    try:
        return dataset.cases(split)
    except fusebench.errors.InputError:
        return []


def test_prepare_then_resume_without_redoing(adni, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert prepare(adni, out, "--cases", "1") == 0  # as if interrupted after the first
    assert prepare(adni, out) == 0
    rows = {r["case"]: r for r in report(out) if r["case"]}
    assert [rows[s]["status"] for s in SUBJECTS] == ["cached", "prepared", "prepared"]
    assert all((out / "quality" / f"{s}.png").stat().st_size > 10_000 for s in SUBJECTS)
    monkeypatch.setattr(pipeline, "prepare", None)  # would fail if it ran
    assert prepare(adni, out) == 0
    assert "3 cached" in capsys.readouterr().out
    with (out / "splits.csv").open() as handle:
        splits = {r["subject"]: r["split"] for r in csv.DictReader(handle)}
    assert splits["016_S_4353"] == "test"
    assert prepare(adni, out, "--report", "--data-option", f"split={out / 'splits.csv'}") == 0


def test_bad_case_is_a_row_and_exit_code_1(adni, tmp_path, capsys):
    bad = next(p for p in adni.rglob("*_I12.nii.gz"))
    bad.write_bytes(bad.read_bytes()[:-300])
    out = tmp_path / "out"
    assert prepare(adni, out, "--no-images") == 1
    rows = {r["case"]: r for r in report(out)}
    assert rows["002_S_0002"]["status"] == "error"
    assert "truncated" in rows["002_S_0002"]["reason"]
    assert rows["002_S_0001"]["status"] == rows["016_S_4353"]["status"] == "prepared"


def test_two_workers_give_the_same(adni, tmp_path, monkeypatch):
    assert prepare(adni, tmp_path / "one") == 0
    first = [c.loader() for c in cases(adni)]
    monkeypatch.setenv("FUSEBENCH_CACHE", str(tmp_path / "cache"))
    assert prepare(adni, tmp_path / "two", "--jobs", "2") == 0
    for case, pair in zip(cases(adni), first, strict=True):
        assert pipeline.is_prepared(case.fingerprint)
        assert np.array_equal(case.loader().b.data, pair.b.data)


def test_a_flagged_case_stays(tmp_path, capsys):
    mri, pet = head(1)
    root = tmp_path / "data"
    for subject in ("002_S_0001", "002_S_0002"):
        bad = subject == "002_S_0002"
        data = np.random.default_rng(0).random(pet.shape).astype(np.float32) if bad else pet
        nifti(ida_path(root, subject, N3M, "2012-03-31", 2 * int(subject[-1]) + 1), mri)
        nifti(ida_path(root, subject, PET_8MM, "2012-03-31", 2 * int(subject[-1]) + 2), data)
    out = tmp_path / "out"
    arguments = ["--dataset", "adni", "--data-dir", str(root), "--out", str(out), "--jobs", "1"]
    assert main(["prepare", *arguments, "--data-option", "recipe=native"]) == 0
    rows = {r["case"]: r for r in report(out)}
    assert rows["002_S_0001"]["flags"] == ""
    assert rows["002_S_0002"]["status"] == "prepared"
    assert "mutual information" in rows["002_S_0002"]["flags"]


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("pairs", "mri/ and pet/ with equal file names"),
        ("bids", "anat/*_T1w.nii.gz"),
        ("aanlib", "sibling folders MRI and PET"),
    ],
)
def test_an_empty_folder_is_an_error_that_names_the_layout(tmp_path, capsys, dataset, expected):
    folder = tmp_path / "my data"
    folder.mkdir()
    options = ["--dataset", dataset, "--data-dir", str(folder), "--out", str(tmp_path / "o")]
    for command in (["prepare", "--report"], ["run", "--methods", "average", "--jobs", "0"]):
        assert main([*command, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"run_bench.py: error: {folder}: no pair of MRI and PET")
        assert "was found; expected: " in line and expected in line


def test_where_files_are_left_out_the_command_that_lists_them_is_whole(tmp_path, capsys):
    (tmp_path / "a_mri.nii.gz").touch()
    folder = str(tmp_path)
    assert (
        main(["run", "--dataset", "pairs", "--data-dir", folder, "--methods", "average", "--jobs", "0"]) == 2
    )
    line = capsys.readouterr().err
    assert "no PET of this name" in line
    assert f"prepare --dataset pairs --data-dir {folder} --report` lists all" in line


def test_usage_errors(tmp_path, capsys):
    base = ["prepare", "--out", str(tmp_path / "o"), "--dataset"]
    for more in (
        ["adni"],
        ["adni", "--data-dir", str(tmp_path / "absent")],
        ["adni", "--data-dir", str(tmp_path), "--data-option", "nonsense=1"],
        ["adni", "--data-dir", str(tmp_path), "--data-option", "recipe"],
        ["absent"],
    ):
        assert main([*base, *more]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and "error:" in lines[0]


def test_all_splits_are_the_default_of_every_dataset(tmp_path, capsys):
    command = ["prepare", "--dataset", "phantom", "--data-option", "size=24", "--data-option", "subjects=2"]
    assert main([*command, "--no-images", "--jobs", "1", "--cases", "3", "--out", str(tmp_path)]) == 0
    assert [r["split"] for r in report(tmp_path)] == ["train"] * 2 + ["val"] * 2 + ["test"] * 2
    assert [r["status"] for r in report(tmp_path)] == ["ready"] * 3 + ["found"] * 3
    assert main([*command, "--split", "holdout", "--out", str(tmp_path)]) == 2
    assert "phantom has no split 'holdout'; it has train, val, test" in capsys.readouterr().err


def phantom(out):
    options = ["--data-option", "size=24", "--split", "test", "--cases", "1", "--out", str(out)]
    return main(["prepare", "--dataset", "phantom", *options])


@pytest.mark.parametrize("name", ["report.csv", "splits.csv", "quality/phantom-test-001.png"])
@pytest.mark.parametrize("linked", [False, True])
def test_files_that_prepare_did_not_make_are_left_alone(tmp_path, capsys, name, linked):
    out, thesis = tmp_path / "out", tmp_path / "thesis"
    (out / name).parent.mkdir(parents=True)
    thesis.write_text("mine")
    (out / name).symlink_to(thesis) if linked else (out / name).write_text("mine")
    assert phantom(out) == 2
    assert f"holds {name.partition('/')[0]}, not made by prepare" in capsys.readouterr().err
    assert (out / name).read_text() == thesis.read_text() == "mine"
    assert [p for p in out.rglob("*") if not p.is_dir()] == [out / name]


def test_prepare_again_replaces_its_own_and_follows_no_link(tmp_path, capsys):
    out, thesis = tmp_path / "out", tmp_path / "thesis"
    assert phantom(out) == 0
    first = (out / "report.csv").read_text()
    thesis.write_text("mine")
    (out / "report.csv").unlink()
    (out / "report.csv").symlink_to(thesis)
    assert phantom(out) == 0
    assert (
        thesis.read_text() == "mine"
        and (out / "report.csv").read_text().split(",")[:3] == first.split(",")[:3]
    )
    assert sorted(p.name for p in out.iterdir()) == [
        ".fusebench-prepare",
        "quality",
        "report.csv",
        "splits.csv",
    ]
    (out / "quality").rename(tmp_path / "elsewhere")
    (out / "quality").symlink_to(tmp_path / "elsewhere")
    assert phantom(out) == 2 and "quality is a link" in capsys.readouterr().err
