"""A room and its connections: what is taken, relayed, acknowledged, refused; what a newcomer and a slow reader get."""

import asyncio
from dataclasses import replace
from uuid import UUID

import pytest
from prometheus_client import REGISTRY

from constructure_sync.persistence.log_writer import CommitLimits
from constructure_sync.protocol.awareness import AwarenessEntry, decode_awareness, encode_awareness
from constructure_sync.protocol.closes import (
    DELETED,
    FORBIDDEN,
    INTERNAL_ERROR,
    OVERLOADED,
    RESTART,
    TOO_LARGE,
    VIOLATION,
)
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.messages import awareness_message, sync_step1
from constructure_sync.protocol.state_vector import decode_state_vector, encode_state_vector
from constructure_sync.rooms.limits import RoomLimits
from schemas.ids import UserId
from tests.unit.rooms.bench import (
    DENIED,
    DOCUMENT,
    PRESENCE,
    STEP1,
    STEP2,
    UPDATE,
    Bench,
    answer,
    edits,
    live,
    on_bench,
    whole,
)


async def settle() -> None:
    await asyncio.sleep(0.5)


def known_of(updates: list[bytes]) -> dict[int, int]:
    known = Known()
    for update in updates:
        part = known.close(update)
        assert not part.missing
        known.add(part)
    return known.clocks


# ---------------------------------------------------------------------- taking and relaying


def test_R1_neighbours_are_told_before_the_commit_and_the_author_only_after_it() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.delay = 0.2
        room = await bench.room()
        (writer, author), (_, neighbour) = bench.join(room), bench.join(room, 2)
        neighbour.take()
        (update,) = edits(1)
        live(writer, update)
        await asyncio.sleep(0.001)
        assert neighbour.updates() == [update]
        assert author.receipts() == []
        assert await bench.payloads() == []
        await asyncio.sleep(0.5)
        assert await bench.payloads() == [update]
        assert author.receipts() == [1]
        assert author.updates() == neighbour.updates() == []

    on_bench(body)


