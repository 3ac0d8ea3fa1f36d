"""Facts of plugins become plain types, or an error that names the fact."""

from __future__ import annotations

import math
import pickle
import time
from typing import Any

import pytest

from fusebench.engine.facts import plain_facts
from fusebench.method_info import MethodInfo
from fusebench.metric import MetricInfo


class Slow(str):
    def __reduce__(self) -> Any:
        return time.sleep, (1000,)


class OddInfo(MetricInfo):
    def __reduce__(self) -> Any:
        return time.sleep, (1000,)


def _metric(kind: type[MetricInfo] = MetricInfo, **facts: Any) -> MetricInfo:
    given = {"name": "m", "title": "M", "family": "task", "direction": "higher", "low": 0.0, "high": math.inf}
    return kind(**given | facts)


def test_what_a_type_of_a_plugin_adds_is_left_behind() -> None:
    odd = _metric(OddInfo, title=Slow("M"), variants={Slow("v"): Slow("line")}, parts=[Slow("a")])
    found = plain_facts(odd, MetricInfo)
    assert found == _metric(variants={"v": "line"}, parts=("a",))
    assert {type(found), type(found.title), type(found.parts[0]), type(*found.variants)} == {MetricInfo, str}
    assert pickle.loads(pickle.dumps(found)) == found
    assert plain_facts(MethodInfo(name="x", summary="s", notes=Slow("n")), MethodInfo).notes == "n"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"tolerance": math.nan}, "info.tolerance is nan"),
        ({"tolerances": {"v": object}}, "info.tolerances is <class 'object'>"),
        ({"dims": (2, 1 << 70)}, "info.dims is 1180591620717411303424"),
    ],
)
def test_what_cannot_be_stored_is_named(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}: give text, or a number"):
        plain_facts(_metric(**facts), MetricInfo)


def test_another_object_is_no_info() -> None:
    with pytest.raises(TypeError, match=r"^what describe.. returned is NoneType, not a MethodInfo"):
        plain_facts(None, MethodInfo, "what describe() returned")
