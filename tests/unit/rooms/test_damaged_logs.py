"""A stored log in which updates wait for one that was taken out: clients are sent what integrates, and nothing else."""

import pytest

from constructure_sync.protocol.known import Known
from schemas.ids import CommitId
from storage.contracts import BEGINNING, Append, NewUpdate
from tests.unit.protocol.updates import section, skip, text, update
from tests.unit.rooms.bench import DOCUMENT, Bench, answer, on_bench

EMPTY = b"\x00\x00"


def typed(client: int, count: int) -> list[bytes]:
    """Return updates that each append one letter."""
    more = [update(section(client, at, text("b", origin=(client, at - 1)))) for at in range(1, count)]
    return [update(section(client, 0, text("a"))), *more]


@pytest.mark.parametrize("count", [20, 200], ids=["read in the loop", "folded in a worker"])
def test_a_room_opens_with_what_integrates(count: int) -> None:
    async def body(bench: Bench) -> None:
        partly = update(section(7, 0, text("a"), skip(1), text("b", origin=(7, 1))), deletes=((3, 0, 1), (3, 12, 1)))
        stored = [*typed(3, count), partly, *typed(4, 3)]
        stored[10] = EMPTY
        news = [NewUpdate(payload, None) for payload in stored]
        await bench.stored.append([Append(DOCUMENT, BEGINNING, CommitId(1), news)])

        room = await bench.room()
        connection, socket = bench.join(room)

        assert room.log_seq == len(stored)
        assert room.history.known.clocks == {3: 10, 7: 1, 4: 3}
        known = Known()
        for sent in socket.updates():
            part = known.close(sent)
            assert not part.missing
            known.add(part)
        assert known == room.history.known
        # Somebody who has what was taken out brings it back, and what hung on it.
        for payload in typed(3, count):
            answer(connection, payload)
        assert room.history.known.clocks[3] == count

    on_bench(body)
