"""Figures and the contact sheet: they are written, hold what they should, and take any name."""

from __future__ import annotations

import importlib
import io
import itertools
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from fusebench.case import Case, Pair, Volume
from fusebench.cli import main
from fusebench.engine.volumes import store_sources

from .conftest import EFFECTS, make_run

charts = importlib.import_module("fusebench.leaderboard.charts")
contact = importlib.import_module("fusebench.leaderboard.contact_sheet")
sheet = importlib.import_module("fusebench.images.sheet")
tables = importlib.import_module("fusebench.leaderboard.tables")


def text_of(figure: Any) -> str:
    from matplotlib.text import Text

    return "\n".join(t.get_text() for t in figure.findobj(Text))


@pytest.fixture(scope="module")
def board() -> Any:
    effects = {**EFFECTS, "a$x$_b": 0.3, "dead": 0.0}
    run = make_run(
        effects,
        controls=("source-mri", "noise"),
        fail={"net": [1], "dead": list(range(8))},
        metrics=["psnr", "nabf"],
    )
    return tables.build(*run, "volume")


def test_every_chart_of_a_board_is_there(board: Any) -> None:
    stems = [stem for stem, _, _ in charts.all_charts(board)]
    assert stems == [
        "critical-difference", "rank-distribution", "metric-correlation", "quality-time",
        "distribution-psnr", "paired-psnr", "distribution-nabf", "paired-nabf",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["critical_difference", "rank_distribution", "quality_time"])
def test_ranked_methods_are_named(board: Any, name: str) -> None:
    text = text_of(getattr(charts, name)(board))
    assert all(charts.plain(m) in text for m in board.ranking.order)
    assert "dead" not in text


def test_controls_are_drawn_for_reference(board: Any) -> None:
    for figure in (charts.critical_difference(board), charts.distribution(board, board.columns[0])):
        assert "source-mri" in text_of(figure) and "noise" in text_of(figure)


def test_points_are_subjects() -> None:
    board = tables.build(*make_run({"a": 1.0, "b": 0.0}, cases=20, per_subject=5, metrics=["psnr"]), "volume")
    figure = charts.distribution(board, board.columns[0])
    assert len(figure.axes[0].collections[-1].get_offsets()) == 2 * 4
    lines = charts.paired(board, board.columns[0]).axes[0].collections[0]
    assert len(lines.get_segments()) == 4


def test_the_point_of_a_lone_subject_lies_on_its_box() -> None:
    board = tables.build(*make_run({"a": 1.0, "b": 0.0}, cases=3, per_subject=3, metrics=["psnr"]), "volume")
    points = charts.distribution(board, board.columns[0]).axes[0].collections[-1].get_offsets()
    assert np.asarray(points)[:, 1].tolist() == [0, 1]


