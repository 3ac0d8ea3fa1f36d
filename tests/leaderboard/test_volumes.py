"""Kept volumes of a run folder, as a report finds them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from fusebench.leaderboard.volumes import of_runs, stored_cases

from fusebench.case import Volume
from fusebench.engine.volumes import store
from fusebench.errors import InputError
from fusebench.images.read_write import read_raw


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    case, like = tmp_path / "fused" / "d" / "c", Volume(np.zeros((2, 3, 4), np.float32))
    for name in ("sources/mri", "sources/pet", "mean"):
        store(case / f"{name}.nii.gz", like.data, like, "key")
    for name in ("more", "sources/chroma", "sources/lesion"):
        os.mkfifo(case / f"{name}.nii.gz")
    [found] = stored_cases(tmp_path)
    assert (list(found.fused), found.chroma, found.lesion) == (["mean"], None, None)
    with pytest.raises(InputError, match="neither a file nor a folder"):
        read_raw(case / "more.nii.gz")
    (case / "sources" / "pet.nii.gz").unlink()
    os.mkfifo(case / "sources" / "pet.nii.gz")
    assert list(stored_cases(tmp_path)) == []


def test_several_runs_show_the_volumes_of_cases_whose_rows_they_show(tmp_path: Path) -> None:
    like = Volume(np.zeros((2, 3, 4), np.float32))
    for run, method in (("one", "mean"), ("two", "max")):
        for case in ("c", "d"):
            for name in ("sources/mri", "sources/pet", method):
                store(tmp_path / run / "fused" / "data" / case / f"{name}.nii.gz", like.data, like, "key")
    both = {tmp_path / "one": {"data/c", "data/d"}, tmp_path / "two": {"data/d"}}
    found = {name: sorted(case.fused) for name, case in of_runs(both).items()}
    assert found == {"data/c": ["mean"], "data/d": ["max", "mean"]}
    gone = {tmp_path / "one": {"data/c/mean", "data/d/mean"}}
    assert {name: sorted(case.fused) for name, case in of_runs(both, gone).items()} == {"data/d": ["max"]}
