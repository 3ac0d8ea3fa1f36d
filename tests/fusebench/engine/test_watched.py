"""Messages of a child: what is no answer of ours costs its own row, whatever it is."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fusebench.engine.apart import _value
from fusebench.engine.fusing import TaskEnded
from fusebench.engine.link import Garbled
from fusebench.engine.watched import _next, _read
from fusebench.errors import Undefined


@pytest.mark.parametrize(
    "message", [b"", b"\xff", b"3", b"[1]", b"[" * 100_000, b'{"value":' + b"[" * 100_000, b'{"a": 1} 2']
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(Garbled):
        _read(message)


@pytest.mark.parametrize("said", [{}, {"value": 10**400}, {"value": [1]}, {"value": None}, {"value": "x"}])
def test_a_value_that_is_none_is_an_error(said: dict[str, Any]) -> None:
    value, _ = _value(said)
    assert isinstance(value, TaskEnded) and value.status == "error"


def test_values_are_taken_as_they_are() -> None:
    assert _value({"value": 0.1 + 0.2, "source": "s"}) == (0.1 + 0.2, "s")
    assert math.isnan(_value({"value": math.nan})[0])
    undefined, _ = _value({"undefined": "no \x1b[31mlesion"})
    assert isinstance(undefined, Undefined) and "\x1b" not in str(undefined)


def test_only_an_import_is_followed_by_another_stage() -> None:
    assert _next("import", "score") == "score"
    for stage, said in (("score", "score"), ("import", "fuse"), ("import", ["score"])):
        with pytest.raises(Garbled):
            _next(stage, said)
