"""ADNI in every layout: the right pairs, and one line for everything that is left out."""

import datetime
import importlib
import os

import numpy as np
import pytest

import fusebench
from fusebench.errors import InputError

from .adni_trees import (
    AFFINE,
    N3M,
    PET_6MM,
    PET_8MM,
    PET_STD,
    SHAPE,
    collection_csv,
    dicom_series,
    head,
    ida_path,
    nifti,
    stub,
)

rules = importlib.import_module("fusebench.datasets.adni.rules")
tables = importlib.import_module("fusebench.datasets.adni.tables")
pairing = importlib.import_module("fusebench.datasets.adni.pairing")


def adni(root, **options):
    return fusebench.create_dataset("adni", data_dir=root, **{"split": "all-test"} | options)


def ids(dataset):
    return [(s.group, s.meta["mri_id"], s.meta["pet_id"]) for s in dataset.sources()]


def reasons(dataset, part=""):
    return [x.reason for x in dataset.found[1] if part in x.path]


def tree(root, *images, suffix=".nii"):
    """(subject, description, date, number) each as a named stub."""
    for subject, description, date, number in images:
        stub(ida_path(root, subject, description, date, number, suffix=suffix))
    return root


A, B = "016_S_4353", "023_S_0084"


# -- IDA tree ------------------------------------------------------------------------------------


def test_ida_tree_without_a_csv(tmp_path):
    tree(tmp_path, (A, N3M, "2012-03-31", 297620), (A, PET_8MM, "2012-01-31", 282615))
    dataset = adni(tmp_path)
    assert dataset.layout == "ida"
    assert ids(dataset) == [(A, "I297620", "I282615")]
    meta = dataset.sources()[0].meta
    assert (meta["days"], meta["mri_level"], meta["pet_level"], meta["dated_by"]) == (
        60,
        "n3m",
        "8mm",
        "folder",
    )
    assert "no collection CSV" in dataset.summary()[1]


def test_zips_unpacked_side_by_side_and_deeper(tmp_path):
    stub(ida_path(tmp_path / "ADNI1", A, N3M, "2012-03-31", 1))
    stub(ida_path(tmp_path / "x" / "ADNI 2", A, PET_8MM, "2012-03-30", 2))
    assert ids(adni(tmp_path)) == [(A, "I1", "I2")]


def test_date_is_the_folders_not_the_archive_stamp(tmp_path):
    # The stamp in every name says 2012-04-16; the scan of the far MRI is a year off.
    tree(tmp_path, (A, N3M, "2011-01-01", 1), (A, N3M, "2012-03-01", 2), (A, PET_8MM, "2012-03-20", 3))
    assert ids(adni(tmp_path)) == [(A, "I2", "I3")]


def test_series_leaf_can_hold_several_images(tmp_path):
    for number in (11, 12):
        stub(ida_path(tmp_path, A, N3M, "2012-03-31", number, leaf="S145696"))
    stub(ida_path(tmp_path, A, PET_8MM, "2012-03-31", 13))
    dataset = adni(tmp_path)
    assert ids(dataset) == [(A, "I12", "I13")]  # the newest of two equals
    assert "another MRI" in reasons(dataset, "_I11.")[0]


def test_five_digit_subject(tmp_path):
    tree(tmp_path, ("381_S_10123", N3M, "2012-03-31", 1), ("381_S_10123", PET_8MM, "2012-03-31", 2))
    assert ids(adni(tmp_path)) == [("381_S_10123", "I1", "I2")]


def test_flat_folder_of_ida_names(tmp_path):
    for description, number in ((N3M, 1), (PET_8MM, 2)):
        path = ida_path("x", A, description, "2012-03-31", number)
        stub(tmp_path / path.name)
    dataset = adni(tmp_path)
    assert ids(dataset) == [(A, "I1", "I2")]
    assert "without a date check" in dataset.sources()[0].meta["note"]


def test_flat_folder_takes_dates_from_csv(tmp_path):
    rows = []
    for description, number, date in (
        (N3M, 1, "1/15/2010"),
        (N3M, 2, "3/15/2012"),
        (PET_8MM, 3, "3/20/2012"),
    ):
        stub(tmp_path / ida_path("x", A, description, "2000-01-01", number).name)
        rows.append((f"I{number}", A, "CN", "MRI" if number < 3 else "PET", description, date))
    collection_csv(tmp_path / "fdg_4_01_2013.csv", rows)
    dataset = adni(tmp_path)
    assert ids(dataset) == [(A, "I2", "I3")]
    assert dataset.sources()[0].meta["diagnosis"] == "CN"
    assert dataset.sources()[0].meta["dated_by"] == "fdg_4_01_2013.csv"


