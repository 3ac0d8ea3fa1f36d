"""Refusals of `fuse`, and the rows of failures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import fusebench.engine.volumes
import fusebench.engine.worker
from fusebench.case import Case, Pair, Volume
from fusebench.engine.fusing import CopiedPair, Cost, Fuser, Here, Killed, MethodFault, fuse, fuse_twin
from fusebench.engine.plan import Options, make_plan
from fusebench.engine.spec import Choice, Task, method_specs
from fusebench.engine.task import TaskRunner
from fusebench.engine.worker import KILLED, how_it_ended
from fusebench.errors import InputError
from fusebench.method import MethodInfo, SliceMethod
from fusebench.plugins import find_plugins
from fusebench.scoring.select import metric_infos
from fusebench.store.folder import RunFolder
from fusebench.text import describe

from ..conftest import Bench

PLUGINS = (str(Path(__file__).parents[1].joinpath("engine_plugins.py")),)
A, B = np.random.default_rng(0).random((2, 4, 5, 6), dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "returned NaN or infinity in 120 of 120 voxels"),
        ("shape", r"returned shape \(3, 5, 6\) for input shape \(4, 5, 6\)"),
        ("mutates", r"changed its input b \(functional\); work on a copy"),
        ("out-of-range", r"returned values in \[.*\]; clip or scale to \[0, 1\]"),
        ("not-a-tensor", "returned ndarray, not a tensor"),
    ],
)
def test_broken_contracts_are_named(name: str, message: str) -> None:
    method = find_plugins(PLUGINS).methods.load(name)()
    with pytest.raises(MethodFault, match=f"^{name} {message}"):
        fuse(method, A, B)


def test_a_method_that_writes_to_its_input_does_not_spoil_the_next() -> None:
    methods, given = find_plugins(PLUGINS).methods, CopiedPair()
    healthy, mutates = (methods.load(name)() for name in ("healthy", "mutates"))
    wanted, _ = fuse(healthy, A, B)
    fuse(healthy, A, B, 0, given)
    with pytest.raises(MethodFault, match="mutates changed its input b"):
        fuse(mutates, A, B, 0, given)
    assert np.array_equal(fuse(healthy, A, B, 0, given)[0], wanted)
    # Another pair is not taken for the one that is held.
    assert np.array_equal(fuse(healthy, B, A, 0, given)[0], fuse(healthy, B, A)[0])
    assert not np.array_equal(fuse(healthy, B, B, 0, given)[0], wanted)


def test_a_method_that_fails_half_way_does_not_spoil_the_next() -> None:
    methods, given = find_plugins(PLUGINS).methods, CopiedPair()
    healthy, fails = (methods.load(name)() for name in ("healthy", "mutates-and-raises"))
    with pytest.raises(ValueError, match="half-way"):
        fuse(fails, A, B, 0, given)
    assert np.array_equal(fuse(healthy, A, B, 0, given)[0], fuse(healthy, A, B)[0])


def test_rounding_to_float32_is_not_a_changed_input() -> None:
    healthy = find_plugins(PLUGINS).methods.load("healthy")()
    a, b = np.random.default_rng(0).random((2, 4, 5, 6))
    assert np.array_equal(fuse(healthy, a, b)[0], fuse(healthy, a.astype("f4"), b.astype("f4"))[0])


def test_a_full_disk_is_a_row_that_says_what_to_do(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fusebench.engine.volumes, "store", full)
    assert bench("--methods", "healthy") == 1
    folder = tmp_path / "run" / "fused"
    said = "".join(capsys.readouterr().out.split())
    assert "".join(f"{folder}: No space left on device; what was stored is kept: make room".split()) in said


def test_seed_decides_random_methods() -> None:
    method = find_plugins(PLUGINS).methods.load("noisy")()
    first, again, other = (fuse(method, A, B, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


class Sharpest(SliceMethod):
    """Each slice by its own maximum; counts the slices it is given."""

    info = MethodInfo(name="sharpest", summary="test", dims=2)
    seen = 0

    def __init__(self, planes: str = "axial") -> None:
        self.planes = planes

    def fuse_slices(self, a: Tensor, b: Tensor) -> Tensor:
        self.seen += len(a)
        return torch.maximum(a, b) / torch.maximum(a, b).amax((1, 2, 3), keepdim=True)


class Averaged(Sharpest):
    """Looks across slices, as a method may that is not `SliceMethod.fuse` any more."""

    def fuse(self, a: Tensor, b: Tensor) -> Tensor:
        return super().fuse(a, b) * 0 + (a.mean() + b.mean()) / 2


@pytest.mark.parametrize(
    ("method", "slices"), [(Sharpest(), 2), (Sharpest("tri"), 15), (Sharpest("coronal"), 5), (Averaged(), 4)]
)
def test_of_a_twin_only_the_slices_that_differ_are_fused(method: Sharpest, slices: int) -> None:
    twin = B.copy()
    twin[1:3, 2] *= 0.5
    case = Case("c", "d", "g", "f", lambda: Pair(Volume(A), Volume(B), A > 0))
    truth = {"mri_twin": A, "pet_twin": twin}
    fused, wanted = fuse(method, A, B)[0], fuse(method, A, twin)[0]
    method.seen = 0
    made = fuse_twin(Here(method), case, truth, fused)
    assert method.seen == slices
    np.testing.assert_array_equal(made, wanted)
    assert not np.array_equal(made, fused)


def test_a_twin_without_difference_is_what_was_fused() -> None:
    case = Case("c", "d", "g", "f", lambda: Pair(Volume(A), Volume(B), A > 0))
    fused = fuse(Sharpest(), A, B)[0]
    np.testing.assert_array_equal(
        fuse_twin(Here(Sharpest()), case, {"mri_twin": A, "pet_twin": B}, fused), fused
    )


@pytest.mark.parametrize(("planes", "total"), [("axial", 4), ("tri", 15)])
def test_progress_counts_slices(planes: str, total: int) -> None:
    method, said = Sharpest(planes), list[tuple[int, int]]()
    method.batch_pixels = 90  # three axial slices of 5 x 6
    method.progress = lambda *at: said.append(at)
    fuse(method, A, B)
    assert said[0] == (3, total)
    assert said[-1] == (total, total)
    assert said == sorted(set(said))


def test_batches_shrink_where_memory_runs_out() -> None:
    class Narrow(Sharpest):
        """Has memory for three slices at a time."""

        def fuse_slices(self, a: Tensor, b: Tensor) -> Tensor:
            if len(a) > self.room:
                raise torch.OutOfMemoryError("no room")
            return super().fuse_slices(a, b)

        room = 3

    method, (a, b) = Narrow(), np.random.default_rng(1).random((2, 9, 5, 6), dtype=np.float32)
    np.testing.assert_array_equal(fuse(method, a, b)[0], fuse(Sharpest(), a, b)[0])
    assert method.seen == 9
    method.room = 0
    with pytest.raises(torch.OutOfMemoryError):
        fuse(method, a, b)


@pytest.mark.parametrize("planes", ["axial", "tri"])
def test_slices_of_another_shape_are_not_stretched(planes: str) -> None:
    class Means(Sharpest):
        def fuse_slices(self, a: Tensor, b: Tensor) -> Tensor:
            return a.mean((2, 3), keepdim=True)

    with pytest.raises(InputError, match=r"sharpest: fuse_slices returned shape \(4, 1, 1, 1\) for"):
        fuse(Means(planes), A, B)


def test_fusing_the_twin_is_timed_as_fusing(tmp_path: Path) -> None:
    plugins, stages = find_plugins(), list[str]()
    name = next(n for n in plugins.metrics.names() if plugins.metrics.load(n).info.needs_twin)
    cases = plugins.datasets.load("phantom")(size=32).cases()
    (task,) = make_plan(
        plugins,
        [next(c for c in cases if c.truth and c.truth["lesion"].any())],
        method_specs(plugins, [Choice("average", "average", {})]),
        metric_infos(plugins.metrics, [name]),
        Options(run="r", metrics=(name,)),
        RunFolder(tmp_path),
    )
    (row,) = TaskRunner(stages.append).run(task)
    assert row.status == "ok", row.reason
    assert stages == ["load", "fuse", "score", "fuse", "score", "store"]


def test_description_is_one_line_with_type_and_place() -> None:
    with pytest.raises(ValueError, match="two") as caught:
        raise ValueError("two\nlines")
    assert describe(caught.value).startswith("ValueError: two lines (test_task.py:")


HEALTHY = """
from fusebench.method import Method, MethodInfo


