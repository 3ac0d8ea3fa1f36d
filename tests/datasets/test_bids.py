"""BIDS datasets: sessions, tracers, reconstructions, dynamic PET."""

import importlib
import json

import numpy as np
import pytest

import fusebench
from fusebench.errors import InputError

from .adni_trees import head, nifti, stub

bids = importlib.import_module("fusebench.datasets.bids")


def make(root, *names):
    for name in names:
        subject = name.split("_")[0]
        session = next((p for p in name.split("_") if p.startswith("ses-")), "")
        stub(root / subject / session / ("anat" if "T1w" in name else "pet") / name)
    return fusebench.create_dataset("bids", data_dir=root)


def pairs(dataset):
    return [(s.id, s.mri.name, s.pet.name) for s in dataset.sources()]


def test_subject_level_anat_for_a_pet_session(tmp_path):
    dataset = make(tmp_path, "sub-01_T1w.nii.gz", "sub-01_ses-01_trc-PS13_pet.nii.gz")
    assert pairs(dataset) == [("sub-01", "sub-01_T1w.nii.gz", "sub-01_ses-01_trc-PS13_pet.nii.gz")]


def test_same_session_before_another_and_plain_before_variants(tmp_path):
    dataset = make(
        tmp_path,
        "sub-01_ses-a_T1w.nii.gz",
        "sub-01_ses-b_acq-x_T1w.nii.gz",
        "sub-01_ses-b_run-1_T1w.nii.gz",
        "sub-01_ses-b_run-2_T1w.nii.gz",
        "sub-01_ses-b_trc-18FFDG_pet.nii",
    )
    assert pairs(dataset)[0][1] == "sub-01_ses-b_run-1_T1w.nii.gz"


def test_another_session_is_said(tmp_path):
    dataset = make(tmp_path, "sub-01_ses-a_T1w.nii.gz", "sub-01_ses-b_pet.nii.gz")
    assert dataset.sources()[0].meta["mri_session"] == "a"


@pytest.mark.parametrize(
    ("sessions", "pet", "wanted"),
    [
        (["M00", "M12", "M18", "M36"], "M24", "M18"),
        (["M12", "M36"], "M24", "M12"),
        (["M006", "M012", "M120"], "M108", "M120"),
        (["2", "10"], "9", "10"),
        (["baseline", "10", "9"], "11", "10"),
        (["late", "early"], "M24", "early"),
        (["10", "2"], "baseline", "2"),
    ],
)
def test_nearest_other_session(tmp_path, sessions, pet, wanted):
    names = [f"sub-01_ses-{s}_T1w.nii" for s in sessions]
    dataset = make(tmp_path, *names, f"sub-01_ses-{pet}_pet.nii")
    assert dataset.sources()[0].meta["mri_session"] == wanted


def test_sessions_and_runs_in_natural_order(tmp_path):
    names = [
        f"sub-01_ses-{s}_run-{r}_{kind}.nii" for s in (10, 2) for r in (10, 2) for kind in ("T1w", "pet")
    ]
    dataset = make(tmp_path, *names)
    assert pairs(dataset) == [("sub-01", "sub-01_ses-2_run-2_T1w.nii", "sub-01_ses-2_run-2_pet.nii")]
    every = fusebench.create_dataset("bids", data_dir=tmp_path, visits="all")
    assert [p[0] for p in pairs(every)] == ["sub-01_ses-2", "sub-01_ses-10"]
    with pytest.raises(InputError, match="visits='last' is not first or all"):
        fusebench.create_dataset("bids", data_dir=tmp_path, visits="last")


def test_names_in_capitals_hidden_files_and_dead_links(tmp_path):
    dataset = make(tmp_path, "sub-01_T1w.NII.GZ", "sub-01_pet.NII", "sub-02_T1w.nii", "._sub-02_pet.nii")
    stub(tmp_path / "sub-01" / "pet" / "sub-01_pet.json", b'{"FrameDuration": [1, 2]}')
    (tmp_path / "sub-02" / "pet").mkdir()
    (tmp_path / "sub-02" / "pet" / "sub-02_pet.nii").symlink_to("../.git/annex/objects/x")
    assert pairs(dataset) == [("sub-01", "sub-01_T1w.NII.GZ", "sub-01_pet.NII")]
    assert "link that leads nowhere" in dataset.found[1][0].reason
    pipeline = importlib.import_module("fusebench.datasets.preprocessing.pipeline")
    assert pipeline._sidecar(dataset.sources()[0].pet).is_file()