@pytest.mark.parametrize(
    ("header", "options"),
    [
        (None, {}),
        (None, {"quoting": 0, "delimiter": ";"}),
        (
            [
                "image_id",
                "subject_id",
                "Group",
                "Sex",
                "Age",
                "VISCODE2",
                "modality",
                "image_description",
                "x",
                "image_date",
                "f",
                "d",
            ],
            {"quoting": 0},
        ),
    ],
)
def test_csv_columns_quoting_and_bare_ids(tmp_path, header, options):
    stub(tmp_path / ida_path("x", A, N3M, "2000-01-01", 957990).name)
    stub(tmp_path / ida_path("x", A, PET_8MM, "2000-01-01", 957991).name)
    rows = [("957990", A, "AD", "MRI", N3M, "3/15/2012"), ("957991", A, "AD", "PET", PET_8MM, "3/20/2012")]
    collection_csv(tmp_path / "All_Images.csv", rows, header, **options)
    meta = adni(tmp_path).sources()[0].meta
    assert (meta["diagnosis"], meta["days"]) == ("AD", -5)


def test_csv_that_begins_with_empty_lines(tmp_path):
    tree(tmp_path, (A, N3M, "2012-03-31", 1), (A, PET_8MM, "2012-03-31", 2))
    (tmp_path / "c.csv").write_text(f"\n \nImage Data ID,Subject,Group\n1,{A},AD\n")
    assert adni(tmp_path).sources()[0].meta["diagnosis"] == "AD"


def test_xml_fills_the_date(tmp_path):
    for description, number, date in ((N3M, 1, "2012-03-15"), (PET_8MM, 2, "2012-03-20 10:30:00.0")):
        stub(tmp_path / ida_path("x", A, description, "2000-01-01", number).name)
        (tmp_path / f"ADNI_{A}_x_S9_I{number}.xml").write_text(
            f"<idaxs><project><subject><subjectIdentifier>{A}</subjectIdentifier>"
            "<researchGroup>EMCI</researchGroup><study><series><dateAcquired>" + date + "</dateAcquired>"
            f"<imagingProtocol><imageUID>{number}</imageUID></imagingProtocol></series></study></subject>"
            "</project></idaxs>"
        )
    meta = adni(tmp_path).sources()[0].meta
    assert (meta["days"], meta["diagnosis"], meta["dated_by"]) == (-5, "EMCI", "XML")


def test_broken_tables_are_a_line_and_stop_nothing(tmp_path):
    tree(tmp_path, (A, N3M, "2012-03-31", 1), (A, PET_8MM, "2012-03-31", 2))
    (tmp_path / "a.csv").write_bytes(b"\0\1\2Image Data ID")
    (tmp_path / "b.xml").write_text("<open>")
    (tmp_path / "other.csv").write_text("RID,PASS\n1,1\n")
    dataset = adni(tmp_path)
    assert len(ids(dataset)) == 1
    assert "CSV" in reasons(dataset, "a.csv")[0]
    assert "XML" in reasons(dataset, "b.xml")[0]


def test_ids_of_two_subjects_in_two_tables(tmp_path):
    tree(tmp_path, (A, N3M, "2012-03-31", 1), (A, PET_8MM, "2012-03-31", 2))
    collection_csv(tmp_path / "a.csv", [("I1", B, "CN", "MRI", N3M, "3/31/2012")])
    dataset = adni(tmp_path)
    assert ids(dataset) == []
    assert f"subject {A} by its path, {B} by a.csv" in reasons(dataset)


# -- rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("description", "level", "tracer"),
    [
        ("Co-registered Dynamic", "dynamic", "FDG"),
        ("Co-registered, Averaged", "averaged", "FDG"),
        (PET_STD, "standardized", "FDG"),
        (PET_8MM, "8mm", "FDG"),
        (PET_6MM, "6mm", "FDG"),
        ("AV45 Coreg, Avg, Std Img and Vox Siz, Uniform Resolution", "8mm", "AV45"),
        ("AV1451 Co-registered, Averaged", "averaged", "AV1451"),
        ("FBB Coreg, Avg, Standardized Image and Voxel Size", "standardized", "FBB"),
        ("PIB Co-registered Dynamic", "dynamic", "PIB"),
    ],
)
def test_pet_levels_and_tracers(description, level, tracer):
    for text in (description, description.replace(" ", "_").replace(";", "_")):
        kind = rules.classify_pet(text)
        assert (kind.level, kind.tracer, kind.refused) == (level, tracer, "")


