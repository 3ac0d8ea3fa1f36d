"""Pairs of the user's own files."""

import importlib
import pickle

import numpy as np
import pytest
from adni_trees import AFFINE, dicom_series, head, nifti, stub
from PIL import Image

import fusebench
from fusebench.errors import InputError

pairs = importlib.import_module("fusebench.datasets.pairs")


def picture(path, seed=0, colour=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (24, 30, 3) if colour else (24, 30)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def ids(dataset):
    return [s.id for s in dataset.sources()]


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("001_mri.nii.gz", "001"),
        ("sub-1_T1w.nii", "sub-1"),
        ("PET_7.png", "7"),
        ("a.b_FDG.tif", "a.b"),
        ("mri.nii", "mri"),
    ],
)
def test_identity(tmp_path, name, id_):
    assert pairs.identity(tmp_path / name) == id_


def test_two_folders_of_pictures(tmp_path):
    for i in range(3):
        picture(tmp_path / "MRI" / f"{i}.png", i)
        picture(tmp_path / "PET" / f"{i}.png", i + 9, colour=True)
    picture(tmp_path / "PET" / "9.png")
    for options in (
        {"mri_dir": tmp_path / "MRI", "pet_dir": tmp_path / "PET"},
        {"data_dir": tmp_path},
    ):
        dataset = fusebench.create_dataset("pairs", **options)
        assert ids(dataset) == ["0", "1", "2"]
        assert [x.reason for x in dataset.found[1]] == ["no MRI of this name"]
        pair = pickle.loads(pickle.dumps(dataset.cases()[0])).pair
        assert pair.a.shape == (1, 24, 30) and pair.b.chroma is not None


def test_flat_folder(tmp_path):
    for name in ("x_mri.nii.gz", "x_pet.nii.gz", "y_T1w.nii", "y_FDG.nii", "z_ct.nii"):
        stub(tmp_path / name)
    dataset = fusebench.create_dataset("pairs", data_dir=tmp_path)
    assert ids(dataset) == ["x", "y"]
    assert dataset.found[1][0].reason == "no PET of this name"


def test_csv_with_mask_group_and_faults(tmp_path):
    mri, pet = head(1)
    nifti(tmp_path / "img" / "a.nii.gz", mri)
    nifti(tmp_path / "img" / "b.nii.gz", pet)
    nifti(tmp_path / "m.nii.gz", (mri > 500).astype(np.uint8))
    (tmp_path / "pairs.csv").write_text(
        "id;mri;pet;mask;group\n"
        "one;img/a.nii.gz;img/b.nii.gz;m.nii.gz;S1\n"
        "two;img/a.nii.gz;img/absent.nii.gz;;S2\n"
        "one;img/a.nii.gz;img/b.nii.gz;;S3\n"
        "four;img/a.nii.gz;;;S4\n"
    )
    dataset = fusebench.create_dataset("pairs", data_dir=tmp_path)
    (case,) = dataset.cases()
    assert (case.id, case.group) == ("one", "S1")
    assert case.mask.sum() == (mri > 500).sum()
    reasons = [x.reason for x in dataset.found[1]]
    assert "no such file" in reasons[0] and "occurs twice" in reasons[1] and "empty" in reasons[2]


def test_csv_and_options_know_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("mri", "pet"):
        picture(tmp_path / folder / "a.png")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pairs.csv").write_text(
        "mri,pet,mask\n~/mri/a.png,~/pet/a.png,~/mri/a.png\n~x/a,~x/b,\n"
    )
    dataset = fusebench.create_dataset("pairs", csv="~/d/pairs.csv")
    assert [s.mri for s in dataset.sources()] == [tmp_path / "mri" / "a.png"]
    assert ids(fusebench.create_dataset("pairs", mri_dir="~/mri", pet_dir="~/pet")) == ["a"]
    assert ids(fusebench.create_dataset("pairs", mri="~/mri/a.png", pet="~/pet/a.png")) == ["a"]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "mri,pet\n"])
def test_bad_csv(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=r"p\.csv"):
        fusebench.create_dataset("pairs", csv=tmp_path / "p.csv").cases()


def test_one_pair_of_every_volume_format(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    mri, pet = head(1)
    source = nifti(tmp_path / "a_mri.nii.gz", mri)
    sitk.WriteImage(sitk.ReadImage(str(source)), str(tmp_path / "a.nrrd"))
    dicom_series(tmp_path / "pet_dicom", pet * 100, AFFINE, "PT", slopes=np.full(pet.shape[2], 0.01))
    first = fusebench.create_dataset("pairs", mri=source, pet=tmp_path / "pet_dicom").cases()[0]
    second = fusebench.create_dataset("pairs", mri=tmp_path / "a.nrrd", pet=tmp_path / "pet_dicom").cases()[0]
    assert np.array_equal(first.a.data, second.a.data)
    assert np.allclose(first.b.affine, first.a.affine, atol=1e-3)


def test_which_arguments(tmp_path):
    for options in ({}, {"mri": "x"}, {"mri_dir": "x"}, {"data_dir": tmp_path, "mri": "x", "pet": "y"}):
        with pytest.raises(InputError, match="pairs: give"):
            fusebench.create_dataset("pairs", **options)


def test_different_grids_are_refused_or_resampled(tmp_path):
    mri, pet = head(1)
    a = nifti(tmp_path / "a.nii.gz", mri)
    b = nifti(
        tmp_path / "b.nii.gz",
        pet[2:-2, 2:-2, 2:-2],
        AFFINE @ np.array([[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 0, 1]]),
    )
    with pytest.raises(InputError, match="--data-option recipe=default"):
        _ = fusebench.create_dataset("pairs", mri=a, pet=b).cases()[0].pair
    case = fusebench.create_dataset("pairs", mri=a, pet=b, recipe="native", register="never").cases()[0]
    assert case.a.shape == case.b.shape


def test_changed_file_changes_the_key(tmp_path):
    a, b = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    key = fusebench.create_dataset("pairs", mri=a, pet=b).cases()[0].fingerprint
    picture(b, 3)
    assert fusebench.create_dataset("pairs", mri=a, pet=b).cases()[0].fingerprint != key
    assert fusebench.create_dataset("pairs", mri=a, pet=b).describe()["cases"]["test"] == 1
