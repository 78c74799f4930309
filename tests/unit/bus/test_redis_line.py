"""A line holds only so much that the server has not answered (R13)."""

import pytest
from redis.asyncio.connection import Connection

from constructure_sync.bus.backlog import Outgoing
from constructure_sync.bus.redis_line import Line, Publish, Words


@pytest.mark.parametrize(
    ("count", "size", "is_full"), [(499, 1, False), (500, 1, True), (3, 300_000, False), (4, 300_000, True)]
)
def test_R13_a_line_is_full_by_number_and_by_bytes(count: int, size: int, is_full: bool) -> None:
    words = Words("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE")
    line = Line(Connection(), words, lambda channel, payload: None, lambda channel: None, lambda: None)
    sent = [Outgoing(number, b"a", bytes(size), "Saved") for number in range(count)]
    for outgoing in sent:
        line.add(Publish(outgoing))
    assert line.is_full is is_full
    assert line.unsent() == sent