def test_updates_of_one_tick_are_one_write() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        neighbours = [bench.join(room, number)[1] for number in (2, 3)]
        await settle()
        before = [neighbour.writes for neighbour in neighbours]
        live(writer, *edits(5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [neighbour.writes for neighbour in neighbours] == [number + 1 for number in before]

    on_bench(body)


def test_R11_a_repeated_write_is_acknowledged_when_its_first_copy_is_saved() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        bench.weather.is_away = True
        first, _ = bench.join(room)
        updates = edits(30)
        live(first, *updates)
        first.ended()
        second, socket = bench.join(room)
        answer(second, whole(updates))
        answer(second, whole(updates))  # now known by its digest
        await settle()
        assert socket.receipts() == []
        bench.weather.is_away = False
        await asyncio.sleep(10)
        assert socket.receipts() == [2]
        assert await bench.payloads() == updates

    on_bench(body)


def test_a_gap_is_cut_asked_for_once_and_acknowledged_after_the_answer() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, socket = bench.join(room)
        answer(writer, b"\x00\x00")
        socket.take()
        updates = edits(4)
        live(writer, updates[0], updates[2], updates[3])
        await settle()
        messages = socket.take()
        assert [message for message in messages if message.startswith(STEP1)] == [
            sync_step1(encode_state_vector({7: 1}))
        ]
        assert [message[1] for message in messages if message[0] == 120] == [2]
        answer(writer, whole(updates))
        await settle()
        assert socket.receipts() == [5]
        assert known_of(await bench.payloads()) == {7: 4}

    on_bench(body)


def test_what_a_client_cannot_give_it_is_not_asked_for_again() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, socket = bench.join(room)
        answer(writer, edits(2)[1])
        socket.take()
        live(writer, edits(2)[1])
        assert socket.take(STEP1) == []
        live(writer, edits(2, client=8)[1])
        assert len(socket.take(STEP1)) == 1

    on_bench(body)


@pytest.mark.parametrize("message", [b"", b"\x09", b"\x00\x02\x05abc", b"\x00\x02\x03\xff\xff\xff", b"\x02\x00"])
def test_a_violation_closes_only_its_own_socket(message: bytes) -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (bad, bad_socket), (_, good_socket) = bench.join(room), bench.join(room, 2)
        bad.receive(message)
        await asyncio.sleep(2)
        assert bad_socket.close_code() == VIOLATION
        assert good_socket.close_code() is None
        live(bad, *edits(1))
        assert room.history.head == 0

    on_bench(body)


# ---------------------------------------------------------------------- joining and catching up


def test_R5_a_newcomer_gets_all_once_in_order_and_is_synced_last() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        updates = edits(20)
        live(writer, *updates)
        _, newcomer = bench.join(room, 2)
        messages = [message for message in newcomer.take() if message[0] == 0]
        assert [Reader(message, 2).read_var_bytes() for message in messages[1:-1]] == updates
        assert messages[-1].startswith(STEP2)

    on_bench(body)


def test_R5_what_a_state_vector_covers_is_passed_over_but_for_its_deletes() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        updates = edits(20)
        live(writer, *updates, b"\x00\x01\x07\x01\x02\x03")
        reader, socket = bench.join(room, 2)
        socket.take()
        reader.receive(sync_step1(encode_state_vector({7: 18})))
        messages = socket.take()
        assert [message for message in messages if message.startswith(UPDATE)] == [
            b"\x00\x02" + bytes([len(update)]) + update for update in updates[18:]
        ]
        assert messages[-1] == b"\x00\x01\x06\x00\x01\x07\x01\x02\x03"

    on_bench(body)


def test_R5_deletes_that_come_after_the_frame_of_all_deletes_reach_who_has_the_structs() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        first, second = b"\x00\x01\x07\x01\x02\x03", b"\x00\x01\x07\x01\x08\x02"
        live(writer, *edits(20), first)
        for deletes in (first, second):
            if deletes is second:
                live(writer, second)
            reader, socket = bench.join(room, 2)
            socket.take()
            reader.receive(sync_step1(encode_state_vector({7: 20})))
            *updates, last = [message for message in socket.take() if message[0] == 0]
            assert last == b"\x00\x01\x06" + first
            assert updates == ([] if deletes is first else [b"\x00\x02\x06" + second])

    on_bench(body)


def test_R5_a_tail_is_written_in_stretches_and_its_authors_are_not_told_their_own() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        bench.weather.delay = 10.0  # nothing is saved, and so nothing folded
        (writer, own), (other, _) = bench.join(room), bench.join(room, 2)
        updates, others = edits(40), edits(40, client=8)
        live(writer, *updates[:20])
        live(other, *others)
        live(writer, *updates[20:])
        await asyncio.sleep(0.01)
        own.take()
        writes = own.writes
        writer.receive(sync_step1(b"\x00"))
        assert own.updates() == others
        _, newcomer = bench.join(room, 3)
        assert newcomer.updates() == [*updates[:20], *others, *updates[20:]]
        assert own.writes - writes < 40 > newcomer.writes

    on_bench(body, RoomLimits(segment_bytes=1000, fold_entries=1000, resync_interval=0.0))


def test_R4_a_slow_connection_is_only_a_cursor() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (writer, _), (slow, socket) = bench.join(room), bench.join(room, 2)
        socket.take()
        slow.congested()
        updates = edits(50)
        for update in updates:
            live(writer, update)
            await asyncio.sleep(0.01)
        assert socket.take() == []
        slow.writable()
        assert socket.updates() == updates

    on_bench(body)


def test_R4_a_congested_socket_is_answered_later_however_often_it_asks() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        for user in (2, 3):
            other, _ = bench.join(room, user)
            other.receive(awareness_message(encode_awareness([AwarenessEntry(user, 0, b"{}")])))
        slow, socket = bench.join(room)
        socket.take()
        slow.congested()
        for _ in range(1000):
            slow.receive(b"\x03")
            slow.receive(sync_step1(b"\x00"))
        assert socket.take() == []
        slow.writable()
        messages = socket.take()
        assert len(messages) == 2
        assert {entry.client_id for entry in decode_awareness(Reader(messages[0], 1).read_var_bytes())} == {2, 3}
        assert messages[1].startswith(STEP2)

    on_bench(body)


def test_R4_folding_while_a_connection_is_behind_loses_nothing() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (writer, _), (slow, socket) = bench.join(room), bench.join(room, 2)
        updates = edits(60, size=20)
        live(writer, *updates[:10])
        await settle()
        socket.take()
        slow.congested()
        live(writer, *updates[10:40])
        await settle()
        live(writer, *updates[40:])
        await settle()
        assert room.history.segments
        slow.writable()
        known = known_of([*updates[:10], *socket.updates()])
        assert known == {7: 60}
        _, newcomer = bench.join(room, 3)
        assert known_of(newcomer.updates()) == {7: 60}

    on_bench(body, RoomLimits(segment_bytes=300, fold_entries=5))


def test_what_is_saved_during_a_fold_is_folded_after_it_a_part_at_a_time() -> None:
    async def body(bench: Bench) -> None:
        bench.workers.delay = 5.0
        room = await bench.room()
        writer, _ = bench.join(room)
        updates = edits(60)
        live(writer, *updates[:8])
        await settle()
        live(writer, *updates[8:])
        await asyncio.sleep(60)
        assert len(room.history.tail) < 8
        _, socket = bench.join(room)
        await settle()
        assert known_of(socket.updates()) == {7: 60}

    on_bench(body, RoomLimits(segment_bytes=200, fold_entries=8))


def test_a_fold_whose_worker_failed_is_done_later() -> None:
    async def body(bench: Bench) -> None:
        bench.workers.failures = 1
        room = await bench.room()
        writer, _ = bench.join(room)
        updates = edits(12)
        live(writer, *updates[:6])
        await settle()
        assert not room.history.segments
        live(writer, *updates[6:])
        await settle()
        assert room.history.segments
        assert room.history.tail_start == 10  # five at a time
        assert not room.is_discarded

    on_bench(body, RoomLimits(fold_entries=5))


def test_a_repeated_question_for_much_is_answered_after_a_while() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        live(writer, *edits(2, size=100))
        reader, socket = bench.join(room, 2)
        assert len(socket.updates()) == 2
        for _ in range(20):
            reader.receive(sync_step1(b"\x00"))
        assert socket.updates() == []
        reader.receive(sync_step1(encode_state_vector({7: 2})))
        assert len(socket.take(STEP2)) == 1
        await asyncio.sleep(16)
        assert len(socket.updates()) == 2

    on_bench(body, RoomLimits(viewer_frame_bytes=100, resync_interval=10.0))


def test_a_silent_connection_gets_a_keepalive_within_its_interval() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        _, socket = bench.join(room)
        await asyncio.sleep(1)
        socket.take()
        await asyncio.sleep(45)
        assert 2 <= len(socket.take(PRESENCE)) <= 3

    on_bench(body)


def test_a_lone_writer_gets_keepalives_although_its_cursor_moves() -> None:
    async def body(bench: Bench) -> None:
        writer, socket = bench.join(await bench.room(), ack=False)
        await asyncio.sleep(1)
        socket.take()
        for update in edits(90):
            live(writer, update)
            await asyncio.sleep(0.5)
        assert 2 <= len(socket.take()) <= 3

    on_bench(body)


# ---------------------------------------------------------------------- large updates


def test_a_large_update_is_read_in_a_worker_while_its_socket_is_paused() -> None:
    async def body(bench: Bench) -> None:
        bench.workers.delay = 1.0
        room = await bench.room()
        (writer, socket), (_, neighbour) = bench.join(room), bench.join(room, 2)
        updates = edits(20)
        answer(writer, whole(updates))
        assert socket.is_paused()
        assert room.history.head == 0
        await asyncio.sleep(3)
        assert not socket.is_paused()
        assert socket.receipts() == [1]
        assert known_of(neighbour.updates()) == {7: 20}
        assert bench.budget.used == 0

    on_bench(body, RoomLimits(worker_frame_bytes=100))


def test_a_large_update_that_two_bring_at_once_is_taken_once() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (one, first), (two, second) = bench.join(room), bench.join(room, 2)
        update = whole(edits(20))
        answer(one, update)
        answer(two, update)
        await asyncio.sleep(1)
        assert await bench.payloads() == [update]
        assert first.receipts() == second.receipts() == [1]

    on_bench(body, RoomLimits(worker_frame_bytes=100))


def test_a_large_update_is_taken_though_its_sender_has_left() -> None:
    async def body(bench: Bench) -> None:
        bench.workers.delay = 1.0
        room = await bench.room()
        writer, _ = bench.join(room)
        answer(writer, whole(edits(20)))
        writer.ended()
        await asyncio.sleep(3)
        assert len(await bench.payloads()) == 1
        assert bench.budget.used == 0
        await asyncio.sleep(60)
        assert len(bench.rooms) == 0

    on_bench(body, RoomLimits(worker_frame_bytes=100))


def test_a_large_update_that_comes_back_after_its_room_was_discarded_is_dropped() -> None:
    async def body(bench: Bench) -> None:
        bench.workers.delay = 1.0
        room = await bench.room()
        writer, socket = bench.join(room)
        answer(writer, whole(edits(20)))
        room.discard(RESTART, "test")
        await asyncio.sleep(3)
        assert await bench.payloads() == []
        assert socket.close_code() == RESTART
        assert bench.budget.used == 0
        assert bench.log_writer.unsaved_bytes == 0

    on_bench(body, RoomLimits(worker_frame_bytes=100))


def test_a_worker_that_fails_costs_only_its_socket() -> None:
    async def body(bench: Bench) -> None:
        bench.workers.failures = 1
        room = await bench.room()
        (writer, socket), (_, neighbour) = bench.join(room), bench.join(room, 2)
        answer(writer, whole(edits(20)))
        await asyncio.sleep(1)
        assert socket.close_code() == INTERNAL_ERROR
        assert neighbour.close_code() is None
        assert bench.budget.used == 0

    on_bench(body, RoomLimits(worker_frame_bytes=100))


@pytest.mark.parametrize(("others", "is_taken"), [(0, True), (1, False)])
def test_R13_large_updates_beyond_the_budget_are_sent_away(others: int, is_taken: bool) -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        update = whole(edits(20))
        for user in range(others):
            answer(bench.join(room, 10 + user)[0], whole(edits(20, client=20 + user)))
        writer, socket = bench.join(room)
        answer(writer, update)
        assert socket.close_code() == (None if is_taken else OVERLOADED)
        await asyncio.sleep(1)
        assert bench.budget.used == 0

    on_bench(body, RoomLimits(worker_frame_bytes=100, in_flight_bytes=200))


# ---------------------------------------------------------------------- refusing


async def kept(bench: Bench) -> list[tuple[int, str, dict[int, int]]]:
    changes = await bench.stranded.list_for(DOCUMENT)
    return [(change.user_id.int, change.reason, known_of([change.payload])) for change in changes]


def test_R10_a_readers_write_is_kept_told_once_and_its_socket_closed() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        updates = edits(3)
        answer(reader, updates[0])
        await asyncio.sleep(0.2)
        live(reader, *updates[1:])
        await asyncio.sleep(0.2)
        assert len(socket.take(DENIED)) == 1
        assert socket.close_code() is None
        await asyncio.sleep(1)
        assert socket.close_code() == FORBIDDEN
        assert await kept(bench) == [(3, "forbidden", {7: 3})]
        assert room.history.head == 0

    on_bench(body)


def test_R15_a_reader_may_convey_what_its_author_brings_back_in_time() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        relayed = edits(3)  # by an author whose server died before the commit
        answer(reader, whole(relayed))
        await asyncio.sleep(2)
        assert socket.receipts() == []
        assert await kept(bench) == [(3, "forbidden", {7: 3})]
        author, _ = bench.join(room)
        answer(author, whole(relayed))
        await asyncio.sleep(10)
        assert socket.receipts() == [1]
        assert socket.close_code() is None

    on_bench(body)


def test_R10_a_reader_whose_role_is_raised_meanwhile_brings_it_again_as_a_writer() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        answer(reader, whole(edits(3)))
        await asyncio.sleep(1)
        reader.set_right_to_write(True)
        socket.take()
        await asyncio.sleep(6)
        assert len(socket.take(STEP1)) == 1
        answer(reader, whole(edits(3)))
        await settle()
        assert socket.receipts() == [2]
        assert known_of(await bench.payloads()) == {7: 3}

    on_bench(body)


def test_R13_of_a_readers_answers_only_the_newest_waits_to_be_judged() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        for count in (1, 2, 3):
            answer(reader, whole(edits(count)))
            await settle()
        assert reader.conveyed == whole(edits(3))
        author, _ = bench.join(room)
        answer(author, whole(edits(3)))
        await asyncio.sleep(10)
        assert room.connections[0].conveyed is None
        assert socket.close_code() is None
        assert socket.receipts() == [3]

    on_bench(body)


def test_R10_a_reader_whose_answer_nobody_else_brings_wrote_itself() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        answer(reader, whole(edits(3)))
        await asyncio.sleep(4.5)
        assert socket.close_code() is None
        await asyncio.sleep(2)
        assert len(socket.take(DENIED)) == 1
        assert socket.close_code() == FORBIDDEN
        assert socket.receipts() == []
        assert room.history.head == 0

    on_bench(body)


def test_R10_a_refused_write_grows_what_an_earlier_connection_left() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        updates = edits(4)
        for update in updates[:2], updates[2:]:
            reader, _ = bench.join(room, 3, can_write=False)
            live(reader, *update)
            await settle()
            reader.ended()
        assert await kept(bench) == [(3, "forbidden", {7: 4})]

    on_bench(body)


def test_R10_a_refused_write_that_cannot_be_kept_now_is_the_clients_to_bring_again() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.stranded_is_away = True
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        live(reader, *edits(1))
        await settle()
        assert socket.take(DENIED) == []
        assert socket.close_code() == OVERLOADED

    on_bench(body)


def test_R13_nothing_more_is_read_while_a_refused_write_is_being_kept() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.delay = 1.0
        room = await bench.room()
        reader, socket = bench.join(room, 3, can_write=False)
        live(reader, *edits(1))
        assert socket.is_paused()
        await asyncio.sleep(2.5)
        assert not socket.is_paused()

    on_bench(body, RoomLimits(close_delay=60.0))


def test_R12_a_readers_derived_deletes_are_dropped_without_a_word() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (writer, _), (reader, socket) = bench.join(room), bench.join(room, 3, can_write=False)
        live(writer, *edits(3))
        await settle()
        before = room.history.head
        live(reader, b"\x00\x01\x07\x01\x00\x01")
        answer(reader, b"\x00\x01\x07\x01\x00\x01")
        await settle()
        assert room.history.head == before
        assert socket.close_code() is None
        assert await kept(bench) == []

    on_bench(body)


def test_R12_a_writers_derived_delete_is_taken_once() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        live(writer, *edits(3))
        for user in range(4):
            answer(bench.join(room, user)[0], b"\x00\x01\x07\x01\x00\x01")
        assert room.history.head == 4

    on_bench(body)


def test_R12_joining_writes_nothing() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        live(writer, *edits(3))
        await settle()
        for user in range(4):
            connection, _ = bench.join(room, user, can_write=user % 2 == 0)
            answer(connection, b"\x00\x00")
            answer(connection, whole(edits(3)) if user % 2 == 0 else b"\x00\x00")
        await settle()
        assert len(await bench.payloads()) == 3

    on_bench(body)


def test_R10_a_document_that_would_be_too_large_refuses_and_keeps() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, socket = bench.join(room)
        updates = edits(4, size=30)
        size = sum(map(len, updates[:3]))
        room.limits = replace(room.limits, max_document_bytes=size)
        live(writer, *updates[:3])
        assert not writer.is_refused
        live(writer, updates[3])
        await asyncio.sleep(2)
        assert socket.close_code() == TOO_LARGE
        changes = await bench.stranded.list_for(DOCUMENT)
        assert [change.payload for change in changes] == [updates[3]]
        assert len(await bench.payloads()) == 3

    on_bench(body)


def test_a_role_that_is_lowered_counts_from_the_next_write_on() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room)
        updates = edits(2)
        live(writer, updates[0])
        writer.set_right_to_write(False)
        live(writer, updates[1])
        await settle()
        assert await bench.payloads() == updates[:1]
        assert len(await kept_payloads(bench)) == 1

    on_bench(body)


async def kept_payloads(bench: Bench) -> list[bytes]:
    return [change.payload for change in await bench.stranded.list_for(DOCUMENT)]


# ---------------------------------------------------------------------- saving


def test_R13_more_unsaved_bytes_than_allowed_send_the_writer_away_until_the_log_is_back() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.is_away = False
        room = await bench.room()
        bench.weather.is_away = True
        writer, socket = bench.join(room)
        updates = edits(40, size=20)
        live(writer, *updates)
        assert socket.close_code() == OVERLOADED
        assert 200 <= bench.log_writer.unsaved_bytes < 300
        taken = room.history.head
        bench.weather.is_away = False
        await asyncio.sleep(10)
        assert await bench.payloads() == updates[:taken]
        assert bench.log_writer.unsaved_bytes == 0
        writer.ended()
        again, socket = bench.join(room)
        live(again, updates[taken])
        await settle()
        assert socket.receipts() == [1]

    on_bench(body, commits=CommitLimits(unsaved_bytes=200))


@pytest.mark.parametrize("has_left", [False, True])
def test_R10_unsaved_updates_of_a_deleted_document_are_kept_also_of_those_who_left(has_left: bool) -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, socket = bench.join(room, 4)
        bench.weather.delay = 0.1
        live(writer, *edits(5))
        bench.stored.remove(DOCUMENT)
        if has_left:
            writer.ended()
        await asyncio.sleep(3)
        assert room.is_discarded
        assert await kept(bench) == [(4, "deleted", {7: 5})]
        if not has_left:
            assert socket.close_code() == DELETED
            assert socket.receipts() == []

    on_bench(body)


def test_a_room_that_is_discarded_while_an_append_is_under_way_counts_nothing_twice() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, socket = bench.join(room)
        bench.weather.delay = 1.0
        live(writer, *edits(3))
        await asyncio.sleep(0.01)
        room.discard(RESTART, "test")
        assert bench.log_writer.unsaved_bytes == 0
        await asyncio.sleep(5)
        assert bench.log_writer.unsaved_bytes == 0
        assert socket.receipts() == []
        again, _ = bench.join(await bench.room())
        assert again.room is not room
        assert known_of(await bench.payloads()) == {7: 3}
        live(again, *edits(5)[3:])
        await asyncio.sleep(5)
        assert known_of(await bench.payloads()) == {7: 5}

    on_bench(body)


def test_a_fault_in_a_rooms_own_work_discards_it_and_the_log_writer_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, socket = bench.join(room)

        def fail(*_: object) -> None:
            raise RuntimeError("test")

        monkeypatch.setattr(type(room), "_put_fold", fail)
        live(writer, *edits(6))
        await settle()
        assert room.is_discarded
        assert socket.close_code() == INTERNAL_ERROR
        monkeypatch.undo()
        again, _ = bench.join(await bench.room())
        live(again, *edits(8)[6:])
        await settle()
        assert known_of(await bench.payloads()) == {7: 8}

    on_bench(body, RoomLimits(fold_entries=5))


def test_R15_an_id_is_bound_by_a_live_update_of_the_socket_whose_presence_carries_it() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        writer, _ = bench.join(room, 4)
        writer.receive(awareness_message(encode_awareness([AwarenessEntry(7, 0, b"{}")])))
        answer(writer, edits(1, client=9)[0])
        live(writer, *edits(1, client=8), *edits(1))
        await settle()
        assert bench.stored._documents[DOCUMENT].clients == {(7, UserId(UUID(int=4)))}

    on_bench(body)


def test_our_question_tells_what_the_room_has_saved_or_not() -> None:
    async def body(bench: Bench) -> None:
        bench.weather.delay = 5.0
        room = await bench.room()
        writer, _ = bench.join(room)
        live(writer, *edits(3))
        _, socket = bench.join(room, 2)
        (question,) = socket.take(STEP1)
        assert decode_state_vector(Reader(question, 2).read_var_bytes()) == {7: 3}

    on_bench(body)


def test_what_a_client_sends_back_of_what_it_was_told_is_dropped_as_it_came() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (one, _), (two, socket) = bench.join(room), bench.join(room, 2)
        for connection, client in ((one, 7), (two, 8)):
            connection.receive(awareness_message(encode_awareness([AwarenessEntry(client, 3, b"{}")])))
        await settle()
        _, relayed = socket.take(PRESENCE)
        before = REGISTRY.get_sample_value("presence_frames_total", {"outcome": "echo"}) or 0.0
        for _ in range(500):
            two.receive(relayed)
        room.sweep()
        await settle()
        after = REGISTRY.get_sample_value("presence_frames_total", {"outcome": "echo"}) or 0.0
        assert after - before == 500
        assert socket.messages == []
        assert socket.close_code() is None

    on_bench(body)


def test_R8_presence_of_a_socket_ends_with_it() -> None:
    async def body(bench: Bench) -> None:
        room = await bench.room()
        (one, _), (_, other) = bench.join(room), bench.join(room, 2)
        one.receive(awareness_message(encode_awareness([AwarenessEntry(7, 3, b"{}")])))
        await settle()
        other.take()
        one.ended()
        await settle()
        (message,) = other.take(PRESENCE)
        (entry,) = decode_awareness(Reader(message, 1).read_var_bytes())
        assert (entry.client_id, entry.clock, entry.state) == (7, 3, b"null")

    on_bench(body)