@pytest.mark.parametrize(
    ("description", "reason"),
    [("ADNI Brain PET: Raw FDG", "raw"), ("Early AV45 Coreg, Avg", "early"), ("Something", "unknown")],
)
def test_pet_refused(description, reason):
    assert reason in rules.classify_pet(description).refused


@pytest.mark.parametrize(
    ("description", "level", "repeat"),
    [
        ("MPR; GradWarp; B1 Correction; N3; Scaled", "scaled", False),
        ("MPR; GradWarp; B1 Correction; N3; Scaled_2", "scaled", False),
        ("MPR-R; GradWarp; B1 Correction; N3", "n3", True),
        ("MPR; ; N3", "n3", False),
        ("MT1; GradWarp; N3m", "n3m", False),
        ("MT1; N3m", "n3m", False),
        ("MPR; GradWarp", "gradwarp", False),
        ("Accelerated Sagittal MPRAGE", "original", False),
        ("Accelerated Sagittal IR-FSPGR", "original", False),
    ],
)
def test_mri_levels(description, level, repeat):
    for text in (description, description.replace(" ", "_").replace(";", "_")):
        kind = rules.classify_mri(text)
        assert (kind.level, kind.repeat, kind.refused) == (level, repeat, "")


@pytest.mark.parametrize(
    "description",
    [
        "3 Plane Localizer",
        "MPR; GradWarp; B1 Correction; Mask",
        "FreeSurfer Cross-Sectional Processing brainmask",
        "Axial T2 STAR",
        "Sagittal 3D FLAIR",
        "Axial DTI",
        "Accelerated Sagittal MPRAGE_ND",
        "B1-Calibration Body",
        "Axial PD/T2 FSE",
        "HighResHippocampus",
        "Resting State fMRI",
    ],
)
def test_mri_refused(description):
    for text in (description, description.replace(" ", "_")):
        assert rules.classify_mri(text).refused


def test_level_order_mri_same_day(tmp_path):
    day = "2012-03-31"
    tree(
        tmp_path,
        (A, "MPRAGE", day, 1),
        (A, N3M, day, 2),
        (A, "MPR; GradWarp; B1 Correction; N3; Scaled", day, 3),
        (A, "MPR-R; GradWarp; B1 Correction; N3; Scaled", day, 9),
        (A, PET_8MM, day, 4),
    )
    assert ids(adni(tmp_path)) == [(A, "I3", "I4")]


def test_one_pet_level_per_run_is_the_commonest(tmp_path):
    day = "2012-03-31"
    tree(
        tmp_path,
        (A, N3M, day, 1),
        (A, PET_6MM, day, 2),
        (A, PET_8MM, day, 3),
        (B, N3M, day, 4),
        (B, PET_8MM, day, 5),
    )
    dataset = adni(tmp_path)
    assert ids(dataset) == [(A, "I1", "I3"), (B, "I4", "I5")]
    assert "level 6mm; this run uses 8mm" in reasons(dataset)
    assert ids(adni(tmp_path, pet_level="any"))[0] == (A, "I1", "I2")
    assert ids(adni(tmp_path, pet_level="6mm")) == [(A, "I1", "I2")]


def test_180_days(tmp_path):
    tree(tmp_path, (A, N3M, "2012-01-01", 1), (A, PET_8MM, "2012-07-15", 2))
    dataset = adni(tmp_path)
    assert ids(dataset) == []
    assert "nearest MRI is 196 days away, more than 180" in reasons(dataset)
    assert len(ids(adni(tmp_path, max_days=200))) == 1


def test_earliest_visit_or_all(tmp_path):
    tree(
        tmp_path,
        (A, N3M, "2012-01-01", 1),
        (A, PET_8MM, "2012-01-02", 2),
        (A, N3M, "2014-01-01", 3),
        (A, PET_8MM, "2014-01-02", 4),
    )
    assert ids(adni(tmp_path)) == [(A, "I1", "I2")]
    every = adni(tmp_path, visits="all")
    assert ids(every) == [(A, "I1", "I2"), (A, "I3", "I4")]
    assert [c.id for c in every.cases()] == [f"{A}_I2", f"{A}_I4"]
    assert {c.group for c in every.cases()} == {A}


