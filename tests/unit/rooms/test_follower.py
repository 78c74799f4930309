"""Two instances, one log, and a bus that may do anything: what each room takes, saves and acknowledges (R6, R9)."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from constructure_sync.bus.contracts import DocumentMessage, Saved
from constructure_sync.persistence.log_writer import CommitLimits
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.messages import sync_step1
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.room import Room
from schemas.ids import DocumentId
from storage.memory import MemoryUpdateLog
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.unit.rooms.bench import DOCUMENT, STEP1, Bench, answer, edits, live, whole


def on_two(body: Callable[[Bench, Bench], Awaitable[None]], **limits: float) -> None:
    """Run a test body on two instances."""

    async def main(loop: VirtualLoop) -> None:
        # Without looking at the heads, unless a test asks for it: what is shown then is the doing of bus and hole.
        bounds = RoomLimits(**{"head_look": 1e6, "close_delay": 0.0, **limits})  # type: ignore[arg-type]
        one = Bench(loop, bounds, CommitLimits())
        await body(one, Bench(loop, bounds, CommitLimits(), beside=one))

    run_virtually(main)


def has(room: Room) -> dict[int, int]:
    return room.history.known.clocks


async def in_log(bench: Bench) -> dict[int, int]:
    """Return what a fresh load of the log knows; it must be closed."""
    known = Known()
    for update in await bench.payloads():
        part = known.close(update)
        assert not part.missing
        known.add(part)
    return known.clocks


def test_R6_an_edit_reaches_the_clients_of_the_other_instance_once_it_is_saved() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        _, reader = two.join(room, 2)
        await asyncio.sleep(0.01)
        reader.take()
        one.weather.is_away = True
        updates = edits(3)
        live(writer, *updates)
        await asyncio.sleep(0.01)
        assert reader.updates() == []
        one.weather.is_away = False
        await asyncio.sleep(6)
        assert reader.updates() == updates
        assert (room.log_seq, room.saved_to) == (3, 3)

    on_two(body)


def test_R6_edits_of_both_at_once_reach_both_and_each_gets_its_own_receipts() -> None:
    async def body(one: Bench, two: Bench) -> None:
        rooms = [await one.room(), await two.room()]
        clients = [bench.join(room, 1 + n) for n, (bench, room) in enumerate(zip((one, two), rooms, strict=True))]
        for number, (connection, _) in enumerate(clients):
            live(connection, *edits(20, client=10 + number))
        await asyncio.sleep(1)
        assert [has(room) for room in rooms] == [{10: 20, 11: 20}] * 2
        assert await in_log(one) == {10: 20, 11: 20}
        assert [socket.receipts()[-1] for _, socket in clients] == [20, 20]
        assert [room.is_clean for room in rooms] == [True, True]

    on_two(body)


def test_R6_a_lost_message_is_read_from_the_log_when_the_next_one_shows_the_hole() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        first, second = edits(2)
        one.bus.filter = lambda message: False
        live(writer, first)
        await asyncio.sleep(1)
        assert has(room) == {}
        one.bus.filter = lambda message: True
        live(writer, second)
        await asyncio.sleep(1)
        assert has(room) == {7: 2}

    on_two(body)


def test_R6_with_the_bus_away_the_look_at_the_heads_finds_what_was_saved() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        one.bus.filter = two.bus.filter = lambda message: False
        live(writer, *edits(5))
        await asyncio.sleep(6)
        assert has(room) == {7: 5}

    on_two(body, head_look=5.0)


def test_R6_messages_out_of_order_and_repeated_are_taken_in_order_and_once() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        _, reader = two.join(room, 2)
        one.bus.filter = lambda message: False
        updates = edits(6)
        for update in updates:
            live(writer, update)
            await asyncio.sleep(0.1)
        commits = [message for message in one.bus.held if isinstance(message, Saved)]
        assert len(commits) == 6
        reader.take()
        one.bus.release([*reversed(commits), *commits])
        await asyncio.sleep(0.02)  # less than a hole is given
        assert reader.updates() == updates
        assert two.watcher.reads == 1  # the load

    on_two(body)


def test_R6_missed_messages_are_looked_for_at_once() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        one.bus.filter = lambda message: False
        live(writer, *edits(5))
        await asyncio.sleep(0.1)
        room.missed()
        await asyncio.sleep(0.5)
        assert has(room) == {7: 5}

    on_two(body)


def test_R6_what_is_saved_while_a_room_loads_is_not_missed() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        two.weather.delay = 0.2
        opening = asyncio.ensure_future(two.room())
        for update in edits(30):
            live(writer, update)
            await asyncio.sleep(0.02)
        room = await opening
        two.weather.delay = 0.0
        await asyncio.sleep(1)
        assert has(room) == {7: 30}

    on_two(body)


def test_two_instances_never_tell_one_another_what_they_heard() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        two.join(await two.room(), 2)
        for update in edits(10):
            live(writer, update)
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)

        def commits(bench: Bench) -> list[DocumentMessage]:
            return [message for message in bench.bus.published if isinstance(message, Saved)]

        assert (len(commits(one)), len(commits(two))) == (10, 0)

    on_two(body)


def test_large_updates_of_another_instance_are_read_in_a_worker_and_keep_their_order() -> None:
    async def body(one: Bench, two: Bench) -> None:
        room = await one.room()
        writer, _ = one.join(room)
        other = await two.room()
        _, reader = two.join(other, 2)
        reader.take()
        updates = [*edits(2), *[whole(edits(9, client=8, size=400))], *edits(4)[2:]]
        for update in updates:
            live(writer, update)
        await asyncio.sleep(1)
        assert reader.updates() == [piece.update for _, piece in room.history.pieces()]
        assert has(other) == {7: 4, 8: 9}

    on_two(body, worker_frame_bytes=1000)


async def set_back(bench: Bench, seq: int) -> None:
    """Let the log be what it was when it had so many updates, as after a failover or from a backup."""
    again = MemoryUpdateLog(bench.loop.time)
    again.create(DOCUMENT)
    document, old = again._documents[DOCUMENT], bench.stored._documents[DOCUMENT]
    document.rows = {number: row for number, row in old.rows.items() if number <= seq}
    document.commits = {commit: span for commit, span in old.commits.items() if span[1] <= seq}
    if seq:
        document.head = type(old.head)(max(document.rows), document.rows[max(document.rows)].commit)
    bench.stored._documents[DOCUMENT] = document


def test_R9_a_log_that_went_back_is_offered_again_what_any_instance_holds() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writers = [one.join(await one.room())[0], two.join(await two.room(), 2)[0]]
        for number, writer in enumerate(writers):
            live(writer, *edits(5, client=10 + number))
        await asyncio.sleep(1)
        await set_back(one, 5)
        await asyncio.sleep(12)
        assert await in_log(one) == {10: 5, 11: 5}
        assert [has(await bench.room()) for bench in (one, two)] == [{10: 5, 11: 5}] * 2

    on_two(body, head_look=5.0)


def test_R9_a_log_that_went_back_and_on_is_noticed_by_the_commit_id() -> None:
    async def body(one: Bench, two: Bench) -> None:
        """Instance two only ever saw the old log; the new one is as long or longer (interleavings 19)."""
        room = await two.room()
        reader, told = two.join(room, 2)
        answer(reader, b"\x00\x00")
        writer, _ = one.join(await one.room())
        live(writer, *edits(5, client=10))
        await asyncio.sleep(1)
        one.bus.filter = two.bus.filter = lambda message: False
        await set_back(one, 3)
        writer.room.discard(1012, "test")  # this instance has forgotten what is lost
        other, _ = one.join(await one.room(), 3)
        live(other, *edits(4, client=11))
        await asyncio.sleep(0.5)
        told.take()
        await asyncio.sleep(12)
        assert has(room) == {10: 5, 11: 4}
        assert await in_log(one) == {10: 5, 11: 4}
        assert told.take(STEP1), "its clients are asked what they have"
        assert reader.has_ended is False

    on_two(body, head_look=5.0)


def test_R9_an_append_that_finds_another_log_heals_the_room_and_only_then_is_acknowledged() -> None:
    async def body(one: Bench, two: Bench) -> None:
        room = await one.room()
        writer, socket = one.join(room)
        updates = edits(6)
        live(writer, *updates[:5])
        await asyncio.sleep(1)
        assert socket.receipts()[-1] == 5
        await set_back(one, 2)
        one.stored.create(DocumentId(UUID(int=9)))
        live(writer, updates[5])
        await asyncio.sleep(0.01)
        live(writer, *edits(1, client=8))
        await asyncio.sleep(3)
        assert socket.receipts()[-1] == 7
        assert await in_log(one) == {7: 6, 8: 1}
        assert room.is_clean
        assert not socket.close_code()

    on_two(body)


def test_R9_receipts_wait_until_what_was_lost_is_saved_again() -> None:
    async def body(one: Bench, two: Bench) -> None:
        room = await one.room()
        writer, socket = one.join(room)
        live(writer, *edits(3))
        await asyncio.sleep(1)
        await set_back(one, 0)
        one.weather.is_away = True
        room.head_seen((await one.stored.heads([DOCUMENT]))[DOCUMENT], room.log_head)
        socket.take()
        answer(writer, whole(edits(3)))  # known, and not saved any more (R11)
        await asyncio.sleep(2)
        assert socket.receipts() == []
        one.weather.is_away = False
        await asyncio.sleep(10)
        assert socket.receipts()[-1] == 4
        assert await in_log(one) == {7: 3}

    on_two(body)


def test_a_document_that_is_deleted_elsewhere_closes_its_room() -> None:
    async def body(one: Bench, two: Bench) -> None:
        room = await one.room()
        _, socket = one.join(room)
        one.stored.remove(DOCUMENT)
        await asyncio.sleep(6)
        assert (room.is_discarded, socket.close_code()) == (True, 4404)

    on_two(body, head_look=5.0)


def test_a_room_that_goes_is_not_told_of_its_document_any_more() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        await asyncio.sleep(40)
        assert room.is_discarded
        live(writer, *edits(3))
        await asyncio.sleep(1)
        assert has(room) == {}
        connection, _ = two.join(await two.room(), 2)
        connection.receive(sync_step1(b"\x00"))
        await asyncio.sleep(1)
        assert has(connection.room) == {7: 3}

    on_two(body, head_look=5.0)


def test_R9_a_room_does_not_go_before_its_log_was_looked_at() -> None:
    async def body(one: Bench, two: Bench) -> None:
        """Everybody has left, the database fails over, and what it lost is held by this room alone."""
        room = await one.room()
        writer, _ = one.join(room)
        live(writer, *edits(5))
        await asyncio.sleep(1)
        one.weather.is_away = True
        writer.ended()
        await asyncio.sleep(120)
        assert one.rooms.room(DOCUMENT) is room
        await set_back(one, 1)
        one.weather.is_away = False
        await asyncio.sleep(60)
        assert one.rooms.room(DOCUMENT) is None
        assert await in_log(one) == {7: 5}

    on_two(body, head_look=5.0)