def test_saved_twice_is_the_same_file_and_both_kinds(board: Any, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        paths = charts.save(charts.quality_time(board), tmp_path / folder / "x")
        assert [p.suffix for p in paths] == [".png", ".svg"]
    assert (tmp_path / "one" / "x.svg").read_bytes() == (tmp_path / "two" / "x.svg").read_bytes()
    assert Image.open(tmp_path / "one" / "x.png").width > 500


def test_labels_of_close_points_do_not_overlap_and_stay_in_the_axes() -> None:
    names = ["average", "max", "blend-0.35", "blend-0.65", "laplacian", "guided", "a-long-name-far-right"]
    rows, manifest = make_run(dict.fromkeys(names, 0.0), cases=4)
    seconds = dict(zip(names, [0.0011, 0.0012, 0.00115, 0.0012, 0.05, 0.05, 20.0], strict=True))
    rows["fuse_seconds"] = rows["method"].map(seconds)
    figure = charts.quality_time(tables.build(rows, manifest, "volume"))
    (ax,) = figure.axes
    boxes = [t.get_window_extent() for t in ax.texts]
    assert len(boxes) == len(names)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    inside = ax.get_window_extent()
    assert all(inside.x0 <= b.x0 and b.x1 <= inside.x1 for b in boxes)


def test_one_subject_has_no_test_charts() -> None:
    board = tables.build(*make_run({"a": 1.0, "b": 0.0}, cases=3, per_subject=3, metrics=["psnr"]), "volume")
    assert [s for s, _, _ in charts.all_charts(board)] == ["quality-time", "distribution-psnr"]


def keep(path: Path, data: Any, spacing: tuple[float, float, float] = (1, 1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(data, np.diag([*spacing, 1.0])).to_filename(path)


def test_sheet_of_a_run_is_drawn_again_only_when_a_volume_is_new(tmp_path: Path) -> None:
    assert contact.of_run(tmp_path) is None
    case = tmp_path / "fused" / "set" / "case1"
    volume = np.full((8, 8, 4), 0.5, np.float32)  # (W, H, D) on disk
    for name in ("sources/mri", "sources/pet", "average"):
        keep(case / f"{name}.nii.gz", volume, (1, 1, 2))
    path = contact.of_run(tmp_path)
    assert path == tmp_path / "figures" / "case1.png"
    first, time = path.read_bytes(), path.stat().st_mtime_ns
    as_it_was = first[:-1] + b"x"  # a PNG still, for who reads no further than its header
    path.write_bytes(as_it_was)
    os.utime(path, ns=(time, time))
    assert contact.of_run(tmp_path) == path and path.read_bytes() == as_it_was
    contact.of_run(tmp_path, radiological=True)
    assert path.read_bytes() != as_it_was  # the same volumes, seen from the other side
    keep(case / "max.nii.gz", volume, (1, 1, 2))
    contact.of_run(tmp_path)
    assert Image.open(path).width > Image.open(io.BytesIO(first)).width
    # 4 slices of 2 mm are as high as 8 voxels of 1 mm are wide: square panels, and one in colour.
    assert Image.open(path).height >= 4 * sheet.WIDTH


def test_sheet_of_a_run_leaves_out_volumes_of_another_grid_and_sets_controls_apart(tmp_path: Path) -> None:
    case = tmp_path / "fused" / "set" / "case1"
    volume = np.full((8, 8, 4), 0.5, np.float32)
    for name in ("sources/mri", "sources/pet", "average"):
        keep(case / f"{name}.nii.gz", volume)
    path = contact.of_run(tmp_path)
    assert path is not None
    before = Image.open(path).size
    keep(case / "old.nii.gz", np.full((6, 6, 3), 0.5, np.float32))  # of another run into the same folder
    keep(case / "shifted.nii.gz", volume, (1, 1, 3))
    contact.of_run(tmp_path)
    assert Image.open(path).size == before
    keep(case / "noise.nii.gz", volume)
    (tmp_path / "manifest.json").write_text('{"methods": {"noise": {"control": true}}}')
    contact.of_run(tmp_path)
    assert Image.open(path).width == before[0] and Image.open(path).height > 1.8 * before[1]


def test_a_second_source_that_shows_no_function_gives_no_colour(tmp_path: Path) -> None:
    modes = []
    for functional in (True, False):
        case = Case("c", "set", "g", "0", partial(flat_pair, 0.5), meta={"functional": functional})
        store_sources(tmp_path / "fused" / "set" / "c", case, case.fingerprint)
        keep(tmp_path / "fused" / "set" / "c" / "average.nii.gz", np.full((6, 5, 4), 0.5, np.float32))
        path = contact.of_run(tmp_path)
        assert path is not None
        modes.append(Image.open(path).mode)
        shutil.rmtree(tmp_path / "fused")
    assert modes == ["RGB", "L"]


def flat_pair(level: float) -> Pair:
    volume = Volume(np.full((4, 5, 6), level, np.float32))
    return Pair(volume, volume, volume.data > 0)


def test_a_metric_without_a_finite_value_has_no_chart() -> None:
    rows, manifest = make_run({"a": 1.0, "b": 0.0, "copy": 0.0}, controls=("copy",), metrics=["psnr", "ssim"])
    infinite = rows["metric"] == "psnr"
    for some, stems in ((infinite, []), (infinite & (rows["method"] != "copy"), ["distribution-psnr"])):
        board = tables.build(rows.assign(value=rows["value"].mask(some, np.inf)), manifest, "volume")
        drawn = [stem for stem, _, _ in charts.all_charts(board)]
        assert [s for s in drawn if s.endswith("-psnr")] == stems and "paired-ssim" in drawn


def test_the_side_asked_for_on_the_command_line_reaches_the_sheet(tmp_path: Path) -> None:
    options = ["--methods", "average", "--metrics", "psnr", "--cases", "1", "--data-option", "size=24"]
    options += ["--jobs", "0", "--out", str(tmp_path / "run")]
    said = []
    for more in ([], ["--radiological"]):
        assert main([*options, *more]) == 0
        (sheet_of_run,) = (tmp_path / "run" / "figures").iterdir()
        said.append(Image.open(sheet_of_run).info["fusebench"])
    assert said == ["", sheet.RADIOLOGICAL]
    assert main(["report", str(tmp_path / "run"), "--no-figures", "--radiological"]) == 0
    assert "radiological view" in (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("low", [-1e-7, 12.5, 1.5e7])
@pytest.mark.parametrize("name", ["m", "a-rather-long-name@with=parameter"])
def test_every_label_lies_inside_the_figure(low: float, name: str, tmp_path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    rows, manifest = make_run({f"{name}-{i}": 0.01 * i for i in range(6)}, metrics=["psnr"])
    rows["value"] = low * (1 + rows["value"] / 100)
    board = tables.build(rows, manifest, "volume")
    for draw in (charts.distribution, charts.paired):
        figure = draw(board, board.columns[0])
        charts.save(figure, tmp_path / "figure")
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        (ax,) = figure.axes
        view = ax.viewLim
        ticks = [t for t in ax.get_xticklabels() if view.x0 <= t.get_position()[0] <= view.x1]
        ticks += [t for t in ax.get_yticklabels() if view.ymin <= t.get_position()[1] <= view.ymax]
        titles = [ax.xaxis.label, ax.yaxis.label]
        others = [ax.xaxis.get_offset_text(), ax.yaxis.get_offset_text()]
        boxes = {t: t.get_window_extent(renderer) for t in [*ticks, *titles, *others] if t.get_text()}
        assert len(boxes) > 8
        assert min(b.x0 for b in boxes.values()) > 0 and min(b.y0 for b in boxes.values()) > 0
        assert max(b.x1 for b in boxes.values()) < figure.bbox.width
        assert max(b.y1 for b in boxes.values()) < figure.bbox.height
        assert not any(boxes[a].overlaps(boxes[b]) for a in titles for b in ticks if a.get_text())