def test_one_mri_for_two_pets_is_noted(tmp_path):
    tree(tmp_path, (A, N3M, "2012-03-01", 1), (A, PET_8MM, "2012-02-01", 2), (A, PET_8MM, "2012-04-01", 3))
    notes = [s.meta.get("note", "") for s in adni(tmp_path, visits="all").sources()]
    assert all("another PET too" in n for n in notes)


def test_wrong_tracer_and_missing_partners(tmp_path):
    day = "2012-03-31"
    tree(tmp_path, (A, N3M, day, 1), (A, "AV45 " + PET_8MM, day, 2), (B, PET_8MM, day, 3))
    dataset = adni(tmp_path)
    assert ids(dataset) == []
    assert "tracer AV45, not FDG" in reasons(dataset)
    assert "no usable FDG-PET" in reasons(dataset, "_I1.")
    assert "no usable T1 MRI of this subject" in reasons(dataset, "_I3.")
    with pytest.raises(InputError, match="no pair of MRI and PET was found"):
        dataset.cases()


def test_duplicate_image_id(tmp_path):
    for where in ("a", "b"):
        tree(tmp_path / where, (A, N3M, "2012-03-31", 1), (A, PET_8MM, "2012-03-31", 2))
    dataset = adni(tmp_path)
    assert len(ids(dataset)) == 1
    assert sum("duplicate of image id" in r for r in reasons(dataset)) == 2


def test_ecat_raw_and_empty(tmp_path):
    day = "2007-10-26"
    stub(ida_path(tmp_path, A, "ADNI Brain PET: Raw FDG", day, 78559, tag="PET", suffix=".v"))
    stub(ida_path(tmp_path, A, "ADNI Brain PET: Raw FDG", day, 78560, tag="PET", suffix=".dcm"))
    stub(ida_path(tmp_path, A, N3M, day, 1), b"")
    (tmp_path / "ADNI" / A / "MPRAGE" / "2001-01-01_00_00_00.0" / "I5").mkdir(parents=True)
    stub(tmp_path / "NONAME.nii")
    dataset = adni(tmp_path)
    assert "ECAT" in reasons(dataset, ".v")[0]
    assert "raw PET" in reasons(dataset, "I78560")[0]
    assert "0 bytes" in reasons(dataset, "_I1.nii")[0]
    assert "an empty folder" in reasons(dataset, "I5")
    assert "no subject id" in reasons(dataset, "NONAME")[0]


def test_links_that_loop_or_lead_out(tmp_path):
    root, outside = tmp_path / "data", tmp_path / "outside"
    tree(root, (A, N3M, "2012-03-31", 1), (A, PET_8MM, "2012-03-31", 2))
    tree(outside, (B, N3M, "2012-03-31", 3), (B, PET_8MM, "2012-03-31", 4))
    os.symlink(root, root / "ADNI" / "again")
    os.symlink(root / "self", root / "self")
    os.symlink(outside, root / "elsewhere")
    dataset = adni(root)
    assert [i[0] for i in ids(dataset)] == [A]
    assert "loop" in reasons(dataset, "again")[0]
    assert "loops or leads nowhere" in reasons(dataset, "self")[0]
    assert "out of the data folder" in reasons(dataset, "elsewhere")[0]
    assert [i[0] for i in ids(adni(root, follow_links=True))] == [A, B]


# -- image list ----------------------------------------------------------------------------------


def test_image_list_selects_exactly(tmp_path):
    day = "2012-03-31"
    tree(
        tmp_path,
        (A, N3M, day, 1),
        (A, N3M, day, 2),
        (A, PET_8MM, day, 3),
        (A, PET_STD, day, 4),
        (B, N3M, day, 5),
    )
    (tmp_path / "ImageID.csv").write_text("I1,I4,I5,I999")
    dataset = adni(tmp_path, image_list=tmp_path / "ImageID.csv")
    assert ids(dataset) == [(A, "I1", "I4")]
    assert "image list: 4 ids, 3 found, 1 absent, 1 found but unpaired" in dataset.summary()
    assert "not in the image list" in reasons(dataset, "_I2.")
    (tmp_path / "none.txt").write_text("hello")
    with pytest.raises(InputError, match="holds no image id"):
        adni(tmp_path, image_list=tmp_path / "none.txt")


