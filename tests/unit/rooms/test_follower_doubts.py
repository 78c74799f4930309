"""What the bus says and the log does not bear out: it costs a look now and then, and holds up nothing that is right (R6, R13)."""

import asyncio
from collections.abc import Callable

from constructure_sync.bus.contracts import Saved
from constructure_sync.observability import LOG_READS
from constructure_sync.protocol.messages import sync_step1
from constructure_sync.rooms.room import Room
from schemas.ids import CommitId, Seq
from tests.unit.rooms.bench import DOCUMENT, Bench, edits, live, whole
from tests.unit.rooms.test_follower import has, in_log, on_two, set_back


def counted(room: Room) -> Callable[[], float]:
    """Return what tells how often the room of this process has read a log since."""
    assert not room.is_discarded
    before = LOG_READS._value.get()
    return lambda: float(LOG_READS._value.get() - before)


def test_R6_a_commit_that_no_log_holds_is_forgotten_after_one_look() -> None:
    async def body(one: Bench, two: Bench) -> None:
        """Such as one that was lost in a failover, and that a bus brings late."""
        writer, _ = one.join(await one.room())
        room = await two.room()
        two.join(room, 2)
        reads = counted(room)
        room.heard(9, Saved(Seq(101), Seq(101), CommitId(5), CommitId(4), (b"\x00\x00",)))
        room.heard(9, Saved(Seq(1), Seq(1), CommitId(6), CommitId(0), None))
        await asyncio.sleep(60)
        assert reads() <= 2
        live(writer, *edits(3))
        await asyncio.sleep(1)
        assert has(room) == {7: 3}

    on_two(body)


def test_R13_a_large_update_that_no_worker_can_read_is_tried_at_growing_intervals() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        two.join(room, 2)
        reads = counted(room)
        two.workers.failures = 10**6
        live(writer, whole(edits(9, client=8, size=400)))
        await asyncio.sleep(60)
        assert 10**6 - two.workers.failures < 40
        assert reads() < 40
        two.workers.failures = 0
        await asyncio.sleep(10)
        assert has(room) == {8: 9}

    on_two(body, worker_frame_bytes=1000)


def test_R6_commits_that_come_in_order_are_relayed_while_the_log_does_not_answer() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        _, reader = two.join(await two.room(), 2)
        await asyncio.sleep(0.1)
        first, second, *others = edits(12)
        one.bus.filter = lambda message: False
        live(writer, first)
        await asyncio.sleep(0.1)
        one.bus.filter = lambda message: True
        two.weather.delay = 30.0
        live(writer, second)
        await asyncio.sleep(1)  # the log is being read
        one.bus.release(one.bus.held)
        await asyncio.sleep(0.1)
        reader.take()
        for update in others:
            live(writer, update)
            await asyncio.sleep(0.1)
        assert reader.updates() == others

    on_two(body)


def test_R13_messages_that_do_not_fit_load_no_document() -> None:
    async def body(one: Bench, two: Bench) -> None:
        writer, _ = one.join(await one.room())
        room = await two.room()
        live(writer, *edits(20))
        await asyncio.sleep(1)
        loads = two.watcher.reads
        for _ in range(200):
            seq = Seq(room.log_head.seq + 1)
            room.heard(9, Saved(seq, seq, CommitId(77), room.log_head.commit, (b"\xff\xff\xff",)))
            await asyncio.sleep(0.05)
        assert two.watcher.reads - loads < 20
        live(writer, *edits(3, client=8))
        await asyncio.sleep(10)
        assert has(room) == {7: 20, 8: 3}

    on_two(body)


def test_R9_heals_of_a_room_keep_a_distance() -> None:
    async def body(one: Bench, two: Bench) -> None:
        room = await one.room()
        writer, _ = one.join(room)
        live(writer, *edits(10))
        await asyncio.sleep(1)
        loads = one.watcher.reads
        for _ in range(40):
            await set_back(one, 2)
            room.head_seen((await one.stored.heads([DOCUMENT]))[DOCUMENT], room.log_head)
            await asyncio.sleep(0.5)
        assert one.watcher.reads - loads < 15
        await asyncio.sleep(20)
        assert await in_log(one) == {7: 10}

    on_two(body, head_look=5.0)


def test_R9_a_receipt_that_waited_for_a_slow_socket_is_withdrawn_when_the_log_went_back() -> None:
    async def body(one: Bench, two: Bench) -> None:
        room = await one.room()
        writer, socket = one.join(room)
        writer.receive(sync_step1(b"\x00"))
        await asyncio.sleep(0.1)
        socket.take()
        writer.congested()
        live(writer, *edits(4))
        await asyncio.sleep(1)
        await set_back(one, 0)
        one.weather.is_away = True
        room.head_seen((await one.stored.heads([DOCUMENT]))[DOCUMENT], room.log_head)
        writer.writable()
        await asyncio.sleep(1)
        assert socket.receipts() == []
        one.weather.is_away = False
        await asyncio.sleep(10)
        assert await in_log(one) == {7: 4}
        assert socket.receipts() == [4]

    on_two(body)
