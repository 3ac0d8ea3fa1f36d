"""Pairs of the user's own files."""

import dataclasses
import importlib
import json
import os
import pickle
import time
import unicodedata

import numpy as np
import pytest

import fusebench
from fusebench.cli import main
from fusebench.errors import InputError

from ..saving import save_picture
from .adni_trees import AFFINE, dicom_series, head, nifti, stub

pairs = importlib.import_module("fusebench.datasets.pairs")
base = importlib.import_module("fusebench.datasets.preprocessing.base")


def picture(path, seed=0, colour=False):
    shape = (24, 30, 3) if colour else (24, 30)
    return save_picture(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


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
    for name in ("x_mri.nii.gz", "x_pet.nii.gz", "y_T1w.nii", "y_FDG.nii", "z_ct.nii", "avg152T1.nii"):
        stub(tmp_path / name)
    dataset = fusebench.create_dataset("pairs", data_dir=tmp_path)
    assert ids(dataset) == ["x", "y"]
    reasons = ["no PET of this name", "neither mri nor pet is a word of its name"]
    assert [x.reason for x in dataset.found[1]] == reasons


def test_a_folder_a_subject(tmp_path):
    for name in ("anat/s_T1w.png", "pet/s_trc-18FFDG_pet.png"):
        picture(tmp_path / "sub-1" / name)
    for name in ("t1.png", "pet.png"):
        picture(tmp_path / "sub-2" / name)
    for name in ("mri.png", "pet_1.png", "pet_2.png"):
        picture(tmp_path / "sub-3" / name)
    (tmp_path / "notes").mkdir()
    dataset = fusebench.create_dataset("pairs", data_dir=tmp_path)
    assert ids(dataset) == ["sub-1", "sub-2"]
    assert [s.pet.name for s in dataset.sources()] == ["s_trc-18FFDG_pet.png", "pet.png"]
    ((subject, _, reason),) = (dataclasses.astuple(x)[:3] for x in dataset.found[1])
    assert subject == "sub-3" and reason.startswith("1 structural and 2 functional images")


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


def test_a_cell_keeps_separators_that_end_no_row(tmp_path):
    path = tmp_path / "l.csv"
    text = 'subject,split\r\nS\u20281,train\rS\x0c2,test\n"S\n\n3",val\n'
    path.write_bytes(text.encode())
    assert base.read_splits(path) == {"S\u20281": "train", "S\x0c2": "test", "S\n\n3": "val"}


def test_a_run_says_what_was_left_out(tmp_path, capsys):
    data = tmp_path / "data"
    for i in range(3):
        picture(data / f"{i}_mri.png", i)
        picture(data / f"{i}_pet.png", i + 9)
    (data / "2_pet.png").unlink()
    command = ["--dataset", "pairs", "--data-dir", str(data), "--methods", "average", "--metrics", "psnr"]
    assert main([*command, "--jobs", "0", "--out", str(tmp_path / "run")]) == 0
    line = f"1 left out ({data / '2_mri.png'}: no PET of this name)"
    text = capsys.readouterr().out
    assert line in text and f"`prepare --dataset pairs --data-dir {data} --report`" in text
    assert line in json.loads((tmp_path / "run" / "manifest.json").read_text())["dataset"]["left_out"]
    assert "1 left out" in (tmp_path / "run" / "leaderboard.md").read_text()
    picture(tmp_path / "theirs" / "0.png")
    picture(tmp_path / "theirs" / "1.png")
    command = ["score", "--results-dir", str(tmp_path / "theirs"), *command[:4], "--metrics", "psnr"]
    assert main([*command, "--jobs", "0", "--out", str(tmp_path / "run")]) == 0
    assert line in capsys.readouterr().out


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


@pytest.mark.parametrize("text", ["", "\n \n", "a,b\n1,2\n", "mri,pet\n"])
def test_bad_csv(tmp_path, text):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(InputError, match=r"p\.csv.*give a CSV \(UTF-8\) with the columns mri and pet"):
        fusebench.create_dataset("pairs", csv=tmp_path / "p.csv").cases()


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffID,MRI,PET\r\none,a b.png,ü.png\r\n",
        '"id";"mri";"pet"\r\n"one";"a b.png";"ü.png"\r\n',
        "id\tmri\tpet\none\ta b.png\tü.png\n",
        "\n\nid, mri, pet\n\none, a b.png, ü.png, more, cells\n\n",
        "id,mri,pet\rone,a b.png,ü.png\r",
    ],
)
def test_csv_of_any_program(tmp_path, text):
    a, b = picture(tmp_path / "a b.png", 1), picture(tmp_path / "ü.png", 2)
    (tmp_path / "p.csv").write_bytes(text.encode())
    (source,) = fusebench.create_dataset("pairs", csv=tmp_path / "p.csv").sources()
    assert (source.id, source.mri, source.pet) == ("one", a, b)