# -- other layouts -------------------------------------------------------------------------------


def test_paper_layout(tmp_path):
    for subject in ("033_S_5198", "002_S_0295"):
        mri, pet = head(1)
        nifti(tmp_path / "train" / subject / f"{subject}_mri_MNI152.nii.gz", mri)
        nifti(tmp_path / "train" / subject / f"{subject}_FDG_MNI152.nii.gz", pet)
    stub(tmp_path / "train" / "x" / "x_mri_MNI152.nii.gz")
    dataset = adni(tmp_path, size=32)
    assert dataset.layout == "paper"
    assert [s.group for s in dataset.sources()] == ["002_S_0295", "033_S_5198"]
    assert "no FDG-PET beside it" in reasons(dataset)
    case = dataset.cases()[0]
    assert case.a.shape == case.b.shape == (32, 32, 32)
    assert dataset.sources()[0].aligned


def test_clinica_bids(tmp_path):
    for name in (
        "sub-ADNI016S4353/ses-M000/anat/sub-ADNI016S4353_ses-M000_T1w.nii.gz",
        "sub-ADNI016S4353/ses-M000/pet/sub-ADNI016S4353_ses-M000_trc-18FFDG_rec-coregavg_pet.nii.gz",
        "sub-ADNI016S4353/ses-M000/pet/sub-ADNI016S4353_ses-M000_trc-18FFDG_rec-coregiso_pet.nii.gz",
        "sub-ADNI016S4353/ses-M000/pet/sub-ADNI016S4353_ses-M000_trc-18FAV45_rec-coregiso_pet.nii.gz",
        "sub-ADNI023S0084/ses-M00/anat/sub-ADNI023S0084_ses-M00_T1w.nii.gz",
        "sub-ADNI023S0084/ses-M00/pet/sub-ADNI023S0084_ses-M00_task-rest_acq-fdg_pet.nii.gz",
    ):
        stub(tmp_path / "bids" / name)
    dataset = adni(tmp_path)
    assert dataset.layout == "bids"
    assert [s.group for s in dataset.sources()] == [A, B]
    assert "coregiso" in dataset.sources()[0].pet.name
    assert not dataset.sources()[0].aligned
    assert any("tracer 18FAV45" in r for r in reasons(dataset))


def test_clinica_caps(tmp_path):
    stem = "subjects/sub-ADNI016S4353/ses-M000"
    name = "sub-ADNI016S4353_ses-M000"
    crop = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
    stub(tmp_path / stem / "t1_linear" / f"{name}_space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz")
    stub(tmp_path / stem / "t1_linear" / f"{name}_{crop}_T1w.nii.gz")
    stub(tmp_path / stem / "pet_linear" / f"{name}_trc-18FFDG_{crop}_suvr-pons2_pet.nii.gz")
    stub(tmp_path / stem / "pet_linear" / f"{name}_trc-18FAV45_{crop}_suvr-pons2_pet.nii.gz")
    dataset = adni(tmp_path)
    assert dataset.layout == "caps"
    (source,) = dataset.sources()
    assert (source.group, source.aligned) == (A, True)
    assert "desc-Crop" in source.mri.name and "FDG" in source.pet.name
    assert "tracer is not FDG" in reasons(dataset)


def test_clinica_caps_takes_the_first_session(tmp_path):
    for session in ("M24", "M120"):
        for folder, end in (("t1_linear", "T1w"), ("pet_linear", "trc-18FFDG_pet")):
            name = f"sub-ADNI016S4353_ses-{session}_{end}.nii.gz"
            stub(tmp_path / f"subjects/sub-ADNI016S4353/ses-{session}" / folder / name)
    (source,) = adni(tmp_path).sources()
    assert source.meta["ses"] == "M24"


# -- splits --------------------------------------------------------------------------------------


