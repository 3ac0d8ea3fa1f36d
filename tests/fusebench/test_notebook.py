"""`show`, what it draws where, and the example notebook, whose cells are run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import fusebench
from fusebench.case import Case, Pair, Volume
from fusebench.errors import FuseBenchError, InputError
from fusebench.testing.notebooks import run_notebook

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def case() -> Case:
    return fusebench.create_dataset("phantom", size=32).cases("test")[1]


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def drawn(figure: Figure, number: int) -> np.ndarray:
    return np.asarray(figure.axes[number].images[0].get_array())


def test_sources_and_fused_images_stand_by_name_in_three_planes(case: Case) -> None:
    mine = 0.5 * case.a.data + 0.5 * case.b.data
    figure = fusebench.show(case, "average", {"mine": mine}, mine, at=(10, 12, 14))
    assert titles(figure) == ["MRI", "PET", "average", "mine", "fused"]
    assert len(figure.axes) == 15
    assert np.array_equal(drawn(figure, 0), case.a.data[10, ::-1])
    assert np.array_equal(drawn(figure, 5), case.a.data[:, 12][::-1])
    assert np.array_equal(drawn(figure, 10), case.a.data[:, :, 14][::-1])
    assert np.allclose(drawn(figure, 2), drawn(figure, 3), atol=1e-6), "a method by name is fused"
    assert "axial 10, coronal 12, sagittal 14" in figure.texts[0].get_text()


def test_radiologists_see_the_right_side_on_the_left(case: Case) -> None:
    usual, turned = (
        fusebench.show(case, radiological=r, planes=["axial", "sagittal"]) for r in (False, True)
    )
    assert np.array_equal(drawn(usual, 0), drawn(turned, 0)[:, ::-1])
    assert np.array_equal(drawn(usual, 2), drawn(turned, 2)), "a sagittal slice has one side only"
    sides = [[text.get_text() for text in figure.axes[0].texts] for figure in (usual, turned)]
    assert sides == [["L", "R"], ["R", "L"]]


def test_differences_are_to_the_sources(case: Case) -> None:
    figure = fusebench.show(case, "source-pet", difference=True, planes="axial")
    assert titles(figure)[3:] == ["− MRI", "− PET"]
    middle = case.a.shape[0] // 2
    assert np.allclose(drawn(figure, 3), (case.b.data - case.a.data)[middle, ::-1], atol=1e-6)
    assert not drawn(figure, 4).any()


def test_colour_is_that_of_the_functional_image(case: Case) -> None:
    figure = fusebench.show(case, "average", colour=True, planes="axial")
    grey, functional, fused = (drawn(figure, i) for i in range(3))
    assert grey.ndim == 2 and functional.shape == fused.shape == (32, 32, 3)
    assert len(np.unique(fused.reshape(-1, 3), axis=0)) > 50 and (fused[..., 0] != fused[..., 2]).any()


def test_a_pair_without_function_has_no_colour(case: Case) -> None:
    other = replace(case, meta={"a": "MRI", "b": "CT", "functional": False})
    assert titles(fusebench.show(other, planes="axial")) == ["MRI", "CT"]
    with pytest.raises(InputError, match="MRI and CT show no function"):
        fusebench.show(other, colour=True)


def test_findings_are_in_the_sources_and_circled_where_they_lie(case: Case) -> None:
    plain, figure = (
        fusebench.show(case, "average", findings=f, planes="axial", at=(15, 16, 16)) for f in (0, 1)
    )
    assert not plain.axes[0].patches
    assert not np.array_equal(drawn(plain, 1), drawn(figure, 1))
    circles = figure.axes[1].patches
    changed = np.abs(drawn(figure, 1) - drawn(plain, 1)) > 0.05
    inside = [changed[round(float(c.center[1])), round(float(c.center[0]))] for c in circles]
    assert any(inside), "a circle lies where the image was changed"
    assert len(figure.axes[0].patches) == len(circles)


def test_a_picture_has_one_row_and_no_sides() -> None:
    a, b = np.random.default_rng(0).random((2, 1, 9, 12), dtype=np.float32)
    chroma = np.full((2, 1, 9, 12), 90, np.uint8)
    pair = Pair(Volume(a), Volume(b, chroma=chroma), np.ones((1, 9, 12), bool))
    figure = fusebench.show(pair, b[0], colour=True)
    assert len(figure.axes) == 3 and not figure.axes[0].texts
    assert np.array_equal(drawn(figure, 0), a[0]) and drawn(figure, 2).shape == (9, 12, 3)


def test_a_figure_shows_itself_in_a_notebook(case: Case) -> None:
    assert fusebench.show(case, planes="axial")._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("fused", "options", "message"),
    [
        (np.zeros((3, 3, 3)), {}, "has shape"),
        (np.zeros((32, 32, 32), int), {}, "give floats"),
        ("averge", {}, "did you mean average"),
        ("average", {"planes": "front"}, "there are axial"),
        ("average", {"at": (40, 0, 0)}, "no voxel"),
        ("average", {"difference": "c"}, "give True"),
        ("average", {"colour": "rainbow"}, "the colour maps are"),
    ],
)
def test_what_cannot_be_shown_is_one_line(case: Case, fused: object, options: dict, message: str) -> None:
    with pytest.raises(FuseBenchError, match=message):
        fusebench.show(case, fused, **options)


def test_the_example_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in run_notebook(NOTEBOOK) if cell.kind == "code"]
    figures = [c.result for c in cells if isinstance(c.result, Figure)]
    assert len(figures) == 4 and all(f._repr_png_() for f in figures)
    assert "0 failed" in cells[-2].printed and "<table>" in cells[-2].result._repr_html_()
    assert (tmp_path / "runs" / "notebook" / "rows.jsonl").is_file()
    assert list(cells[-1].result.index) == ["average", "dwt", "laplacian", "source-mri"]
