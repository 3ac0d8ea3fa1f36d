"""BIDS datasets: sessions, tracers, reconstructions, dynamic PET."""

import importlib
import json
import os
import time

import numpy as np
import pytest

import fusebench
from fusebench.errors import InputError

from .adni_trees import head, nifti, stub

bids = importlib.import_module("fusebench.datasets.bids")
sidecar = importlib.import_module("fusebench.datasets.preprocessing.sidecar")


def make(root, *names, **options):
    for name in names:
        subject = name.split("_")[0]
        session = next((p for p in name.split("_") if p.startswith("ses-")), "")
        stub(root / subject / session / ("anat" if "T1w" in name else "pet") / name)
    return fusebench.create_dataset("bids", data_dir=root, **options)


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
    [path] = sidecar.sidecars(dataset.sources()[0].pet)
    assert path.name == "sub-01_pet.json"


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
    with pytest.raises(InputError, match="no pair of MRI and PET"):
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


@pytest.mark.parametrize(
    "text",
    ["", "participant_id\n", "group\nAD\n", "participant_id\tgroup\n\nsub-01\n", "\x00", "\ud800"],
)
def test_participants_that_say_nothing_cost_no_case(tmp_path, text):
    (tmp_path / "participants.tsv").write_bytes(text.encode(errors="surrogatepass"))
    assert "diagnosis" not in make(tmp_path, "sub-01_T1w.nii.gz", "sub-01_pet.nii.gz").sources()[0].meta


def test_participants_of_very_many_columns_take_no_time(tmp_path):
    names = "\t".join(f"c{i}" for i in range(100_000))
    rows = "".join(f"sub-{i}\tAD\n" for i in range(20_000))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tgroup\t{names}\n{rows}")
    begin = time.process_time()
    assert len(bids.read_participants(tmp_path / "participants.tsv")) == 20_000
    assert time.process_time() - begin < 5


def test_pipes_in_place_of_tables_and_sidecars_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "participants.tsv")
    dataset = make(tmp_path, "sub-01_T1w.nii.gz", "sub-01_pet.nii.gz")
    pet = dataset.sources()[0].pet
    os.mkfifo(pet.with_name("sub-01_pet.json"))
    assert sidecar.read_sidecars(pet) == (
        {},
        ["sidecar sub-01_pet.json cannot be read as JSON; it is passed over"],
    )


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
    with pytest.raises(InputError, match=r"no pair of MRI and PET was found; expected: sub-\*/"):
        fusebench.create_dataset("bids", data_dir=tmp_path).cases()


# -- sidecars, tracers, plain images --------------------------------------------------------------


def durations(path):
    return sidecar.frame_durations(sidecar.read_sidecars(path)[0])


def test_sidecars_inherit_from_higher_levels(tmp_path):
    image = tmp_path / "sub-01" / "ses-2" / "pet" / "sub-01_ses-2_trc-FDG_pet.nii.gz"
    stub(image)
    stub(tmp_path / "pet.json", b'{"FrameDuration": [1, 1], "TracerName": "FDG", "Units": "Bq/mL"}')
    assert durations(image) == (1, 1)
    stub(tmp_path / "sub-01" / "sub-01_pet.json", b'{"FrameDuration": [2, 2]}')
    assert durations(image) == (2, 2)
    stub(tmp_path / "sub-01" / "ses-2" / "pet" / "sub-01_ses-2_pet.json", b'{"FrameDuration": [3, 3]}')
    stub(image.with_name("sub-01_ses-2_trc-FDG_pet.json"), b'{"FrameDuration": [4, 4]}')
    for other in ("T1w.json", "sub-02_pet.json", "ses-1_pet.json", "trc-PIB_pet.json"):
        stub(tmp_path / other, b'{"FrameDuration": [9, 9]}')
    assert durations(image) == (4, 4)
    assert sidecar.read_sidecars(image)[0]["TracerName"] == "FDG"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_sidecars_in_any_unicode(tmp_path, encoding):
    stub(tmp_path / "p_pet.json", '{"FrameDuration": [300, 100]}'.encode(encoding))
    assert durations(tmp_path / "p_pet.nii.gz") == (300, 100)


