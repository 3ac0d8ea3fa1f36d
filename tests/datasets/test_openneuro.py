"""OpenNeuro: layout, transform, download from a server that fails, and a board by person."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from fusebench.datasets.openneuro import make_listing
from fusebench.datasets.openneuro.accessions import ACCESSIONS
from fusebench.datasets.openneuro.download import Downloads
from fusebench.datasets.openneuro.late_mean import late_mean
from fusebench.datasets.openneuro.listing import File, read_listing
from fusebench.datasets.preprocessing.flirt import world_to_world
from fusebench.datasets.preprocessing.pipeline import stored_report

import fusebench
from fusebench import create_dataset
from fusebench.cli import main
from fusebench.errors import InputError
from fusebench.testing.images import head

from ..open_trees import LARGER, bids, ds004513
from ..serving import Server, serve


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openneuro")
    ds004513(folder)
    return folder


# -- what is on record -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "people", "pets"), [("ds004513", 30, 47), ("ds002898", 27, 27), ("ds004868", 10, 20)]
)
def test_listings_are_those_of_the_public_trees(name: str, people: int, pets: int) -> None:
    files = read_listing(ACCESSIONS[name].listing)
    assert len({f.path for f in files}) == len(files)
    assert sum(f.path.endswith("_pet.nii.gz") for f in files) == pets
    assert len({p for f in files for p in f.path.split("/") if p.startswith("sub-")} - {""}) >= people
    assert ACCESSIONS[name].licence and ACCESSIONS[name].cite and ACCESSIONS[name].note


def test_the_derivatives_of_ds004513_are_small() -> None:
    assert 140e6 < sum(f.size for f in read_listing(ACCESSIONS["ds004513"].listing)) < 150e6


@pytest.mark.parametrize(
    "bad",
    [
        "../x,1,md5:0",
        "/x,1,md5:0",
        "a//x,1,md5:0",
        "x,1,sha256:0",
        "x,-1,md5:0",
        "x,1,crc:0",
        "a\\..\\x,1,md5:0",
    ],
)
def test_a_listing_names_files_inside_the_dataset_only(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(f"path,bytes,hash,version\n{bad}{'0' * 31},\n")
    with pytest.raises(InputError, match="line 2"):
        read_listing(path)


def test_a_listing_is_made_from_a_clone(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    key = f"SHA256E-s12--{'ab' * 32}.nii.gz"
    git("init", "-q", "-b", "git-annex")
    (tmp_path / f"{key}.log.rmet").write_text("1s 2:V +ver1#ds1/sub-1/x.nii.gz\n")
    git("add", ".")
    git("commit", "-qm", "logs")
    git("checkout", "-q", "--orphan", "main")
    git("rm", "-rfq", ".")
    (tmp_path / "sub-1").mkdir()
    (tmp_path / "sub-1" / "x.nii.gz").symlink_to(f"../.git/annex/objects/1/2/{key}/{key}")
    (tmp_path / "sub-1" / "x.json").write_text("{}\n")
    git("add", ".")
    git("commit", "-qm", "tree")
    image, sidecar = sorted(make_listing.files(tmp_path, "^sub-"), key=lambda f: -f.size)
    assert image == File("sub-1/x.nii.gz", 12, "sha256:" + "ab" * 32, "ver1")
    hashed = sidecar.hasher()
    hashed.update(b"{}\n")
    assert (sidecar.size, sidecar.digest) == (3, hashed.hexdigest())


# -- layout and transform ----------------------------------------------------------------------------


def test_sessions_are_grouped_by_person(tree: Path) -> None:
    dataset = create_dataset(
        "openneuro", data_dir=tree / "ds004513", listing=tree / "ds004513.csv", split="hash"
    )
    cases = dataset.every_case()
    assert (len(cases), len({c.group for c in cases})) == (47, 30)
    splits = {s: {c.group for c in dataset.cases(s)} for s in ("train", "test")}
    assert splits["train"] and splits["test"] and not splits["train"] & splits["test"]
    first = create_dataset(
        "openneuro", data_dir=tree / "ds004513", listing=tree / "ds004513.csv", visits="first"
    )
    assert len(first.cases("test")) == 30


def test_the_transform_of_the_dataset_brings_both_heads_together(tree: Path) -> None:
    dataset = create_dataset(
        "openneuro", data_dir=tree / "ds004513", listing=tree / "ds004513.csv", people="s003", size=48
    )
    case = dataset.cases("test")[0]
    pair = case.pair
    numbers = stored_report(case)["numbers"]
    # A rigid registration cannot undo that the template is larger than the head.
    assert numbers["overlap_dataset"] > 0.95 > 0.85 > numbers["overlap_registered"]
    both = pair.mask & (pair.b.data > 0.1)
    assert both.sum() / pair.mask.sum() > 0.9


def test_a_registration_that_overlaps_better_is_a_doubt(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    for file in read_listing(tree / "ds004513.csv"):
        if "sub-s003_ses-open" in file.path:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((tree / "ds004513" / file.path).read_bytes())
    (matrix,) = folder.rglob("*_xfm.mat")
    wrong = np.loadtxt(matrix)
    wrong[0, 3] += 60
    np.savetxt(matrix, wrong)
    dataset = create_dataset(
        "openneuro", data_dir=folder, listing=tree / "ds004513.csv", people="s003", size=48
    )
    case = dataset.cases("test")[0]
    assert case.pair is not None
    assert any("register=always" in text for text in dataset.doubts([case]))
    assert "ses-closed" in dataset.left_out()[0]


@pytest.mark.parametrize(
    "text", ["", "1 0 0 0\n" * 4, "nan 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1", "1 0\n0 1", "x" * 9000]
)
def test_what_is_no_matrix_is_refused(tree: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.mat"
    path.write_text(text)
    image = next((tree / "ds004513").rglob("*_T1w.nii.gz"))
    with pytest.raises(InputError, match="no matrix of FLIRT"):
        world_to_world(path, image, image)


def test_matrices_do_not_depend_on_how_voxels_are_stored(tmp_path: Path) -> None:
    """FLIRT's coordinates are radiological either way, so the identity joins both forms of one image."""
    data = np.zeros((7, 8, 9), np.int16)
    right = np.array([[2.0, 0, 0, -5], [0, 3, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])
    left = right @ np.array([[-1.0, 0, 0, 6], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for name, affine in (("right", right), ("left", left)):
        nib.save(nib.Nifti1Image(data, affine), tmp_path / f"{name}.nii")
    np.savetxt(tmp_path / "m.mat", np.eye(4))
    found = world_to_world(tmp_path / "m.mat", tmp_path / "right.nii", tmp_path / "left.nii")
    np.testing.assert_allclose(found, np.eye(4), atol=1e-6)


def test_the_matrix_of_a_made_up_session_is_read_as_it_was_made(tree: Path) -> None:
    (matrix,) = (tree / "heads" / "0").glob("xfm.mat")
    found = world_to_world(matrix, matrix.with_name("t1.nii.gz"), matrix.with_name("pet.nii.gz"))
    np.testing.assert_allclose(found, LARGER, atol=1e-4)


# -- fetching ----------------------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path: Path) -> tuple[Path, list[File]]:
    """A folder to be served, with the four files of one session."""
    listing = ds004513(tmp_path / "there", sessions=1)
    return tmp_path / "there", read_listing(listing)


def downloads(server: Server, folder: Path, **fields: object) -> Downloads:
    return Downloads(f"{server.address}/ds004513", folder, pause=0.01, **fields)  # type: ignore[arg-type]


TROUBLES = [["drop"], ["drop", "drop", "whole"], ["short"], [500, 503], [429], ["other"], ["slow"], ["empty"],
            ["drop", 416], ["drop", "part"]]  # fmt: skip


@pytest.mark.parametrize("trouble", TROUBLES, ids=str)
def test_what_goes_wrong_once_is_tried_again(
    few: tuple[Path, list[File]], tmp_path: Path, trouble: list[object]
) -> None:
    folder, files = few
    pet = files[-1]
    with serve(folder) as server:
        server.plan[f"ds004513/{pet.path}"] = list(trouble)
        assert downloads(server, tmp_path / "here", patience=(2.0, 0.3)).fetch(files) == 4
    for file in files:
        here = tmp_path / "here" / file.path
        assert here.read_bytes() == (folder / "ds004513" / file.path).read_bytes()
    assert not list((tmp_path / "here").rglob("*.part"))
    ranges = [r for path, r in server.asked if path.endswith(pet.path) and r]
    assert bool(ranges) == (trouble[0] in ("drop", "short", "slow"))


@pytest.mark.parametrize(("trouble", "message"), [
    (403, "refuses it .403."), (404, "no such file .404.*changed"), (401, "login"), (418, "answers 418"),
    (503, "5 tries: the server answers 503"), ("other", "other content than the listing"),
    ("long", "longer file"), ("empty", "no answer"),
])  # fmt: skip
def test_what_stays_wrong_is_said_in_one_line(
    few: tuple[Path, list[File]], tmp_path: Path, trouble: object, message: str
) -> None:
    folder, files = few
    with serve(folder) as server:
        server.always = trouble
        with pytest.raises(InputError, match=message) as error:
            downloads(server, tmp_path / "here").fetch(files)
    assert "0 of 4 files are in" in str(error.value)
    assert "the same command fetches the rest" in str(error.value)
    assert not [p for p in (tmp_path / "here").rglob("*") if p.is_file() and p.suffix != ".part"]


def test_one_refused_file_does_not_keep_the_others(few: tuple[Path, list[File]], tmp_path: Path) -> None:
    folder, files = few
    (folder / "ds004513" / files[0].path).unlink()
    with serve(folder) as server, pytest.raises(InputError, match="3 of 4 files"):
        downloads(server, tmp_path / "here").fetch(files)
    assert len(downloads(server, tmp_path / "here").missing(files)) == 1


def test_offline_is_said(few: tuple[Path, list[File]], tmp_path: Path) -> None:
    folder, files = few
    with serve(folder) as server:
        pass
    with pytest.raises(InputError, match=r"127.0.0.1:\d+: no answer.*offline.*--data-dir"):
        downloads(server, tmp_path / "here").fetch(files)
    for address in ("nonsense", "ftp://x/y", "http://"):
        with pytest.raises(InputError, match="files are in"):
            Downloads(address, tmp_path / "here", pause=0.0).fetch(files)


def test_a_full_disk_is_said_before_anything_is_fetched(few: tuple[Path, list[File]], tmp_path: Path) -> None:
    folder, files = few
    with serve(folder) as server, pytest.raises(InputError, match="are free; make room"):
        downloads(server, tmp_path / "here").fetch([replace(files[0], size=1 << 60)])
    assert not server.asked


def test_an_interrupted_download_goes_on_where_it_was(few: tuple[Path, list[File]], tmp_path: Path) -> None:
    folder, files = few
    with serve(folder) as server:

        def interrupt(_: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            downloads(server, tmp_path / "here", say=interrupt).fetch(files, workers=1)
        left = downloads(server, tmp_path / "here").missing(files)
        assert 0 < len(left) < 4
        server.asked.clear()
        assert downloads(server, tmp_path / "here").fetch(files) == len(left)
        assert {path for path, _ in server.asked} == {f"ds004513/{f.path}" for f in left}
        server.asked.clear()
        assert downloads(server, tmp_path / "here").fetch(files) == 0 and not server.asked


# -- dynamic PET -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accession", "tracer", "frames", "factor"), [("ds002898", "FDG", 2, 2.0), ("ds004868", "PS13", 3, 1.5)]
)
def test_dynamic_accessions_use_the_mean_of_their_last_frames(
    tmp_path: Path, own_cache: Path, accession: str, tracer: str, frames: int, factor: float
) -> None:
    given = {"accession": accession, "data_dir": tmp_path / accession, "listing": bids(tmp_path, accession)}
    given |= {"size": 32, "register": "never"}
    dataset = create_dataset("openneuro", **given)
    assert any("is not made yet" in line for line in dataset.left_out())
    said: list[str] = []
    dataset.download(said.append)
    assert any(f"mean of the last {frames} of 4 frames" in line for line in said)
    cases = create_dataset("openneuro", **given).cases("test")
    assert len(cases) == 2 and cases[0].meta["trc"] == tracer
    # Where the tracer is in the end, and not where the blood was at first.
    _, uptake, _ = head((34, 40, 36), seed=1)
    assert cases[0].b.intensity[1] == pytest.approx(100 * factor * uptake.max(), rel=0.25)


def test_a_late_mean_is_that_of_the_frames(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 900, (5, 6, 7, 4)).astype(np.int16)
    image = nib.Nifti1Image(frames, np.eye(4))
    image.header.set_slope_inter(2.0, 10.0)
    nib.save(image, tmp_path / "x.nii.gz")
    read = np.asarray(nib.load(tmp_path / "x.nii.gz").dataobj)
    assert late_mean(tmp_path / "x.nii.gz", tmp_path / "m.nii.gz", [60, 60, 30, 90], 120) == 2
    got = np.asarray(nib.load(tmp_path / "m.nii.gz").dataobj)
    np.testing.assert_allclose(got, np.average(read[..., 2:], axis=3, weights=[30, 90]), rtol=1e-5)
    whole = (tmp_path / "x.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    for path, lengths in (("cut.nii.gz", [60] * 4), ("x.nii.gz", [60] * 3), ("m.nii.gz", [60] * 4)):
        with pytest.raises(InputError):
            late_mean(tmp_path / path, tmp_path / "n.nii.gz", lengths, 60)
    assert not (tmp_path / "n.nii.gz").exists()


# -- the whole way -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sessions", "people"), [(9, 6), pytest.param(47, 30, marks=pytest.mark.slow)])
def test_from_the_server_to_a_board_by_person(
    tmp_path: Path, own_cache: Path, capfd: pytest.CaptureFixture[str], sessions: int, people: int
) -> None:
    listing = ds004513(tmp_path / "there", sessions)
    count = 4 * sessions
    report = ["--no-images", "--jobs", "1", "--out", str(tmp_path / "p")]
    with serve(tmp_path / "there") as server:
        given = [f"server={server.address}", f"listing={listing}", "size=32", "register=auto"]
        options = ["--dataset", "openneuro", *(w for option in given for w in ("--data-option", option))]
        server.plan["ds004513/" + read_listing(listing)[9].path] = [404]
        assert main(["prepare", *options, "--download", *report]) == 2
        out, err = capfd.readouterr()
        assert "Licence CC0" in out and "doi:10.1126/sciadv.adi7632" in out and "undone here" in out
        assert f"{count - 1} of {count} files" in err and "Traceback" not in err
        assert main(["prepare", *options, "--download", *report]) == 0
        assert f"{sessions} pairs of {people} people" in capfd.readouterr().out
        assert "overlap_dataset" in (tmp_path / "p" / "report.csv").read_text()
    # The server is gone: the data are here.
    run = [
        "run",
        *options,
        "--methods",
        "average",
        "--protocol",
        "volume,readers",
        "--metrics",
        "psnr,cho_auc",
    ]
    run += ["--jobs", "0", "--out", str(tmp_path / "run")]
    assert main([*run, "--cases", "4"]) == 0
    assert main(run) == 0
    found = fusebench.load_run(tmp_path / "run")
    assert found.rows["case"].nunique() == sessions and found.rows["group"].nunique() == people
    board = found.board("volume")
    assert {"cho_auc.a", "cho_auc.b"} <= {c.id for c in board.columns if c.kind == "reading"}
    assert f"{sessions} cases of {people} subjects" in " ".join(board.notes)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["dataset"]["licence"] == "CC0" and "Castrillon" in manifest["dataset"]["citation"]


def test_unknown_accessions_and_people_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ds004513.*--dataset bids"):
        create_dataset("openneuro", accession="ds000001")
    with pytest.raises(InputError, match="people=nobody"):
        create_dataset("openneuro", people="nobody", data_dir=tmp_path).cases("test")
    with pytest.raises(InputError, match="--download"):
        create_dataset("openneuro", data_dir=tmp_path).cases("test")


def test_other_datasets_say_that_they_cannot_be_downloaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--dataset", "adni", "--data-dir", str(tmp_path), "--download"]) == 2
    assert "cannot be downloaded by a program: apply at ida.loni.usc.edu" in capfd.readouterr().err


def test_without_any_file_the_command_that_fetches_them_is_all_that_is_said(tmp_path: Path) -> None:
    dataset = create_dataset("openneuro", accession="ds004513", data_dir=tmp_path)
    with pytest.raises(InputError, match="none of the files of ds004513 is here; fetch them with") as error:
        dataset.every_case()
    assert "accession=ds004513 --download" in str(error.value) and "left out" not in str(error.value)