def test_csv_in_another_encoding_and_the_line_of_a_fault(tmp_path):
    (tmp_path / "p.csv").write_bytes("mri,pet\nü.png,b.png\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"UnicodeDecodeError.*UTF-8"):
        fusebench.create_dataset("pairs", csv=tmp_path / "p.csv").cases()
    (tmp_path / "p.csv").write_text("\nmri,pet\n\nabsent.png,b.png\n")
    assert fusebench.create_dataset("pairs", csv=tmp_path / "p.csv").found[1][0].path == "p.csv line 4"


def test_names_of_another_system(tmp_path, monkeypatch):
    """Accents as macOS stores them, its ._ files, extensions in capitals; a path from the home folder."""
    for folder, form, seed in (("mri", "NFD", 1), ("pet", "NFC", 2)):
        picture(tmp_path / folder / unicodedata.normalize(form, "é 1.PNG"), seed)
        stub(tmp_path / folder / "._2.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    for options in ({"data_dir": tmp_path}, {"mri_dir": "~/mri", "pet_dir": "~/pet"}):
        (case,) = fusebench.create_dataset("pairs", **options).cases()
        assert case.id == "é 1" and case.pair.a.shape == (1, 24, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Subject;Split\n1;train\n2;test\n3;val\n2;test\n", None),
        ("subject,split\n1,train\n2,test\n1,val\n", "line 4: 1 is in train and in val"),
        ("subject,split\n1,training\n", "line 2: 'training' is not one of train, val, test"),
        ("subject\n1\n", "columns subject and split; or give hash, stratified or all-test"),
    ],
)
def test_published_splits(tmp_path, text, message):
    for name in ("mri/1.png", "pet/1.png", "mri/2.png", "pet/2.png"):
        picture(tmp_path / name)
    (tmp_path / "s.csv").write_text(text)
    dataset = fusebench.create_dataset("pairs", data_dir=tmp_path, split=str(tmp_path / "s.csv"))
    if message is None:
        assert [c.id for c in dataset.cases("test")] == ["2"]
    else:
        with pytest.raises(InputError, match=message):
            dataset.cases("test")


@pytest.mark.parametrize("id_", ["../../../../escaped", "/tmp/abs", "p1/scan2", "..", "a\\\\b"])
def test_an_id_that_leaves_its_folder_is_refused_with_its_line(tmp_path, id_):
    mri, pet = picture(tmp_path / "a.png", 1), picture(tmp_path / "b.png", 2)
    (tmp_path / "pairs.csv").write_text(f"id,mri,pet\nscan ä 1,a.png,b.png\n{id_},a.png,b.png\n")
    with pytest.raises(InputError, match=r"pairs\.csv, line 3: the id .* cannot name a file"):
        fusebench.create_dataset("pairs", data_dir=tmp_path).cases()
    case = fusebench.create_dataset("pairs", mri=mri, pet=pet).cases()[0]
    with pytest.raises(InputError, match="cannot name a file"):
        dataclasses.replace(case, id=id_)
    assert dataclasses.replace(case, id="scan ä 1").id == "scan ä 1"


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
    assert fusebench.create_dataset("pairs", mri=a, pet=b).count_cases()["cases"]["test"] == 1


# -- tables and folders as people have them --------------------------------------------------------


def read(folder, text, encoding="utf-8"):
    """Pairs of a CSV with this text."""
    (folder / "p.csv").write_bytes(text.encode(encoding))
    return pairs.read_csv(folder / "p.csv")


@pytest.fixture
def two(tmp_path):
    """A pair in sub-folders."""
    picture(tmp_path / "mri" / "p1.png", 1)
    picture(tmp_path / "pet" / "p1.png", 2)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "mri,pet\r\nmri\\p1.png,pet\\p1.png\r\n",
        "mri,pet\n.\\mri\\p1.png,.\\pet\\p1.png\n",
        "sep=;\nmri;pet\nmri/p1.png;pet/p1.png\n",
        "\ufeffMRI , PET\nmri/p1.png , pet/p1.png\n",
        'mri\tpet\n"mri/p1.png"\tpet/p1.png\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_of_other_programs(two, text, encoding):
    found, left_out = read(two, text, encoding)
    assert [(p.id, p.mri, p.pet) for p in found] == [("p1", two / "mri/p1.png", two / "pet/p1.png")]
    assert not left_out


def test_a_path_that_is_nowhere_is_said_as_it_was_written(two):
    [found] = read(two, "mri,pet\nC:\\data\\p1.png,pet\\p1.png\n")[1]
    assert "no such file" in found.reason and "p1.png" in found.reason
    [found] = read(two, "id,mri,pet\na," + "x" * 5000 + ",pet/p1.png\n")[1]
    assert "no such file" in found.reason


@pytest.mark.parametrize("head", ["mri,pet,pet", "mri,pet,PET ", "mri,mri,pet", "mri,pet,mask,id,id"])
def test_a_column_twice_is_refused(two, head):
    with pytest.raises(InputError, match="twice"):
        read(two, head + "\n" + ",".join(["mri/p1.png"] * 5) + "\n")


def test_accents_in_a_table_as_the_disk_has_them(tmp_path):
    for name in ("mri", "pet"):
        picture(tmp_path / unicodedata.normalize("NFD", f"é_{name}.png"))
    found, left_out = read(tmp_path, "mri,pet\né_mri.png,é_pet.png\n")
    assert len(found) == 1 and not left_out


def test_a_folder_per_subject_stands_for_its_image(tmp_path):
    for name in ("mri/s1/t1.png", "pet/s1/fdg.png", "mri/s2/t1.png", "pet/s2/a.png", "pet/s2/b.png"):
        picture(tmp_path / name)
    found, left_out = pairs.match_folders(tmp_path / "mri", tmp_path / "pet")
    assert [(p.id, p.mri.name, p.pet.name) for p in found] == [("s1", "t1.png", "fdg.png")]
    assert any("2 images, a.png first" in x.reason for x in left_out)


def test_names_that_are_not_utf_8(tmp_path):
    import os

    for kind in (b"mri", b"pet"):
        place = os.fsencode(picture(tmp_path / f"{kind.decode()}.png"))
        os.rename(place, os.fsencode(tmp_path) + b"/p\xe41_" + kind + b".png")
    dataset = fusebench.create_dataset("pairs", data_dir=tmp_path)
    assert (
        not dataset.found[0]
        and "not UTF-8" in dataset.left_out()[0]
        and "\\xe41_mri" in dataset.left_out()[0]
    )
    assert main(["prepare", "--dataset", "pairs", "--data-dir", str(tmp_path), "--report", "--out",
                 str(tmp_path / "r")]) == 0  # fmt: skip
    assert "\\udce4" in (tmp_path / "r/report.csv").read_text()


@pytest.mark.parametrize("rows", [1, 20_000])
def test_a_table_of_very_many_columns_takes_no_time(tmp_path, rows):
    """Short rows below many names: each would otherwise get a cell for every name."""
    names = ",".join(f"c{i}" for i in range(100_000))
    (tmp_path / "pairs.csv").write_text(f"mri,pet,{names}\n" + "a.nii,b.nii\n" * rows)
    begin = time.process_time()
    found, left_out = pairs.read_csv(tmp_path / "pairs.csv")
    assert not found and len(left_out) == rows
    assert time.process_time() - begin < 5


def test_a_pipe_in_place_of_a_table_is_a_line(tmp_path):
    os.mkfifo(tmp_path / "pairs.csv")
    with pytest.raises(InputError, match="cannot be read \\(is a folder, a pipe or a device, and no file\\)"):
        pairs.read_csv(tmp_path / "pairs.csv")