@pytest.mark.parametrize("text", [b"", b"[1, 2]", b"{", b"\xff\xfe\xfd", b"[" * 100_000])
def test_sidecars_that_say_nothing_are_noted(tmp_path, text):
    stub(tmp_path / "p_pet.json", text)
    fields, notes = sidecar.read_sidecars(tmp_path / "p_pet.nii")
    assert fields == {} and "p_pet.json" in notes[0]


@pytest.mark.parametrize(
    ("given", "weights", "words"),
    [
        ([300, 100], (3, 1), "weighted by their lengths"),
        (["300", "100"], (3, 1), "weighted by their lengths"),
        ([300, 100, 50], (1, 1), "3 lengths are listed"),
        ([300, 0], (1, 1), "not above 0"),
        ([300, None], (1, 1), "not above 0"),
        ([], (1, 1), "not known"),
        (300, (1, 1), "1 lengths are listed"),
    ],
)
def test_weights_of_frames_and_what_is_said(given, weights, words):
    steps = importlib.import_module("fusebench.datasets.preprocessing.steps")
    grid = importlib.import_module("fusebench.datasets.preprocessing.grid")
    frames = np.stack([np.full((4, 4, 4), 10.0), np.full((4, 4, 4), 50.0)]).astype(np.float32)
    image = grid.Image(frames, np.eye(4))
    state = steps.State(image, image, ("m", "p"), durations=sidecar.frame_durations({"FrameDuration": given}))
    done = steps.Static()(state)
    assert done.pet.data[0, 0, 0] == pytest.approx(np.average([10, 50], weights=weights))
    assert words in done.notes[0]


def test_the_plain_image_comes_before_its_variants(tmp_path):
    variants = ("acq-late_pet", "desc-moco_pet", "space-MNI_desc-s_pet", "run-2_pet")
    names = [f"sub-01_{name}.nii" for name in ("T1w", "acq-fast_T1w", *variants)]
    assert pairs(make(tmp_path / "a", *names, "sub-01_pet.nii"))[0][1:] == (
        "sub-01_T1w.nii",
        "sub-01_pet.nii",
    )
    assert pairs(make(tmp_path / "b", *names))[0][2] == "sub-01_run-2_pet.nii"
    assert pairs(make(tmp_path / "c", *names[:-1]))[0][2] == "sub-01_acq-late_pet.nii"


def test_several_tracers_are_not_chosen_by_alphabet(tmp_path):
    names = ["sub-01_T1w.nii", "sub-01_trc-18FAV45_pet.nii", "sub-01_trc-18FFDG_pet.nii"]
    dataset = make(tmp_path, *names)
    assert not pairs(dataset)
    pet = [x.reason for x in dataset.found[1] if "_pet" in x.path]
    assert len(pet) == 2 and all("18FAV45 and 18FFDG" in r and "tracer=" in r for r in pet)
    for wanted in ("FDG", "18FFDG", "[18F]FDG", "fdg"):
        [found] = pairs(make(tmp_path, *names, tracer=wanted))
        assert found[2] == "sub-01_trc-18FFDG_pet.nii"


def test_a_tracer_that_only_the_sidecar_names(tmp_path):
    dataset = make(tmp_path, "sub-01_T1w.nii", "sub-01_acq-late_pet.nii", tracer="FDG")
    assert "not named" in dataset.found[1][0].reason
    stub(tmp_path / "pet.json", b'{"TracerName": "[18F]FDG"}')
    dataset = make(tmp_path, "sub-01_T1w.nii", "sub-01_acq-late_pet.nii", tracer="FDG")
    assert dataset.sources()[0].meta["trc"] == "[18F]FDG"
