"""Ours against every published program's value on the calibration set."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from fusebench.metrics import metric_registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibration", ROOT / "benchmarks" / "calibration.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    import sys

    sys.modules["calibration"] = module
    spec.loader.exec_module(module)
    return module


def test_every_value_within_its_tolerance(calibration: ModuleType, shared_data: Path) -> None:
    found = calibration.comparisons(shared_data / "metric_calibration")
    assert len(found) > 300
    missed = [f"{c.id} {c.program} {c.triple}: {c.ours!r} not {c.theirs!r}" for c in found if not c.within]
    assert not missed, "\n".join(missed)


def test_every_definition_is_answered(calibration: ModuleType) -> None:
    registry = metric_registry()
    missing = {m: key for m, key in calibration.CANONICAL.items() if key.split("@")[0] not in registry}
    assert not missing


def test_every_program_names_a_known_id(calibration: ModuleType) -> None:
    from fusebench.metrics import MetricId

    for p in calibration.PROGRAMS:
        key = MetricId.parse(p.id)
        key.check(metric_registry().load(key.name).info)


def test_page_and_table_agree(calibration: ModuleType) -> None:
    table = (ROOT / "docs" / "calibration.csv").read_text(encoding="utf-8").splitlines()
    assert all(line.endswith(",yes") for line in table[1:])
    page = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    assert {line.split(",")[0] for line in table[1:]} == {
        line.split("`")[1] for line in page.splitlines() if line.startswith("| `")
    }
