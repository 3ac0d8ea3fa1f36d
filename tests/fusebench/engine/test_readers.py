"""Protocol `readers` in a run: one more fusion, once-per-case set-up, entries from files, reasons."""

from __future__ import annotations

import csv
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import fusebench
from fusebench.engine.fusing import Here, fuse_again
from fusebench.method import MethodInfo, SliceMethod
from fusebench.metric import Metric
from fusebench.plugins import create_dataset, find_plugins
from fusebench.scoring.protocol import READINGS, default_protocols

DATA = {"size": 48}
METHODS = ["average", "max"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("run")
    return fusebench.run(
        METHODS, cases=2, data_options=DATA, metrics="psnr,reading", jobs=0, save="all", out=out
    )


def _values(run: Any) -> dict[tuple[str, ...], float]:
    rows = run.rows[run.rows["protocol"] == "readers"]
    return {(r.method, r.case, r.metric): r.value for r in rows.itertuples()}


def test_both_protocols_have_rows(made: Any) -> None:
    assert made.protocols == ["volume", "readers"]
    rows = made.rows.groupby("protocol")
    assert set(rows.get_group("volume")["metric"]) == {"psnr"}
    assert set(rows.get_group("readers")["metric"]) == set(READINGS)
    assert (made.rows["status"] == "ok").all()
    assert len(made.rows) == 2 * 2 * (1 + len(READINGS))


def test_protocols_follow_what_is_asked_for() -> None:
    assert default_protocols(()) == default_protocols(["all"]) == ("volume", "readers")
    assert default_protocols(["psnr", "ssim.*"]) == ("volume",)
    assert default_protocols(["reading", "cho_auc.a"]) == ("readers",)
    names = ["cho_auc", "mi", "psnr", "reading", "viff"]
    assert default_protocols(["cho*"], names) == ("readers",)
    assert default_protocols(["*i*"], names) == ("volume", "readers")
    assert default_protocols(["cho*", "ssim.*"], names) == ("volume", "readers")


def test_every_way_gives_the_same_numbers(made: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cases": 2, "data_options": DATA, "metrics": "reading"}
    parallel = fusebench.run(METHODS[::-1], jobs=2, out=tmp_path / "parallel", **options)
    # In two goes: first one case, then the rest.
    fusebench.run(METHODS, jobs=0, out=tmp_path / "resumed", **{**options, "cases": 1})
    resumed = fusebench.run(METHODS, jobs=0, out=tmp_path / "resumed", **options)
    assert _values(made) == _values(parallel) == _values(resumed)
    again = fusebench.run(METHODS, jobs=0, out=tmp_path / "resumed", **options)
    assert set(again.rows["run"]) == set(resumed.rows["run"])  # nothing was run anew


def test_a_case_is_set_up_once_for_all_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    metrics, count = find_plugins().metrics, list[str]()
    trial = metrics.load("reading").trial

    def counted(case: Any) -> Any:
        count.append(case.id)
        return trial(case)

    for name in {m.split(".")[0] for m in READINGS}:
        monkeypatch.setattr(metrics.load(name), "trial", counted)
    fusebench.run(METHODS, cases=2, data_options=DATA, metrics="reading", jobs=0, out=tmp_path)
    assert sorted(count) == sorted(set(count)) and len(count) == 2


def test_kept_volumes_come_with_their_findings(made: Any) -> None:
    case = create_dataset("phantom", **DATA).cases()[0]
    folder = made.folder / "fused" / "phantom" / case.id / "findings"
    assert {p.name for p in folder.iterdir()} == {
        *("mri.nii.gz", "pet.nii.gz", "average.nii.gz", "max.nii.gz", "findings.csv")
    }
    with_ = np.asarray(nib.load(folder / "pet.nii.gz").dataobj).T
    with open(folder / "findings.csv", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {r["kind"] for r in rows} == {"a", "b"} and {r["sign"] for r in rows} == {"1", "-1"}
    for row in rows:
        place = tuple(int(row[k]) for k in "dhw")
        if row["kind"] == "b" and case.b.data[place] < 0.75:  # brighter ones may be clipped
            change = with_[place] / case.b.data[place] - 1
            assert change == pytest.approx(int(row["sign"]) * float(row["depth"]), abs=0.01)


@pytest.mark.parametrize(
    "name",
    ["max.nii.gz", "sources/pet.nii.gz", "sources/lesion.nii.gz"]
    + [f"findings/{x}" for x in ("max.nii.gz", "average.nii.gz", "mri.nii.gz", "findings.csv")],
)
def test_a_kept_file_that_was_lost_or_damaged_comes_again(made: Any, tmp_path: Path, name: str) -> None:
    out = tmp_path / "copy"
    shutil.copytree(made.folder, out)
    lesion = "lesion.nii.gz" in name
    found = sorted(out.glob(f"fused/*/*/{name}"))
    assert len(found) == 1 if lesion else found
    path, options = found[0], {"data_options": DATA, "metrics": "reading", "jobs": 0, "save": "all"}
    want = read_bytes(path)
    for damage in (Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:40])):
        damage(path)
        again = fusebench.run(METHODS, cases=2, out=out, **options)
        assert again.failures.empty
        assert read_bytes(path) == want
        assert _values(again) == _values(made)


def read_bytes(path: Path) -> bytes:
    """A table as it is, a volume unpacked and without its note of what making it took."""
    if path.suffix == ".csv":
        return path.read_bytes()
    return np.asarray(nib.load(path).dataobj).tobytes()


def test_entries_from_files_are_read_alike(made: Any, tmp_path: Path) -> None:
    first, second = (c.id for c in create_dataset("phantom", **DATA).cases()[:2])
    entry = tmp_path / "results" / "mine"
    entry.mkdir(parents=True)
    for case in (first, second):
        kept = made.folder / "fused" / "phantom" / case
        shutil.copy(kept / "max.nii.gz", entry / f"{case}.nii.gz")
        if case == first:
            shutil.copy(kept / "findings" / "max.nii.gz", entry / f"{case}+findings.nii.gz")
    scored = fusebench.run(
        [],
        cases=2,
        data_options=DATA,
        metrics="reading",
        results_dir=tmp_path / "results",
        jobs=0,
        out=tmp_path / "o",
    )
    mine = {(c, m): v for (_, c, m), v in _values(scored).items()}
    for (method, case, metric), value in _values(made).items():
        if method == "max" and (case == first or metric in ("outline", "uptake_r2")):
            assert mine[case, metric] == pytest.approx(value, abs=1e-6), metric
    lost = scored.rows[(scored.rows["case"] == second) & (scored.rows["metric"] == "reading")].iloc[0]
    assert lost["status"] == "skip"
    assert lost["reason"].startswith(f"needs {second}+findings.nii.gz, made of the sources with findings")


def test_data_without_truth_have_readings(tmp_path: Path) -> None:
    case = create_dataset("phantom", size=64).cases()[0]
    for kind, volume in (("mri", case.a), ("pet", case.b)):
        nib.save(nib.Nifti1Image(volume.data.T, volume.affine), tmp_path / f"x_{kind}.nii.gz")
    run = fusebench.run(
        "average", dataset="pairs", data_dir=tmp_path, metrics="reading", jobs=0, out=tmp_path / "out"
    )
    rows = run.rows.set_index("metric")
    assert rows.loc["reading", "status"] == "ok" and 0 < rows.loc["reading", "value"] < 1.2
    assert rows.loc["uptake_r2", "status"] == "skip"
    assert "ground truth" in rows.loc["uptake_r2", "reason"]


def test_too_few_places_are_a_reason_not_a_failure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for kind in ("mri", "pet"):
        image = nib.Nifti1Image(rng.random((12, 12, 12)).astype(np.float32), np.eye(4))
        nib.save(image, tmp_path / f"x_{kind}.nii.gz")
    run = fusebench.run(
        "average", dataset="pairs", data_dir=tmp_path, metrics="reading", jobs=0, out=tmp_path / "out"
    )
    row = run.rows.set_index("metric").loc["reading"]
    assert row["status"] == "skip" and "fewest to read" in row["reason"]
    assert run.failures.empty


def test_a_method_that_breaks_on_findings_is_an_error(tmp_path: Path) -> None:
    """It fuses the plain pair and not the one with findings: its readings are errors, the rest stands."""
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "from fusebench.method import Method, MethodInfo\n"
        "class Once(Method):\n"
        "    info = MethodInfo(name='once', summary='fuses once')\n"
        "    calls = 0\n"
        "    def fuse(self, a, b):\n"
        "        self.calls += 1\n"
        "        if self.calls > 1:\n"
        "            raise RuntimeError('only once')\n"
        "        return (a + b) / 2\n"
    )
    run = fusebench.run(
        "once",
        cases=1,
        data_options=DATA,
        metrics="psnr,reading",
        plugins=[str(plugin)],
        jobs=0,
        out=tmp_path / "o",
    )
    status = run.rows.set_index("metric")["status"]
    assert status["psnr"] == "ok" and status["reading"] == "error"
    assert "only once" in run.rows.set_index("metric").loc["reading", "reason"]


def test_slices_without_findings_are_not_fused_again() -> None:
    fused = list[int]()

    class Slices(SliceMethod):
        info = MethodInfo(name="slices", summary="counts")

        def fuse_slices(self, a: Any, b: Any) -> Any:
            fused.append(len(a))
            return (a + b) / 2

    case = create_dataset("phantom", **DATA).cases()[0]
    game = import_module("fusebench.metrics.readers.reading").game_of(case)
    plain = (case.a.data + case.b.data) / 2
    again = fuse_again(Here(Slices()), case, (game.a_with, game.b_with), plain)
    changed = ((game.a_with != case.a.data) | (game.b_with != case.b.data)).any((1, 2))
    assert 0 < sum(fused) == changed.sum() < len(plain)
    np.testing.assert_allclose(again, (game.a_with + game.b_with) / 2, atol=1e-6)


def test_a_reader_outside_its_protocol_says_so() -> None:
    reader = find_plugins().metrics.load("reading")
    assert isinstance(reader, Metric) and reader.info.needs_trial and not reader.info.of_images
    a = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    with pytest.raises(fusebench.errors.InputError, match="protocol readers"):
        reader(a, a, a)