def test_every_file_left_out_is_listed(tmp_path):
    names = (
        "sub-01_T1w.nii",
        "sub-01_T1w.nii.gz",
        "sub-01_acq-x_T1w.nii",
        "sub-01_pet.nii",
        "sub-01_pet.nii.gz",
    )
    dataset = make(tmp_path, *names)
    assert len(dataset.sources()) == 1 and len(dataset.found[1]) == 3


def test_reconstructions_and_tracers(tmp_path):
    names = ["sub-01_T1w.nii.gz"]
    names += [f"sub-01_trc-18FFDG_rec-{r}_pet.nii.gz" for r in ("acdyn", "acstat", "nacstat")]
    dataset = make(tmp_path, *names)
    assert "acstat" in pairs(dataset)[0][2]
    reasons = [x.reason for x in dataset.found[1]]
    assert any("not attenuation corrected" in r for r in reasons)
    assert any("same session was chosen" in r for r in reasons)
    other = fusebench.create_dataset("bids", data_dir=tmp_path, tracer="18FAV45")
    with pytest.raises(InputError, match="no MRI-PET pair"):
        other.cases()


def test_partners_missing_and_visits(tmp_path):
    make(tmp_path, "sub-01_T1w.nii.gz", "sub-02_pet.nii.gz", "sub-03_T1w.nii.gz")
    dataset = make(tmp_path, "sub-03_ses-1_pet.nii.gz", "sub-03_ses-2_pet.nii.gz")
    assert [p[0] for p in pairs(dataset)] == ["sub-03"]
    reasons = {x.group: x.reason for x in dataset.found[1]}
    assert reasons["01"] == "no PET of this subject"
    assert reasons["02"] == "no T1w of this subject"
    assert "later session" in reasons["03"]
    every = fusebench.create_dataset("bids", data_dir=tmp_path, visits="all")
    assert [p[0] for p in pairs(every)] == ["sub-03_ses-1", "sub-03_ses-2"]


def test_participants_give_the_diagnosis(tmp_path):
    (tmp_path / "participants.tsv").write_text("participant_id\tgroup\nsub-01\tAD\nsub-02\tn/a\n")
    dataset = make(tmp_path, "sub-01_T1w.nii.gz", "sub-01_pet.nii.gz")
    assert dataset.sources()[0].meta["diagnosis"] == "AD"


def test_dynamic_pet_is_weighted_by_frame_duration(tmp_path):
    mri, pet = head(4)
    nifti(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", mri)
    path = nifti(tmp_path / "sub-01" / "pet" / "sub-01_pet.nii.gz", np.stack([pet, 4 * pet], -1))
    options = {"data_dir": tmp_path, "recipe": "native", "register": "never"}
    plain = fusebench.create_dataset("bids", **options).cases()[0].pair.b
    assert plain.intensity[1] == pytest.approx(2.5 * np.percentile(pet, 99.9), rel=0.01)
    (path.parent / "sub-01_pet.json").write_text(json.dumps({"FrameDuration": [300, 100]}))
    pipeline = importlib.import_module("fusebench.datasets.preprocessing.pipeline")
    state = pipeline.prepare(
        fusebench.create_dataset("bids", **options).sources()[0], "native", {"register": "never"}
    )
    assert state.intensity[1][1] == pytest.approx(1.75 * np.percentile(pet, 99.9), rel=0.01)
    assert any("weighted by their lengths" in n for n in state.notes)


def test_sidecar_is_part_of_the_content_key(tmp_path):
    mri, pet = head(4)
    nifti(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", mri)
    path = nifti(tmp_path / "sub-01" / "pet" / "sub-01_pet.nii.gz", np.stack([pet, 4 * pet], -1))
    before = fusebench.create_dataset("bids", data_dir=tmp_path).cases()[0].fingerprint
    (path.parent / "sub-01_pet.json").write_text(json.dumps({"FrameDuration": [300, 100]}))
    assert fusebench.create_dataset("bids", data_dir=tmp_path).cases()[0].fingerprint != before


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match=r"no MRI-PET pair was found; expected: sub-\*/"):
        fusebench.create_dataset("bids", data_dir=tmp_path).cases()
