"""SynthRAD and BraTS: layouts, roles on board and report, readings of pairs without a functional image."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fusebench.leaderboard import report
from fusebench.leaderboard.volumes import stored_cases
from fusebench.metrics.readers.findings import ANATOMY, SIGMA_A, SIGMA_B
from fusebench.metrics.readers.reading import game_of

from fusebench import create_dataset
from fusebench.cli import main
from fusebench.errors import InputError
from fusebench.testing.images import head

from ..layouts import brats, synthrad
from ..saving import save_volume


@pytest.fixture
def heads(tmp_path: Path) -> dict[str, Path]:
    for name, make in (("synthrad", synthrad), ("brats", brats)):
        make(tmp_path / name)
    return {name: tmp_path / name for name in ("synthrad", "brats")}


def test_synthrad_reads_brains_and_says_what_it_leaves_out(heads: dict[str, Path]) -> None:
    dataset = create_dataset("synthrad", data_dir=heads["synthrad"], size=32)
    cases = dataset.cases("test")
    assert [c.id for c in cases] == ["1BA001", "1BB002"]
    assert cases[0].roles == ("MR", "CT") and not cases[0].functional
    left = " | ".join(dataset.left_out())
    assert "1PA001" in left and "no brain" in left and "no ct beside it" in left
    b = cases[0].b
    # Hounsfield units beyond the window are clipped: air is black, and bone white.
    assert b.intensity == (-500.0, 1500.0)
    assert not dataset.doubts(cases[:1])


def test_the_window_is_an_option(heads: dict[str, Path]) -> None:
    one, other = (create_dataset("synthrad", data_dir=heads["synthrad"], size=32, window=w).cases("test")[0]
                  for w in ("-500,1500", "0,80"))  # fmt: skip
    assert one.fingerprint != other.fingerprint and other.b.intensity == (0.0, 80.0)
    for bad in ("80,0", "x", "1,2,3", 5):
        with pytest.raises(InputError, match=r"Hounsfield|window=5 is not text"):
            create_dataset("synthrad", data_dir=heads["synthrad"], window=bad)


def test_brats_reads_names_of_all_years_by_person(heads: dict[str, Path]) -> None:
    dataset = create_dataset("brats", data_dir=heads["brats"], size=32)
    cases = dataset.cases("test")
    assert [(c.id, c.group) for c in cases] == [
        ("BraTS20_Training_001", "BraTS20_Training_001"),
        ("BraTS-GLI-00005-000", "BraTS-GLI-00005"),
        ("Brats17_TCIA_1", "Brats17_TCIA_1"),
    ]
    assert cases[0].roles == ("T1ce", "FLAIR")
    assert any("later scan" in line for line in dataset.left_out())
    every = create_dataset("brats", data_dir=heads["brats"], size=32, visits="all").cases("test")
    assert len(every) == 4 and len({c.group for c in every}) == 3
    swapped = create_dataset("brats", data_dir=heads["brats"], size=32, a="FLAIR", b="T1ce")
    # Interpolated by other splines, as structural images are.
    np.testing.assert_allclose(swapped.cases("test")[0].a.data, cases[0].b.data, atol=0.1)
    assert swapped.describe().roles == ("FLAIR", "T1ce")
    for bad in ({"a": "PET"}, {"a": "FLAIR"}, {"visits": "x"}):
        with pytest.raises(InputError, match="brats"):
            create_dataset("brats", data_dir=heads["brats"], **bad)


def test_two_files_of_one_role_are_refused(tmp_path: Path) -> None:
    a, _, _ = head((34, 36, 34))
    for name in ("ct", "x_ct"):
        save_volume(tmp_path / "1BA001" / f"{name}.nii.gz", a)
    with pytest.raises(InputError, match="keep one of them"):
        create_dataset("synthrad", data_dir=tmp_path).cases("test")


@pytest.mark.parametrize(("name", "modality"), [("synthrad", "MR-CT"), ("brats", "MRI-MRI")])
def test_findings_of_anatomy_are_focal_and_of_their_own_depth(
    heads: dict[str, Path], name: str, modality: str
) -> None:
    case = create_dataset(name, data_dir=heads[name], size=48).cases("test")[0]
    findings = game_of(case).findings
    assert (findings.a.depth, findings.b.depth) == ANATOMY[modality]
    assert findings.a.sigma == findings.b.sigma == SIGMA_A != SIGMA_B


def test_board_and_report_say_what_the_sources_are_and_hold_no_images(
    heads: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = [
        "run",
        "--dataset",
        "synthrad",
        "--data-dir",
        str(heads["synthrad"]),
        "--data-option",
        "size=32",
    ]
    assert (
        main(
            [
                *command,
                "--methods",
                "average",
                "--metrics",
                "psnr",
                "--jobs",
                "0",
                "--cases",
                "1",
                "--out",
                str(run),
            ]
        )
        == 0
    )
    assert "a is the MR, b the CT" in " ".join(capfd.readouterr().out.split())
    assert next(stored_cases(run)).roles == ("MR", "CT")
    manifest = json.loads((run / "manifest.json").read_text())["dataset"]
    assert manifest["images_may_be_shared"] is False and "CC BY-NC" in manifest["licence"]
    assert main(["report", str(run), "--no-figures", "--out", str(tmp_path / "report")]) == 0
    assert "do not let them be passed on" in capfd.readouterr().err
    page = (tmp_path / "report" / "index.html").read_text()
    assert "No images: the terms of synthrad" in page and "doi:10.1002/mp.16529" in page
    images = [p for f in ("data", "pictures") for p in (tmp_path / "report" / f).rglob("*") if p.is_file()]
    assert not images
    assert (
        main(["report", str(run), "--no-figures", "--embed-volumes", "--out", str(tmp_path / "report")]) == 0
    )
    assert "warning: This report holds images of synthrad" in capfd.readouterr().err
    assert "keep it to yourself" in (tmp_path / "report" / "index.html").read_text()
    (case,) = (tmp_path / "report" / "cases").glob("*.html")
    labels = re.findall(r"difference from (\w+)<", case.read_text())
    assert labels == ["MR", "CT"] and "functional image" not in case.read_text()


def test_terms_are_those_of_the_dataset_whatever_a_manifest_says(
    heads: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["run", "--dataset", "brats", "--data-dir", str(heads["brats"]), "--data-option", "size=32"]
    assert (
        main(
            [
                *command,
                "--methods",
                "average",
                "--metrics",
                "psnr",
                "--jobs",
                "0",
                "--cases",
                "1",
                "--out",
                str(run),
            ]
        )
        == 0
    )
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    for said in (True, None):
        manifest["dataset"]["images_may_be_shared"] = said
        path.write_text(json.dumps(manifest))
        report.write(run, tmp_path / "report", figures=False)
        assert not list((tmp_path / "report" / "data").rglob("*.js"))


def test_every_dataset_names_its_terms() -> None:
    from fusebench.plugins import find_plugins

    datasets = find_plugins().datasets
    infos = [datasets.load(name).info for name in datasets.names()]
    assert all(info.licence for info in infos)
    assert {i.name for i in infos if not i.images_may_be_shared} == {"adni", "aanlib", "brats", "synthrad"}
