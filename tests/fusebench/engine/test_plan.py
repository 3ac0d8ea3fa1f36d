"""Which tasks there are, and which of them have no valid row yet."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusebench.case import Case, Pair, Volume
from fusebench.engine import volumes
from fusebench.engine.plan import Options, make_plan, pending, scored
from fusebench.engine.spec import MethodSpec, Task
from fusebench.engine.volumes import read_stored, store
from fusebench.method_info import MethodInfo
from fusebench.plugins import find_plugins
from fusebench.store.folder import RunFolder
from fusebench.store.rows import Row


def load() -> Pair:
    plane = Volume(np.zeros((1, 4, 4), np.float32))
    return Pair(plane, plane, np.ones((1, 4, 4), bool))


CASES = [
    Case(f"case{k}", "made-up", f"subject{k}", f"key{k}", load, truth_loader=dict if k else None)
    for k in (0, 1)
]
METHODS = [MethodSpec(name, {}, f"key of {name}", MethodInfo(name=name, summary="test")) for name in "pq"]
METRICS = ("psnr", "lesion_auc")


def plan(folder: Path, **options: object) -> list[Task]:
    plugins = find_plugins()
    infos = {name: plugins.metrics.load(name).info for name in ("psnr", "lesion_auc", "ssim", "nmi", "mi")}
    given = Options(**{"run": "now", "metrics": METRICS, **options})  # type: ignore[arg-type]
    return make_plan(plugins, CASES, METHODS, infos, given, RunFolder(folder))


def done(task: Task, status: str = "ok") -> list[Row]:
    return [
        task.row(s, status="skip", reason=s.skip) if s.skip else task.row(s, status=status, value=1.0)
        for s in task.scores
    ]


def test_every_method_meets_every_case_case_by_case(tmp_path: Path) -> None:
    tasks = plan(tmp_path)
    assert [t.label for t in tasks] == ["p on case0", "q on case0", "p on case1", "q on case1"]
    assert [t.save for t in tasks] == [True, True, False, False]  # volumes of the first case are kept
    assert not any(t.save for t in plan(tmp_path, save="none"))
    assert len({t.fuse_key for t in tasks}) == 4
    assert len({s.key for t in tasks for s in t.scores}) == 8


def test_a_metric_that_a_protocol_or_case_cannot_have_is_a_skip_with_its_reason(tmp_path: Path) -> None:
    first, _, second, _ = plan(tmp_path, protocols=("volume", "slices"))
    reasons = {(s.protocol, s.metric): s.skip for s in first.scores}
    assert reasons["volume", "psnr"] == ""
    assert "does not have" in reasons["volume", "lesion_auc"]
    assert {(s.protocol, s.metric): s.skip for s in second.scores} == {
        ("volume", "psnr"): "",
        ("volume", "lesion_auc"): "",
        ("slices", "psnr"): "",
        ("slices", "lesion_auc"): "scored in protocol volume only",
    }


def test_a_protocol_that_prescribes_its_metrics_has_no_others() -> None:
    found = scored(("volume", "paper"), METRICS)
    assert found["volume"] == METRICS
    assert found["paper"] == ("psnr@paper", "ssim@torchmetrics", "nmi@dc2fusion", "mi@dc2fusion")


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"device": "cuda"}, {"threads": 2}], ids=lambda change: next(iter(change))
)
def test_seed_device_and_threads_are_in_the_keys(tmp_path: Path, change: dict[str, object]) -> None:
    before, after = plan(tmp_path), plan(tmp_path, **change)
    assert all(x.fuse_key != y.fuse_key for x, y in zip(before, after, strict=True))
    assert plan(tmp_path, run="later", timeout=3.0)[0].fuse_key == before[0].fuse_key
    assert plan(tmp_path, device="cuda")[0].fuse_key == plan(tmp_path, device="cuda:1")[0].fuse_key


def test_stored_rows_are_not_made_again(tmp_path: Path) -> None:
    tasks = plan(tmp_path, save="none")
    rows = [row for task in tasks for row in done(task)]
    assert pending(tasks, rows) == []
    assert [t.label for t, _ in pending(tasks, rows[:-1])] == ["q on case1"]
    ((left, why),) = pending(tasks, rows[:-1])
    assert [s.metric for s in left.scores] == ["lesion_auc"] and dict(why) == {"new": 1}


@pytest.mark.parametrize("status", ["error", "timeout", "oom"])
def test_failures_are_tried_again(tmp_path: Path, status: str) -> None:
    tasks = plan(tmp_path, save="none")[:1]
    ((_, why),) = pending(tasks, done(tasks[0], status))
    assert dict(why) == {"failed before": 1}  # what was skipped for lack of truth stays skipped


def test_another_key_is_a_change_and_a_lost_volume_a_reason(tmp_path: Path) -> None:
    task = plan(tmp_path)[2]
    rows = done(task)
    other = [replace(row, key="another") for row in rows]
    ((_, why),) = pending([task], other)
    assert dict(why) == {"changed": 2}
    kept = replace(task, save=True)
    ((_, why),) = pending([kept], rows)
    assert dict(why) == {"without the volume": 2}
    keep(kept)
    assert pending([kept], rows) == []


def keep(task: Task) -> None:
    """Store what a run keeps of a task, without findings."""
    path, like = Path(task.fused_path), load().a
    store(path, like.data, like, task.fuse_key)
    for name in ("mri", "pet"):
        store(path.parent / "sources" / f"{name}.nii.gz", like.data, like, task.case.fingerprint)


@pytest.mark.parametrize("name", ["p", "sources/mri", "sources/pet"])
@pytest.mark.parametrize("damage", ["lost", "cut", "another's"])
def test_a_kept_volume_that_is_not_as_it_was_is_a_reason_for_one_task(
    tmp_path: Path, name: str, damage: str
) -> None:
    tasks = plan(tmp_path)[:2]
    for task in tasks:
        keep(task)
    rows = [row for task in tasks for row in done(task)]
    assert pending(tasks, rows) == []
    path = Path(tasks[0].fused_path).parent / f"{name}.nii.gz"
    if damage == "lost":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        shutil.copy(tasks[1].fused_path, path)
    ((task, why),) = pending(tasks, rows)
    assert (task.method.name, dict(why)) == ("p", {"without the volume": 1})


def test_a_volume_is_read_to_its_end_once_and_after_it_was_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEBENCH_CACHE", str(tmp_path / "cache"))
    task, read = plan(tmp_path)[0], list[str]()
    keep(task)

    def counted(path: Path, key: str) -> object:
        read.append(path.name)
        return read_stored(path, key)

    monkeypatch.setattr(volumes, "read_stored", counted)
    assert pending([task], done(task)) == [] and read == []
    shutil.rmtree(tmp_path / "cache")  # as of a file of an earlier version, or from another machine
    for _ in range(2):
        assert pending([task], done(task)) == []
        assert sorted(read) == ["mri.nii.gz", "p.nii.gz", "pet.nii.gz"]
    Path(task.fused_path).touch()
    assert pending([task], done(task)) == [] and read[3:] == ["p.nii.gz"]
