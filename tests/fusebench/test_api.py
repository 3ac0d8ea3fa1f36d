"""The public functions: `run`, `load_run`, `fuse`, `load_case`, and the names of the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import fusebench
from fusebench.case import Volume
from fusebench.engine.request import Observer
from fusebench.errors import FuseBenchError, InputError

from ..saving import save_volume

SMALL = {"data_options": {"size": 24}, "jobs": 0, "device": "cpu", "metrics": "psnr,ssim"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> fusebench.Run:
    out = tmp_path_factory.mktemp("api") / "run"
    return fusebench.run(["average", "max,blend@0.20"], cases=2, protocols="volume,slices", out=out, **SMALL)


def test_a_run_holds_rows_boards_and_its_folder(made: fusebench.Run) -> None:
    rows = made.rows
    assert set(rows.method) == {"average", "max", "blend@0.20"} and rows.case.nunique() == 2
    assert len(rows) == 3 * 2 * 2 * 2 and set(rows.status) == {"ok"}
    assert made.failures.empty and made.protocols == ["volume", "slices"]
    assert "average" in made.board().to_markdown()
    assert "max" in made.board("slices").to_markdown()
    assert (made.folder / "leaderboard.csv").is_file()
    assert "3 methods, 2 cases, 24 rows, 0 failed" in repr(made)


def test_a_run_is_the_same_from_its_folder(made: fusebench.Run) -> None:
    again = fusebench.load_run(made.folder)
    columns = ["method", "case", "protocol", "metric", "value", "key"]
    order = columns[:4]
    one, two = (r.rows[columns].sort_values(order).reset_index(drop=True) for r in (made, again))
    pd.testing.assert_frame_equal(one, two, check_dtype=False)
    assert again.protocols == made.protocols
    assert again.board().to_markdown() == made.board().to_markdown()


def test_values_are_those_of_fusing_and_scoring_by_hand(made: fusebench.Run) -> None:
    case = fusebench.create_dataset("phantom", size=24).cases("test")[0]
    fused = fusebench.fuse(case, method="blend@0.20")
    assert np.allclose(fused, 0.8 * case.a.data + 0.2 * case.b.data, atol=1e-6)
    images, ids = (case.a.data, case.b.data, fused), ["psnr", "ssim"]
    for protocol in ("volume", "slices"):
        rows = made.rows.query("method == 'blend@0.20' and protocol == @protocol and case == @case.id")
        values = fusebench.evaluate(case, fused, ids, protocol=protocol)
        assert dict(zip(rows.metric, rows.value, strict=True)) == pytest.approx(values, rel=1e-6)
    by_hand = fusebench.evaluate(*images, ids, mask=case.mask, spacing=case.a.spacing)
    assert by_hand == pytest.approx(fusebench.evaluate(case, fused, ids), rel=1e-9)
    with pytest.warns(UserWarning, match="not the board's numbers"):
        assert fusebench.evaluate(*images, ids)["psnr"] > by_hand["psnr"] + 3
    assert list(fusebench.evaluate(case, fused, protocol="paper")) == [
        "psnr@paper", "ssim@torchmetrics", "nmi@dc2fusion", "mi@dc2fusion",
    ]  # fmt: skip
    assert list(fusebench.evaluate(case, fused, ["mi@dc2fusion"], protocol="paper")) == ["mi@dc2fusion"]
    with pytest.raises(InputError, match=r"'paper' scores psnr@paper, .* not ssim, vif"):
        fusebench.evaluate(case, fused, "psnr@paper,ssim,vif", protocol="paper")


def test_a_case_is_scored_with_its_ground_truth_and_reference() -> None:
    case = fusebench.create_dataset("phantom", size=32, misalign=4.0, reference="aligned").cases("test")[1]
    fused = fusebench.fuse(case, "average")
    want = fusebench.evaluate(
        case.a.data, case.truth["pet_aligned"], fused, ["psnr.b"], mask=case.mask, spacing=case.a.spacing
    )
    assert fusebench.evaluate(case, fused, ["psnr.b"]) == want
    assert fusebench.evaluate(case.pair, Volume(fused), ["psnr.b"]) == want
    assert np.isfinite(fusebench.evaluate(case, fused, ["gm_wm_auc"])["gm_wm_auc"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "readers"}, "reads a second fusion"),
        ({"protocol": "volumes"}, "is not known; a fused image is scored by volume, slices, paper"),
        ({"metrics": ["lesion_contrast"]}, "needs the method itself"),
        ({"metrics": ["cho_auc"]}, "scored in protocol readers only"),
        ({"metrics": ["psrn"]}, "did you mean psnr"),
        ({"mask": True}, "leave out mask and spacing"),
    ],
)
def test_what_a_fused_image_alone_cannot_be_scored_by(options: dict[str, object], message: str) -> None:
    case = fusebench.create_dataset("phantom", size=24).cases("test")[0]
    with pytest.raises(FuseBenchError, match=message):
        fusebench.evaluate(case, case.a.data, **options)
    with pytest.raises(InputError, match="has shape"):
        fusebench.evaluate(case, case.a.data[:5])


def test_rows_are_read_from_a_folder_and_from_its_files(made: fusebench.Run, tmp_path: Path) -> None:
    order = ["method", "case", "protocol", "metric"]
    tables = [
        fusebench.read_rows(path).sort_values(order).reset_index(drop=True)
        for path in (str(made.folder), made.folder / "rows.jsonl", made.folder / "rows.parquet")
    ]
    for table in tables:
        pd.testing.assert_frame_equal(table, tables[0], check_dtype=False)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "other.parquet")
    for path, message in (("none", "give a run folder"), ("other.parquet", "it lacks method")):
        with pytest.raises(InputError, match=message):
            fusebench.read_rows(tmp_path / path)
    with pytest.raises(InputError, match=r"not a run folder, rows\.jsonl or rows\.parquet"):
        fusebench.read_rows(made.folder / "leaderboard.md")


def test_what_a_notebook_prints_is_short_and_reads_nothing(made: fusebench.Run) -> None:
    dataset = fusebench.create_dataset("phantom", size=24)
    case = dataset.cases("test")[0]
    assert repr(case) == f"<case {case.id}, dataset phantom>" and "pair" not in vars(case)
    assert "24 x 24 x 24" in repr(case.a) and "24 x 24 x 24" in repr(case) and "foreground" in repr(case.pair)
    assert "lesion" in repr(case.truth) and "lesion" in case.truth._ipython_key_completions_()
    assert repr(fusebench.create_method("dwt", wavelet="db4")) == "create_method('dwt', wavelet='db4')"
    board = made.board()
    assert repr(board).startswith("<board volume of phantom: ") and "average" in repr(board)
    assert all(len(repr(x)) < 160 for x in (made, board, case, case.a, case.pair, case.truth, dataset))


def test_methods_take_arrays_as_they_take_tensors() -> None:
    a, b = np.random.default_rng(0).random((2, 5, 6, 7))
    for name in ("average", "densefuse"):
        method = fusebench.create_method(name)
        method.setup()
        tensors = [torch.tensor(x, dtype=torch.float32) for x in (a, b)]
        made, wanted = method.fuse(a, b), method.fuse(*tensors)
        assert isinstance(made, np.ndarray) and isinstance(wanted, torch.Tensor)
        assert np.array_equal(made, wanted.numpy())
    slices = method.fuse_slices(a[:, None], b[:, None])
    assert np.allclose(slices[:, 0], made, atol=1e-6) and method.by_axial_slice


def test_a_second_run_makes_nothing_again_and_tells_each_line(made: fusebench.Run) -> None:
    lines: list[str] = []
    given = {**SMALL, "protocols": ["volume"], "out": made.folder, "progress": lines.append}
    fusebench.run("average,max", cases=2, **given)
    assert not any(" on phantom" in line for line in lines)
    fusebench.run("pca", cases=1, **given)
    assert sum(line.startswith("pca on phantom") for line in lines) == 1


def test_an_observer_hears_each_task(tmp_path: Path) -> None:
    class Heard(Observer):
        def __init__(self) -> None:
            self.labels: list[str] = []

        def finished(self, task, rows) -> None:
            self.labels.append(f"{task.label}: {len(rows)}")

    heard = Heard()
    given = {**SMALL, "metrics": "psnr"}
    fusebench.run("average", cases=2, out=tmp_path, progress=heard, **given)
    assert [label.split(": ")[1] for label in heard.labels] == ["1", "1"]


def test_what_fails_is_a_row_and_among_the_failures(tmp_path: Path) -> None:
    plugin = tmp_path / "fails.py"
    plugin.write_text(
        "from fusebench.method import Method, MethodInfo\n\n\nclass Fails(Method):\n"
        '    info = MethodInfo(name="fails", summary="test")\n\n'
        '    def fuse(self, a, b):\n        raise ValueError("no way")\n'
    )
    made = fusebench.run("fails,average", cases=1, out=tmp_path / "run", plugins=[str(plugin)], **SMALL)
    assert set(made.failures.method) == {"fails"} and made.failures.reason.str.contains("no way").all()


def test_a_wrong_name_or_folder_is_one_line(made: fusebench.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows of protocol 'paper'; there are volume, slices"):
        made.board("paper")
    with pytest.raises(InputError):
        fusebench.load_run(tmp_path / "nothing")
    with pytest.raises(fusebench.errors.UnknownNameError, match="did you mean average"):
        fusebench.run("averge", **SMALL)


# -- single steps --------------------------------------------------------------------------------


def test_fuse_takes_pictures_and_volumes_of_any_array() -> None:
    a, b = np.random.default_rng(0).random((2, 5, 6, 7))
    assert np.allclose(fusebench.fuse(a, b, "average"), (a + b) / 2, atol=1e-6)
    picture = fusebench.fuse(a[0].tolist(), b[0], "blend", t=1.0)
    assert picture.shape == (6, 7) and picture.dtype == np.float32 and np.allclose(picture, b[0], atol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 5)), "of one shape are needed"),
        (np.zeros(4), np.zeros(4), "of one shape are needed"),
        (np.zeros((4, 4)), np.full((4, 4), 255), "image b has values outside"),
        (np.full((4, 4), np.nan), np.zeros((4, 4)), "image a has values that are NaN"),
        (np.zeros((4, 4)), None, "two images, or a case"),
    ],
)
def test_fuse_refuses_images_that_do_not_fit(a: object, b: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fusebench.fuse(a, b)


def test_load_case_prepares_two_files(tmp_path: Path) -> None:
    for name, seed in (("mri", 0), ("pet", 1)):
        values = np.random.default_rng(seed).random((34, 36, 40), dtype=np.float32)
        save_volume(tmp_path / f"{name}.nii.gz", values)
    case = fusebench.load_case(tmp_path / "mri.nii.gz", tmp_path / "pet.nii.gz", id="mine", recipe="none")
    assert case.id == "mine" and case.a.shape == case.b.shape == (34, 36, 40)
    assert (case.b.data.min(), case.b.data.max()) == (0, 1)
    assert fusebench.fuse(case).shape == (34, 36, 40)


def test_the_package_lists_its_public_names_and_little_else() -> None:
    assert set(dir(fusebench)) == set(fusebench.__all__)
    assert {"run", "load_run", "fuse", "load_case", "evaluate", "Run"} <= set(dir(fusebench))
    for name in fusebench.__all__:
        assert getattr(fusebench, name) is not None


A = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 8, 8)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fusebench.fuse("a.nii", "b.nii"), "load_case"),
        (lambda: fusebench.fuse(A * np.nan, A), "NaN or infinite"),
        (lambda: fusebench.fuse(A, A, fusebench.create_method("dwt"), levels=2), "made already"),
        (lambda: fusebench.load_case("no.nii", "b.nii"), "no.nii: no such file"),
        (lambda: fusebench.show(A, A), "needs a case"),
        (lambda: fusebench.run("average", foo=1), "no parameter 'foo'"),
        (lambda: fusebench.run("average", cases=0), "cases=0: it must be 1 or more"),
        (lambda: fusebench.run("average", cases="2"), "not a whole number"),
        (lambda: fusebench.create_method("dwt", levels="x"), "not a whole number"),
        (lambda: fusebench.create_method("dwt", lvl=1), "no parameter 'lvl'"),
        (lambda: fusebench.create_dataset("phantom", size="x"), "not a whole number"),
    ],
)
def test_what_a_notebook_may_get_wrong_is_said_in_one_line(call, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_a_made_method_fuses_as_its_name_does() -> None:
    made = fusebench.create_method("blend@0.20")
    assert np.array_equal(fusebench.fuse(A, A[:, ::-1], made), fusebench.fuse(A, A[:, ::-1], "blend@0.20"))


def test_names_may_be_one_string() -> None:
    several = fusebench.list_methods(["dwt", "ma*"], ["matr*"])
    assert fusebench.list_methods("dwt, ma*", exclude="matr*") == several and "max" in several