class Edited(Method):
    info = MethodInfo(name="edited", summary="test")

    def fuse(self, a, b):
        return 0.25 * a + 0.25 * b
"""
METRIC = """
from fusebench.metric import MetricInfo, metric


@metric(MetricInfo(name="share", title="share", family="fidelity", direction="higher", low=0, high=9))
def share(triple, part, variant):
    return triple.fused.flatten(1).mean(1)
"""


def test_code_that_was_edited_after_the_plan_makes_no_rows(tmp_path: Path) -> None:
    plugin = tmp_path / "p.py"
    text = HEALTHY + METRIC
    plugin.write_text(text)
    plugins = find_plugins((*PLUGINS, str(plugin)))
    infos = metric_infos(plugins.metrics, ("share", "psnr"))
    specs = method_specs(plugins, [Choice("edited", "edited", {})])
    options = Options(run="r", metrics=("share", "psnr"), save="none")
    cases = plugins.datasets.load("tiny")(count=1).cases()
    (task,) = make_plan(plugins, cases, specs, infos, options, RunFolder(tmp_path))
    assert [row.status for row in TaskRunner().run(task)] == ["ok", "ok"]
    plugin.write_text(text.replace("0.25", "0.50"))
    # Made by the edited code; the rest is what was planned.
    (reason,) = {row.reason for row in TaskRunner().run(task)}
    assert "its code or weights are not those of the plan: edited meanwhile, or another copy" in reason
    healthy = replace(task, method=replace(task.method, watched=()))
    assert {row.metric: row.status for row in TaskRunner().run(healthy)} == {"share": "error", "psnr": "ok"}
    plugin.write_text(text)
    assert [row.status for row in TaskRunner().run(task)] == ["ok", "ok"]


class KilledAtFirst:
    """Stands for `Apart`: the first of its processes is killed."""

    deaths = 0

    @contextlib.contextmanager
    def method(self, task: Task, memory_mb: float | None = None) -> Iterator[Fuser]:
        yield self  # type: ignore[misc]

    def fuse(self, a: Tensor, b: Tensor, *_: int) -> tuple[object, Cost]:
        self.deaths += 1
        if self.deaths < 2:
            raise Killed("error", KILLED)
        return a, Cost([0.1])


def test_what_a_stranger_kills_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = find_plugins(PLUGINS)
    specs = method_specs(plugins, [Choice("healthy", "healthy", {})])
    options = Options(run="r", metrics=("psnr",), save="none")
    cases = plugins.datasets.load("tiny")(count=1).cases()
    (task,) = make_plan(
        plugins, cases, specs, metric_infos(plugins.metrics, ("psnr",)), options, RunFolder(tmp_path)
    )
    (row,) = TaskRunner(apart=KilledAtFirst()).run(task)  # type: ignore[arg-type]
    assert row.status == "ok", row.reason
    # Only the system's count says that it was for lack of memory.
    monkeypatch.setattr(fusebench.engine.worker, "oom_kills", lambda: 7)
    assert how_it_ended(-9, 7) == ("error", KILLED)
    assert "memory" not in KILLED
    assert how_it_ended(-9, 6)[0] == "oom"
