"""The life of rooms: loads that are shared, an idle grace, discarded rooms, and a stop that saves everything."""

import asyncio
from uuid import UUID

import pytest

from constructure_sync.persistence.compactor import CompactionLimits
from constructure_sync.protocol.closes import RESTART
from constructure_sync.protocol.known import Known
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.registry import DocumentNotFound
from schemas.ids import DocumentId
from storage.contracts import StorageUnavailable
from tests.unit.rooms.bench import DOCUMENT, STEP2, Bench, answer, edits, live, on_bench, whole


def clocks(payloads: list[bytes]) -> dict[int, int]:
    known = Known()
    for payload in payloads:
        known.add(known.close(payload))
    return known.clocks


def test_a_load_is_shared_by_all_who_wait() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.delay = 1.0
        rooms = await asyncio.gather(*[bench.room() for _ in range(5)])
        assert len({id(room) for room in rooms}) == 1
        assert len(bench.rooms) == 1

    on_bench(body)


def test_a_failed_load_fails_all_who_wait_and_is_not_remembered() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.is_away = True
        outcomes = await asyncio.gather(*[bench.room() for _ in range(3)], return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
        bench.weather.is_away = False
        assert not (await bench.room()).is_discarded

    on_bench(body)


def test_R13_a_load_that_hangs_is_given_up() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.hang = 1.0
        with pytest.raises(TimeoutError):
            await bench.room()
        assert bench.loop.time() == pytest.approx(30.0)

    on_bench(body)


def test_a_document_that_does_not_exist_is_not_found() -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(DocumentNotFound):
            await bench.room(DocumentId(UUID(int=99)))
        assert len(bench.rooms) == 0

    on_bench(body)


def test_one_who_gives_up_waiting_takes_the_load_from_nobody_and_leaves_no_room_behind() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.delay = 1.0
        impatient = asyncio.ensure_future(bench.room())
        patient = asyncio.ensure_future(bench.room())
        await asyncio.sleep(0.001)
        impatient.cancel()
        assert not (await patient).is_discarded
        await asyncio.sleep(40)
        assert len(bench.rooms) == 0
        alone = asyncio.ensure_future(bench.room())
        await asyncio.sleep(0.001)
        alone.cancel()
        await asyncio.sleep(5)
        assert len(bench.rooms) == 1
        await asyncio.sleep(40)
        assert len(bench.rooms) == 0

    on_bench(body)


def test_an_empty_room_goes_after_its_grace_and_its_log_is_compacted() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        live(writer, *edits(10))
        await asyncio.sleep(1)
        writer.ended()
        await asyncio.sleep(29)
        assert bench.rooms.room(DOCUMENT) is room
        await asyncio.sleep(3)
        assert bench.rooms.room(DOCUMENT) is None
        stored = await bench.stored.load(DOCUMENT)
        assert stored is not None
        assert [segment.last for segment in stored.segments] == [10]
        _, newcomer = bench.join(await bench.room())
        assert clocks(newcomer.updates()) == {7: 10}

    on_bench(body)


def test_a_newcomer_within_the_grace_keeps_the_room() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        bench.join(room)[0].ended()
        await asyncio.sleep(29)
        bench.join(await bench.room())
        await asyncio.sleep(100)
        assert bench.rooms.room(DOCUMENT) is room

    on_bench(body)


def test_a_room_that_is_not_saved_stays_until_it_is() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        bench.weather.is_away = True
        live(writer, *edits(3))
        writer.ended()
        await asyncio.sleep(100)
        assert bench.rooms.room(DOCUMENT) is room
        bench.weather.is_away = False
        await asyncio.sleep(60)
        assert len(bench.rooms) == 0
        assert clocks(await bench.payloads()) == {7: 3}

    on_bench(body)


def test_R3_one_who_joins_a_room_that_has_gone_meanwhile_is_sent_to_the_next() -> None:
    async def body(bench: Bench) -> None:
        gone = await bench.room()
        await asyncio.sleep(40)
        room = await bench.room()
        assert room is not gone
        late, socket = bench.join(gone)
        assert socket.close_code() == RESTART
        live(late, *edits(1))
        assert gone.history.head == 0
        late.ended()
        await asyncio.sleep(40)
        assert len(bench.rooms) == 0  # joining the old room has not kept the new one from going

    on_bench(body)


def test_one_who_joins_a_discarded_room_is_sent_to_the_next() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        room.discard(RESTART, "test")
        _, socket = bench.join(room)
        assert socket.close_code() == RESTART
        assert await bench.room() is not room

    on_bench(body)


@pytest.mark.parametrize("updates", [3, 200])
def test_R5_a_room_that_was_loaded_gives_newcomers_what_was_saved(updates: int) -> None:
    async def body(bench: Bench) -> None:
        writer, _ = bench.join(await bench.room())
        live(writer, *edits(updates))
        await asyncio.sleep(1)
        writer.room.discard(RESTART, "test")
        room = await bench.room()
        assert room.log_seq == updates
        writer, newcomer = bench.join(room)
        messages = newcomer.take()
        assert messages[-1].startswith(STEP2)
        newcomer.messages = messages
        assert clocks(newcomer.updates()) == {7: updates}
        live(writer, *edits(updates + 1)[updates:])
        await asyncio.sleep(1)
        assert clocks(await bench.payloads()) == {7: updates + 1}

    on_bench(body)


def test_a_log_that_grows_is_compacted_while_its_room_is_open() -> None:
    async def body(bench: Bench) -> None:
        bench.compactor.limits = CompactionLimits(updates_at_close=2, updates_while_open=10)
        writer, _ = bench.join(await bench.room())
        live(writer, *edits(20))
        await asyncio.sleep(10)
        stored = await bench.stored.load(DOCUMENT)
        assert stored is not None
        assert [segment.last for segment in stored.segments] == [20]

    on_bench(body)


def test_a_stop_saves_what_is_taken_and_what_is_being_read() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.delay = bench.workers.delay = 1.0
        room = await bench.room()
        (one, first), (two, second) = bench.join(room), bench.join(room, 2)
        live(one, edits(1, client=1)[0])
        answer(two, whole(edits(20, client=2)))
        await bench.rooms.drain(20.0)
        assert clocks(await bench.payloads()) == {1: 1, 2: 20}
        assert first.close_code() == second.close_code() == RESTART
        assert first.receipts() == second.receipts() == [1]

    on_bench(body, RoomLimits(worker_frame_bytes=100))


def test_a_stop_takes_no_longer_than_it_may() -> None:
    async def body(bench: Bench) -> None:
        writer, socket = bench.join(await bench.room())
        bench.weather.is_away = True
        live(writer, *edits(1))
        started = bench.loop.time()
        await bench.rooms.drain(20.0)
        assert bench.loop.time() - started == pytest.approx(20.0)
        assert socket.close_code() == RESTART

    on_bench(body)