def test_splits_are_by_subject_stable_and_publishable(tmp_path):
    base = importlib.import_module("fusebench.datasets.preprocessing.base")
    # Published: these must never change.
    assert [base.split_by_hash(s) for s in (A, B, "033_S_5198", "002_S_0295", "941_S_1311")] == SPLITS_OF_FIVE
    groups = {f"{i:03d}_S_{i:04d}": ("CN", "MCI", "AD")[i % 3] for i in range(300)}
    shares = [sum(base.split_by_hash(g) == s for g in groups) / 300 for s in ("train", "val", "test")]
    assert np.allclose(shares, (0.7, 0.1, 0.2), atol=0.08)
    exact = base.stratified(groups)
    for diagnosis in ("CN", "MCI", "AD"):
        members = [exact[g] for g, d in groups.items() if d == diagnosis]
        assert [members.count(s) for s in ("train", "val", "test")] == [70, 10, 20]
    (tmp_path / "s.csv").write_text(f"subject,split\n{A},train\n{B},test\n")
    day = "2012-03-31"
    tree(tmp_path, (A, N3M, day, 1), (A, PET_8MM, day, 2), (B, N3M, day, 3), (B, PET_8MM, day, 4))
    dataset = adni(tmp_path, split=str(tmp_path / "s.csv"))
    assert [c.group for c in dataset.cases("train")] == [A]
    assert [c.group for c in dataset.cases("test")] == [B]
    with pytest.raises(InputError, match="none of 2 pairs is in split 'val'"):
        dataset.cases("val")


SPLITS_OF_FIVE = ["test", "train", "val", "test", "train"]


# -- options and reading -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"pet_level": "7mm"}, {"visits": "some"}, {"layout": "x"}, {"recipe": "x"}, {"register": "x"}]
)
def test_wrong_options_are_one_line(tmp_path, options):
    with pytest.raises(InputError):
        adni(tmp_path, **options)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        adni(tmp_path / "absent")
    with pytest.raises(InputError, match="needs --data-dir"):
        fusebench.create_dataset("adni")


def test_dicom_pet_and_nifti_mri_load_to_voxels(tmp_path):
    pytest.importorskip("pydicom")
    mri, pet = head(2)
    nifti(ida_path(tmp_path, A, N3M, "2012-03-31", 1), mri)
    target = ida_path(tmp_path, A, PET_8MM, "2012-03-31", 2, suffix=".dcm")
    slopes = np.linspace(0.001, 0.002, SHAPE[2])
    for path in dicom_series(target.parent, pet, AFFINE, "PT", slopes=slopes):
        path.rename(target.parent / target.name.replace("_8_", f"_{path.stem.split('_')[-1]}_"))
    dataset = adni(tmp_path, recipe="native", register="never")
    (source,) = dataset.sources()
    assert len(source.pet_files) == SHAPE[2]
    case = dataset.cases()[0]
    raw = case.b.intensity[0] + case.b.data * (case.b.intensity[1] - case.b.intensity[0])
    expected = pet[::-1].transpose(2, 1, 0)  # L to R
    assert np.abs(np.clip(raw, *case.b.intensity) - np.clip(expected, *case.b.intensity)).max() < 0.01


def test_bad_files_are_rows_and_the_rest_goes_on(tmp_path):
    """Truncated, 4D, NaN, unreadable DICOM: one line each; the good subject loads."""
    day = "2012-03-31"
    mri, pet = head(3)
    kinds = {
        "002_S_0001": "good",
        "002_S_0002": "truncated",
        "002_S_0003": "4d",
        "002_S_0004": "nan",
        "002_S_0005": "dicom",
        "002_S_0006": "swapped",
    }
    for i, (subject, kind) in enumerate(kinds.items()):
        a = ida_path(tmp_path, subject, N3M, day, 10 * i + 1, suffix=".nii.gz")
        b = ida_path(
            tmp_path, subject, PET_8MM, day, 10 * i + 2, suffix=".dcm" if kind == "dicom" else ".nii.gz"
        )
        data = np.stack([mri] * 2, -1) if kind == "4d" else mri.astype(np.float32)
        if kind == "nan":
            data[:10] = np.nan
        nifti(a, data)
        nifti(b, pet) if kind != "dicom" else stub(b, b"no dicom" * 100)
        if kind == "truncated":
            a.write_bytes(a.read_bytes()[:-500])
        if kind == "swapped":
            import nibabel as nib

            image = nib.load(a)
            wrong = AFFINE.copy()
            wrong[:3, 3] += 40
            image.set_qform(wrong, 1)
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine, image.header), a)
    dataset = adni(tmp_path, recipe="native", register="never")
    outcome = {}
    for case in dataset.cases():
        try:
            outcome[kinds[case.group]] = case.pair.a.shape
        except InputError as error:
            lines = str(error).splitlines()
            outcome[kinds[case.group]] = str(error) if len(lines) == 1 else "several lines"
    assert outcome["good"] == outcome["swapped"] == (SHAPE[2], SHAPE[1], SHAPE[0])
    for kind, word in (
        ("truncated", "truncated"),
        ("4d", "4D"),
        ("nan", "NaN"),
        ("dicom", "no readable DICOM"),
    ):
        assert word in outcome[kind]
    pipeline = importlib.import_module("fusebench.datasets.preprocessing.pipeline")
    swapped = next(c for c in dataset.cases() if kinds[c.group] == "swapped")
    assert any("sform and qform differ" in n for n in pipeline.stored_report(swapped)["notes"])


