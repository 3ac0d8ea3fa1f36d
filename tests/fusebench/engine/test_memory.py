"""What a worker keeps of its memory between tasks."""

from __future__ import annotations

import pytest

from fusebench.engine import memory


@pytest.mark.parametrize(("limit", "given_back"), [(None, 0), (1e9, 0), (1.0, 1)])
def test_free_memory_is_given_back_where_the_limit_is_near(
    monkeypatch: pytest.MonkeyPatch, limit: float | None, given_back: int
) -> None:
    calls = []
    monkeypatch.setattr(memory, "give_back_memory", lambda: calls.append(0))
    memory.settle(limit)
    assert len(calls) == given_back
