"""A learned method that equals a simple one is said to."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from .conftest import make_run, write_run

likeness = importlib.import_module("fusebench.leaderboard.likeness")
publish = importlib.import_module("fusebench.leaderboard.publish")
folders = importlib.import_module("fusebench.store.folder")
runs = importlib.import_module("fusebench.leaderboard.runs")

SHAPE = (12, 14, 16)


def stored(folder: Path, **images: Any) -> Path:
    """A run of `images` with sources beside them."""
    rows, manifest = make_run(dict.fromkeys([*images, "net-gone"], 1.0), cases=2, metrics=["psnr"])
    run = write_run(folder, rows, manifest)
    rng = np.random.default_rng(0)
    a, b = rng.random((2, *SHAPE), dtype=np.float32)
    put = {"sources/mri": a, "sources/pet": b, **{m: make(a, b) for m, make in images.items()}}
    for name, data in put.items():
        path = run / "fused" / "phantom" / "case-000" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(data.astype(np.float32).T, np.eye(4)), path)
    return run


def mean(a: Any, b: Any) -> Any:
    return (a + b) / 2


@pytest.mark.parametrize(
    ("net", "other"),
    [
        (mean, "average"),
        (lambda a, b: mean(a, b) + 0.002, "average"),
        (lambda a, b: 0.8 * mean(a, b) + 0.1, "average"),  # the same picture with another contrast
        (lambda a, b: a, "copy"),
        (lambda a, b: 0.6 * a + 0.4 * b, ""),
    ],
)
def test_equal_is_a_correlation_or_a_small_difference(net: Any, other: str, tmp_path: Path) -> None:
    run = stored(tmp_path / "run", net=net, average=mean, copy=lambda a, b: a)
    manifest = runs.load([run]).manifest
    assert likeness.equals(run, manifest["methods"]) == ({"net": other} if other else {})


def test_the_board_says_so_and_the_comparison_is_kept_until_a_volume_changes(tmp_path: Path) -> None:
    run = stored(tmp_path / "run", net=mean, average=mean)
    found = runs.load([run])
    board = publish.boards(folders.RunFolder(run), found.rows)["volume"]
    assert next(x for x in board.lines if x.method == "net").alike == "average"
    assert any(n.startswith("≈ average: net") for n in board.notes)
    assert "≈ average: net" in board.to_markdown()
    kept = run / "figures" / "likeness.json"
    kept.write_text(kept.read_text().replace('"average"}', '"stored"}'))
    assert likeness.equals(run, found.manifest["methods"]) == {"net": "stored"}
    os.utime(run / "fused" / "phantom" / "case-000" / "net.nii.gz", ns=(1, 1))
    assert likeness.equals(run, found.manifest["methods"]) == {"net": "average"}


def test_without_volumes_or_with_a_damaged_one_nothing_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bare", *make_run({"net": 1.0, "average": 1.0}, cases=2, metrics=["psnr"]))
    assert likeness.equals(run, runs.load([run]).manifest["methods"]) == {}
    run = stored(tmp_path / "run", net=mean, average=mean)
    (run / "fused" / "phantom" / "case-000" / "net.nii.gz").write_bytes(b"no image")
    assert likeness.equals(run, runs.load([run]).manifest["methods"]) == {}
