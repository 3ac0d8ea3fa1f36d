"""Every path of a run folder, and that a run writes there and nowhere else."""

from __future__ import annotations

from pathlib import Path

import fusebench
from fusebench.store.folder import RunFolder


def test_paths_lie_in_the_folder_and_differ() -> None:
    folder = RunFolder(Path("run"))
    paths = [
        *(folder.rows, folder.parquet, folder.csv, folder.manifest, folder.lock, folder.figures),
        *(folder.report, folder.board(), folder.board("slices"), folder.fused("d", "c", "m@v")),
        *(folder.source("d", "c", "mri"), folder.source("d", "c", "pet")),
    ]
    assert len(set(paths)) == len(paths)
    assert all(folder.path in path.parents for path in paths)
    assert folder.fused("d", "c", "m@v") == Path("run/fused/d/c/m@v.nii.gz")


def test_a_run_leaves_what_the_folder_names(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    fusebench.run(
        "average", data_options={"size": 24}, cases=1, metrics="psnr", jobs=0, out=folder.path, device="cpu"
    )
    named = [folder.rows, folder.parquet, folder.csv, folder.manifest]
    named += [folder.board().with_suffix(end) for end in (".csv", ".md", ".tex")]
    assert list(fusebench.load_run(folder.path).failures.reason) == []
    (case,) = folder.kept_cases()
    named += [folder.fused("phantom", case.name, "average")]
    named += [folder.source("phantom", case.name, name) for name in ("mri", "pet")]
    found = {p for p in folder.path.rglob("*") if p.is_file() and p != folder.lock}
    assert set(named) <= found
    assert {p.parent for p in found - set(named)} <= {folder.figures}
