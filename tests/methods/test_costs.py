"""Costs and other facts as the sources state them: complete, right, and the set `fast` is fast."""

from __future__ import annotations

import pytest

from fusebench.method_info import FAST, STANDARD, MethodInfo, is_fast, is_standard
from fusebench.plugins import create_method, find_plugins

METHODS = find_plugins().methods


@pytest.mark.parametrize("name", METHODS.names())
def test_the_source_states_what_the_instance_says(name: str) -> None:
    facts = METHODS.stated(name)
    assert facts is not None, "info, or variant_facts, is no literal"
    assert facts.info == create_method(name).describe()
    assert facts.info.cost is not None, "measure it: python benchmarks/costs.py " + name


def test_standard_is_all_but_the_dear_and_holds_what_nobody_knows_the_cost_of() -> None:
    standard = METHODS.select(["standard"])
    assert set(METHODS.select(["fast"])) < set(standard) and "swinfuse" not in standard
    dear = set(METHODS.names()) - set(standard)
    assert all(METHODS.facts(name).info.cost > STANDARD for name in dear)
    assert is_standard(None) and is_standard(MethodInfo(name="m", summary="")) and not is_fast(None)


def test_fast_is_a_named_set_that_ends_in_two_minutes() -> None:
    """Eight phantoms of 128 cubed, each fused twice and scored in 0.7 s, on two cores, ten to start."""
    fast = METHODS.select(["fast"])
    assert {"average", "dwt", "laplacian", "source-mri"} < set(fast)
    assert not {"swinfuse", "u2fusion"} & set(fast)
    assert METHODS.select(["fast"], ["dwt"]) == [n for n in fast if n != "dwt"]
    costs = [METHODS.facts(name).info.cost for name in fast]
    assert max(costs) <= FAST
    assert 10 + sum(8 * (2 * 2.1 * cost + 0.7) for cost in costs) / 2 <= 120
