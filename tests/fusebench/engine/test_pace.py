"""The order of a run and the time that it says is left: the default run, simulated on a clock of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fusebench.case import Case, Pair, Volume
from fusebench.engine.order import CaseQueue, in_tiers
from fusebench.engine.pace import Pace
from fusebench.engine.spec import MethodSpec, Score, Task
from fusebench.method_info import MethodInfo
from fusebench.plugins import find_plugins
from fusebench.scoring.select import metric_infos

METHODS = find_plugins().methods
INFOS = metric_infos(find_plugins().metrics, ["cho_auc.a", "psnr"])
MILLIONS = 128**3 / 1e6


def load() -> Pair:
    plane = Volume(np.zeros((1, 4, 4), np.float32))
    return Pair(plane, plane, np.ones((1, 4, 4), bool))


def tasks_of(costs: dict[str, float | None], cases: int = 8, dims: int = 3, **given: Any) -> list[Task]:
    scores = (Score("readers", "cho_auc.a", "k"), *(Score("volume", f"psnr@{i}", "k") for i in range(20)))
    found = []
    for number in range(cases):
        case = Case(f"case{number}", "made-up", f"s{number}", "key", load, voxels=128**3)
        for name, cost in costs.items():
            info = MethodInfo(name=name, summary="", cost=cost, dims=dims)  # type: ignore[arg-type]
            found.append(Task("r", MethodSpec(name, {}, "key", info), case, scores, **given))
    return found


def shipped() -> dict[str, float | None]:
    return {name: METHODS.facts(name).info.cost for name in METHODS.names()}


class Machine:
    """Workers that take what `truth` says, on a clock that nobody waits for."""

    def __init__(
        self, tasks: list[Task], truth: Callable[[Task], tuple[float, float]], workers: int = 2
    ) -> None:
        self.now = 0.0
        self.pace = Pace(INFOS, workers, clock=lambda: self.now)
        self.pace.plan(tasks)
        self.queue = CaseQueue(in_tiers(tasks, self.pace), workers, self.pace)
        self.truth, self.workers = truth, workers
        self.done: list[tuple[float, Task]] = []
        self.free = [0.0] * workers

    def run(self) -> Iterator[float]:
        """Yields the time after every task."""
        current: list[Case | None] = [None] * self.workers
        running: list[tuple[float, int, Task, float, float]] = []
        idle = set(range(self.workers))
        while True:
            for worker in sorted(idle):
                if (taken := self.queue.take(current[worker])) is None:
                    continue
                idle.discard(worker)
                task, current[worker] = taken[0], taken[0].case
                self.pace.started(task)
                fuse, rest = self.truth(task)
                running.append((self.now + 2 * fuse + rest, worker, task, fuse, self.now))
            if not running:
                return
            running.sort(key=lambda entry: entry[:2])
            self.now, worker, task, fuse, since = running.pop(0)
            row = task.row(task.scores[0], status="ok", value=1.0, fuse_seconds=fuse)
            self.pace.took(task, self.now - since, [row])
            self.done.append((self.now, task))
            self.free[worker] = self.now
            idle.add(worker)
            yield self.now


@pytest.mark.parametrize(("fusing", "scoring"), [(1.0, 1.0), (2.5, 2.0), (0.6, 0.8)])
def test_the_time_left_is_within_a_quarter_after_two_minutes(fusing: float, scoring: float) -> None:
    noise = random.Random(1)
    costs = shipped()

    def truth(task: Task) -> tuple[float, float]:
        cost = float(costs[task.method.name] or 0) * noise.uniform(0.85, 1.15)
        return fusing * cost * MILLIONS + 0.02, scoring * noise.uniform(0.6, 0.8)

    machine = Machine(tasks_of(costs), truth)
    said = [(now, machine.pace.left()) for now in machine.run()]
    end = machine.now
    later = [(left, end - now) for now, left in said if now > 120]
    assert len(later) > 20
    wrong = [(left, true) for left, true in later if abs(left - true) > max(0.25 * true, 20)]
    # One estimate of fifty may be off, when the last task of a long method begins.
    assert len(wrong) <= 0.02 * len(later), wrong[:5]
    # And the workers end together, as far as tasks that vary by 15 % let them.
    assert max(machine.free) - min(machine.free) < 0.1 * end


def test_cheap_methods_come_first_and_the_dearest_last() -> None:
    costs = {"a": 0.1, "dear": 50.0, "b": 0.2, "middle": 5.0}
    machine = Machine(tasks_of(costs, cases=4), lambda task: (float(costs[task.method.name]), 1.0))
    list(machine.run())
    order = [task.method.name for _, task in machine.done]
    assert set(order[:8]) == {"a", "b"} and set(order[8:12]) == {"middle"} and set(order[12:]) == {"dear"}
    ends = {task.method.name: now for now, task in machine.done}
    assert ends["b"] < ends["middle"] < ends["dear"]


def test_dear_methods_follow_each_other() -> None:
    costs = {"dearest": 9.0, "dear": 6.0, "dearer": 7.0, "cheap": 0.1}
    machine = Machine(tasks_of(costs), lambda task: (float(costs[task.method.name]), 1.0))
    list(machine.run())
    order = [task.method.name for _, task in machine.done]
    assert order == [name for name in ("cheap", "dear", "dearer", "dearest") for _ in range(8)]


def test_work_is_kept_for_the_worker_that_the_last_dear_task_leaves_idle() -> None:
    """Five dear tasks on two workers: while the fifth runs, the other worker does what was held back."""
    costs = {f"m{i}": 1.0 for i in range(12)} | {"dear": 40.0}
    machine = Machine(tasks_of(costs, cases=5), lambda task: (float(costs[task.method.name]), 0.5))
    list(machine.run())
    work = 5 * 80.5 + 60 * 2.5
    assert machine.now < work / 2 * 1.06
    assert max(machine.free) - min(machine.free) < 0.06 * machine.now


def test_a_method_of_unknown_cost_is_fused_once_and_then_takes_its_place() -> None:
    costs: dict[str, float | None] = {"cheap": 0.1, "plugin": None, "dear": 30.0}
    true = {"cheap": 0.1, "plugin": 12.0, "dear": 30.0}
    machine = Machine(tasks_of(costs), lambda task: (true[task.method.name] * MILLIONS, 1.0))
    list(machine.run())
    order = [task.method.name for _, task in machine.done]
    plugin = [i for i, name in enumerate(order) if name == "plugin"]
    assert plugin[0] < 8 and all(order[i] == "cheap" for i in range(plugin[-1]) if order[i] != "plugin")
    assert plugin[3] > max(i for i, name in enumerate(order) if name == "cheap")


def test_the_default_limit_stretches_on_a_busy_machine_and_a_stated_one_never() -> None:
    pace = Pace(INFOS, 1)
    tasks = tasks_of({"quick": 1.0, "dear": 60.0}, cases=2, timeout=900.0, patient=True)
    pace.plan(tasks)
    quick, dear = tasks[0], tasks[1]
    assert pace.limited(quick).timeout == 900
    assert pace.limited(dear).timeout == pytest.approx(10 * 60 * MILLIONS, abs=1)
    row = quick.row(quick.scores[0], status="ok", value=1.0, fuse_seconds=3 * MILLIONS)
    pace.started(quick)
    pace.took(quick, 2 * 3 * MILLIONS + 1, [row])  # three times what its cost says
    assert pace.limited(quick).timeout == pytest.approx(2700)
    stated = replace(dear, patient=False, timeout=5.0)
    assert pace.limited(stated) is stated
    unlimited = replace(dear, timeout=None)
    assert pace.limited(unlimited) is unlimited


def test_a_failure_teaches_nothing() -> None:
    pace = Pace(INFOS, 1)
    tasks = tasks_of({"m": 5.0}, cases=3)
    pace.plan(tasks)
    before = pace.seconds(tasks[1])
    pace.started(tasks[0])
    pace.took(tasks[0], 0.01, tasks[0].failed("error", "broken"))
    assert pace.seconds(tasks[1]) == before
    assert pace.left() == pytest.approx(2 * before)
    assert pace.shares() == {"m": pytest.approx(2 * before)}
