"""Pairs that are read without an error and look wrong: inverted, swapped, far apart, of an odd size."""

import csv
import importlib
import json

import numpy as np
import pytest
from PIL import Image as Picture

import fusebench
from fusebench.case import Pair, Volume
from fusebench.cli import main

from .adni_trees import nifti

looks = importlib.import_module("fusebench.datasets.preprocessing.looks")
grid = importlib.import_module("fusebench.datasets.preprocessing.grid")
quality = importlib.import_module("fusebench.datasets.preprocessing.quality")
NAMES = ("a/1_x.nii", "b/1_y.nii")


@pytest.fixture(scope="module")
def phantom():
    """MRI, PET and mask of a phantom; its affine."""
    case = fusebench.create_dataset("phantom", size=64).cases("test")[0]
    return case.a.data, case.b.data, case.mask, case.a.affine


def as_is(mri, pet, mask, affine, other=None, names=NAMES):
    other = affine if other is None else other
    return looks.doubts_as_is(grid.Image(mri, affine), grid.Image(pet, other), mask, names)


def shifted(affine, mm):
    moved = affine.copy()
    moved[0, 3] += mm
    return moved


def test_a_good_pair_raises_no_doubt(phantom):
    assert as_is(*phantom) == []
    mri, pet, mask, affine = phantom
    assert as_is(mri, pet, mask, affine, shifted(affine, 5)) == []


def test_each_doubt(phantom):
    mri, pet, mask, affine = phantom
    assert "inverted" in as_is(mri, 1 - pet, mask, affine)[0]
    assert "1_x.nii" in as_is(1 - mri, pet, mask, affine)[0]
    [swapped] = as_is(pet, mri, mask, affine)
    assert "swapped" in swapped and "sharper" in swapped
    assert "2.5 cm apart" in as_is(mri, pet, mask, affine, shifted(affine, 25))[0]
    assert "functional foreground" in as_is(mri, np.roll(pet, 32, 2), mask, affine)[0]
    small = affine @ np.diag([0.1, 0.1, 0.1, 1])
    assert "no head" in as_is(mri, pet, mask, small)[0]


def test_names_tell_too(phantom):
    mri, pet, mask, affine = phantom
    assert "by their names" in as_is(mri, pet, mask, affine, names=("p1_pet.nii", "p1_T1w.nii"))[0]
    assert not as_is(mri, pet, mask, affine, names=("p1_T1w.nii", "p1_pet.nii"))


def test_headers_that_lie_far_apart_on_grids_of_their_own(phantom):
    mri, pet, _, affine = phantom
    image, other = grid.Image(mri, affine), grid.Image(pet[:-4], shifted(affine, 120))
    assert "12 cm apart" in looks.doubts(image, other, NAMES)[0]


def test_an_inverted_picture():
    y, x = np.mgrid[:60, :50]
    head = (np.hypot(y - 30, x - 25) < 18).astype(np.float32)
    assert looks.inverted((1 - head)[None]) and not looks.inverted(head[None])


def test_before_is_where_the_header_put_it(phantom):
    """A PET that was moved by a known matrix comes back to where it was."""
    mri, pet, mask, affine = phantom
    to_pet = grid.rigid_matrix((0, 0, 0), (7.0, 0, 0))
    header = grid.resample(grid.Image(pet, affine), pet.shape, affine, to_image=np.linalg.inv(to_pet))
    pair = Pair(Volume(mri, affine), Volume(pet, affine), mask)
    assert np.allclose(quality.before(pair, to_pet), header)
    assert not np.allclose(header, pet, atol=0.1)


@pytest.fixture
def folder(tmp_path, monkeypatch, phantom):
    """Two pairs, the PET of the second inverted."""
    monkeypatch.setenv("FUSEBENCH_CACHE", str(tmp_path / "cache"))
    mri, pet, _, affine = phantom
    for name, data in (("ok_mri", mri), ("ok_pet", pet), ("bad_mri", mri), ("bad_pet", 1 - pet)):
        nifti(tmp_path / "d" / f"{name}.nii", (data.transpose(2, 1, 0) * 1000).astype(np.int16), affine)
    return tmp_path


def test_doubts_reach_the_report_the_board_and_the_manifest(folder, capsys):
    options = ["--dataset", "pairs", "--data-dir", str(folder / "d")]
    assert main(["prepare", *options, "--jobs", "1", "--no-images", "--out", str(folder / "p")]) == 0
    with (folder / "p/report.csv").open(newline="") as handle:
        flags = {row["case"]: row["flags"] for row in csv.DictReader(handle)}
    assert "inverted" in flags["bad"] and not flags["ok"]
    run = ["--methods", "average", "--metrics", "psnr", "--jobs", "0", "--out", str(folder / "r")]
    for _ in range(2):  # the second has nothing left to do
        assert main(["run", *options, *run]) == 0
        [doubt] = json.loads((folder / "r/manifest.json").read_text())["dataset"]["doubts"]
        assert "1 of 2 cases" in doubt and "bad: bad_pet.nii" in doubt and "inverted" in doubt
        assert doubt[:20] in (folder / "r/leaderboard.md").read_text()
        assert "looks inverted" in " ".join(capsys.readouterr().out.split())


def test_the_quality_picture_has_before_and_after(phantom, tmp_path):
    mri, pet, mask, affine = phantom
    pair = Pair(Volume(mri, affine), Volume(pet, affine), mask)
    quality.quality_png(pair, tmp_path / "one.png", "t")
    quality.quality_png(pair, tmp_path / "two.png", "t", grid.rigid_matrix((0, 0, 0), (7.0, 0, 0)))
    one, two = (Picture.open(tmp_path / f"{n}.png").size for n in ("one", "two"))
    assert two[0] == pytest.approx(1.5 * one[0], rel=0.01) and two[1] == one[1]