# -- words and dates in use ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    ["MP RAGE", "MP_RAGE", "MP- RAGE", "MP-RAGE", "SAG 3D MP RAGE", "MPR", "T1 SAG", "IR-SPGR", "3D T1 TFE"],
)
def test_spellings_of_t1(words):
    assert rules.classify_mri(words).level == "original" and not rules.classify_mri(words).repeat


@pytest.mark.parametrize(
    "words",
    [
        "MPRAGE REPEAT",
        "MPRAGE-REPEA",
        "MPRAGE repe",
        "MPRAGEASOREP",
        "MP RAGE rpt",
        "MP-RAGE #2",
        "MPR-R; N3",
    ],
)
def test_spellings_of_a_repeat(words):
    assert rules.classify_mri(words).level and rules.classify_mri(words).repeat


@pytest.mark.parametrize(
    "words", ["MPRAGE prep", "MPRAGE #1", "MP RAGE SAGITTAL", "MPR; GradWarp; N3; Scaled_2"]
)
def test_what_only_looks_like_a_repeat(words):
    assert not rules.classify_mri(words).repeat


@pytest.mark.parametrize(
    "words", ["Spatially Normalized, Masked and N3 corrected T1 image", "MPRAGE masked", "MPRAGE Talairach"]
)
def test_a_t1_of_another_space_is_no_native_one(words):
    assert "native" in rules.classify_mri(words).refused


@pytest.mark.parametrize(
    "words", ["FDG Brain mask", "Coreg, Avg, Std Img and Vox Siz, Uniform 6mm Res Masked"]
)
def test_masks_of_pet(words):
    assert "mask" in rules.classify_pet(words).refused


def dated_table(folder, mri, pet):
    """A collection table without dated folders: two flat files whose dates only the table has."""
    collection_csv(folder / "t.csv", [("I1", A, "CN", "MRI", N3M, mri), ("I2", A, "CN", "PET", PET_8MM, pet)])
    stub(folder / f"ADNI_{A}_MR_MT1__GradWarp__N3m_Br_20120416133844478_S1_I1.nii")
    stub(
        folder
        / f"ADNI_{A}_PT_Coreg,_Avg,_Std_Img_and_Vox_Siz,_Uniform_Resolution_Br_20120203154609620_8_S2_I2.nii"
    )
    return adni(folder)


def test_dates_of_a_spreadsheet_are_day_first(tmp_path):
    """25/03 shows that 04/03 is the 4th of March, 21 days before, not the 3rd of April."""
    dataset = dated_table(tmp_path, "04/03/2010", "25/03/2010")
    assert [s.meta["days"] for s in dataset.sources()] == [-21]
    assert "day/month" in reasons(dataset)[-1]


def test_dates_that_mix_are_not_used(tmp_path):
    dataset = dated_table(tmp_path, "25/03/2010", "03/26/2010")
    assert [s.meta["days"] for s in dataset.sources()] == [-1]
    assert "mix" in reasons(dataset)[-1]


def test_dated_folders_settle_what_a_table_leaves_open():
    found = tables.Tables()
    for image, when in (("I1", datetime.date(2010, 4, 3)), ("I2", datetime.date(2010, 5, 6))):
        found.by_image[image] = tables.Facts(acquired=when, swapped=tables.swap(when), source="t.csv")
    tables.settle_dates(found, {"I1": datetime.date(2010, 3, 4)})
    assert (
        found.by_image["I2"].acquired == datetime.date(2010, 6, 5) and "day/month/year" in found.notes[0][1]
    )
    tables.settle_dates(found, {"I1": datetime.date(2010, 3, 4), "I2": datetime.date(2010, 6, 5)})
    assert len(found.notes) == 1 and found.by_image["I2"].acquired == datetime.date(2010, 6, 5)
