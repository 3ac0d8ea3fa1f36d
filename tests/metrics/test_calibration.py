"""Ours against the values of published programs (development images) and of other libraries (stored)."""

from __future__ import annotations

import csv
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from fusebench.metrics import evaluate, metric_registry

from .triples import peer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def calibration() -> ModuleType:
    return import_module("benchmarks.calibration")


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


def test_the_page_has_every_program(calibration: ModuleType) -> None:
    wanted = {p.id for p in calibration.PROGRAMS}
    wanted |= {key for key in calibration.CANONICAL.values() if key.split("@")[0] in metric_registry()}
    page = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    assert {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")} == wanted


# -- the values of other libraries, stored: no library and no other images are needed ------------------


@lru_cache
def _stored() -> dict[str, list[dict[str, str]]]:
    """Rows of the table by triple."""
    rows: dict[str, list[dict[str, str]]] = {}
    with (HERE / "peer_values.csv").open(encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            rows.setdefault(row["triple"], []).append(row)
    return rows


@pytest.mark.parametrize("name", _stored())
def test_the_values_of_other_libraries(name: str) -> None:
    rows = _stored()[name]
    with np.load(HERE / "peer_triples.npz") as triples:
        values = evaluate(*triples[name], list(dict.fromkeys(row["id"] for row in rows)))
    for row in rows:
        wanted = pytest.approx(float(row["value"]), rel=float(row["tolerance"]), abs=float(row["tolerance"]))
        assert values[row["id"]] == wanted, (row["id"], row["package"], row["call"])


def test_many_values_of_many_libraries_are_stored() -> None:
    rows = [row for rows in _stored().values() for row in rows]
    assert (
        len(rows) > 120 and len({row["package"] for row in rows}) >= 8 and len({r["id"] for r in rows}) > 20
    )
    # A tolerance that lets everything pass would hold nothing.
    assert max(float(row["tolerance"]) for row in rows) <= 2e-5


@pytest.mark.parametrize(
    "peer_name", ["skimage", "sklearn", "scipy", "torchmetrics", "piq", "pytorch_msssim", "sewar"]
)
def test_the_stored_values_are_what_the_libraries_return(peer_name: str) -> None:
    peer(peer_name)
    peers = import_module("benchmarks.peer_values").PEERS
    with np.load(HERE / "peer_triples.npz") as triples:
        for name in ("made up", "volume"):
            stored = {(row["id"], row["call"]): float(row["value"]) for row in _stored()[name]}
            for v in peers[peer_name](*triples[name]):
                # Single precision differs from one processor to the next.
                tolerance = max(v.tolerance, 1e-8) * 5
                wanted = stored[v.id, v.call]
                assert v.value == pytest.approx(wanted, rel=tolerance, abs=tolerance), v
