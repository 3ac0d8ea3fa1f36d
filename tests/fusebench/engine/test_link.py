"""Links: messages that came together are received one by one, and waiting sees those read already."""

from __future__ import annotations

import time

import pytest

from fusebench.engine.link import Link


def test_a_message_that_came_with_another_is_not_waited_for() -> None:
    ours, theirs = Link.pair()
    ours.send(b"one")
    ours.send(b"two")
    assert theirs.receive() == b"one"
    begin = time.monotonic()
    assert theirs.waits(60)
    assert time.monotonic() - begin < 30
    assert theirs.receive() == b"two"


def test_waiting_ends_without_a_message_and_at_the_end() -> None:
    ours, theirs = Link.pair()
    assert not theirs.waits(0.01)
    ours.close()
    assert theirs.waits(60)
    with pytest.raises(EOFError):
        theirs.receive()
