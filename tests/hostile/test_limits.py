"""Every limit at its edge, over real sockets: what is just within is taken, what is just beyond is refused and counted."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from constructure_sync.protocol.closes import FORBIDDEN, OVERLOADED, RATE, TOO_LARGE, VIOLATION
from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.messages import update_message
from constructure_sync.protocol.update_reader import DEFAULT_LIMITS
from tests.hostile.line import Line, Refusal
from tests.hostile.malformed import any_value, nested_types, one
from tests.hostile.room import Room, furnished, metric, sync_path
from tests.server_process import Account, ServerProcess
from tests.unit.protocol.updates import item, section, text, uints, update

KIB = 1024
DOCUMENT = 256 * KIB
VIEWER_FRAME = 8 * KIB
AWARENESS = 512
AWARENESS_RATE = 5
AWARENESS_IDS = 4
AWARENESS_FRAME = 64 * KIB
IN_FLIGHT = 1024 * KIB
PER_USER = 6
PER_ADDRESS = 12
TOTAL = 14
DOC = 9


def small(tmp_path_factory: pytest.TempPathFactory, name: str, **settings: object) -> ServerProcess:
    given = {"close_delay_seconds": 0, **settings}
    return ServerProcess(tmp_path_factory.mktemp(name), {key: str(value) for key, value in given.items()})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with small(
        tmp_path_factory,
        "limits",
        viewer_frame_bytes=VIEWER_FRAME,
        awareness_bytes=AWARENESS,
        awareness_per_second=AWARENESS_RATE,
    ) as running:
        yield running


@pytest.fixture(scope="module")
def owner(server: ServerProcess) -> Account:
    return server.register("owner")


@pytest.fixture
async def room(server: ServerProcess, owner: Account) -> AsyncIterator[Room]:
    async with furnished(server, owner) as opened:
        yield opened


@pytest.fixture
async def line(room: Room) -> AsyncIterator[Line]:
    opened = await room.enter(ack="seq")
    yield opened
    await opened.leave()


def limit(server: ServerProcess, name: str) -> float:
    return metric(server, "limit_reached_total", limit=name)


def closed_with(server: ServerProcess, code: int) -> float:
    return metric(server, "websocket_closed_total", code=str(code))


async def counted(line: Line, code: int, server: ServerProcess) -> None:
    """The line is closed with this code, and that is counted."""
    assert await line.closed() == code
    assert closed_with(server, code) >= 1


# What one update may hold


def subdocuments(count: int) -> bytes:
    return one(*(item(DOC, var_string(f"g{n}") + b"\x76\x00", (901, n - 1) if n else None) for n in range(count)))


def clients(count: int) -> bytes:
    return update(*(section(1_000_000 + n, 0, text("a")) for n in range(count)))


def delete_ranges(count: int) -> bytes:
    return b"\x00" + uints(1, 901, count) + b"\x00\x01" + b"\x02\x01" * (count - 1)


def structs(count: int) -> bytes:
    """Garbage of one clock each: two bytes a struct."""
    return uints(1, count, 901, 0) + b"\x00\x01" * count + b"\x00"


EDGES = {
    "clients": (clients, DEFAULT_LIMITS.max_clients, TOO_LARGE),
    "subdocuments": (subdocuments, DEFAULT_LIMITS.max_subdocs, TOO_LARGE),
    "delete ranges": (delete_ranges, DEFAULT_LIMITS.max_delete_ranges, TOO_LARGE),
    "structs": (structs, DEFAULT_LIMITS.max_structs, TOO_LARGE),
    "depth of types": (nested_types, DEFAULT_LIMITS.max_depth, VIOLATION),
    "depth of values": (
        lambda depth: one(any_value(b"\x75\x01" * depth + b"\x7e")),
        DEFAULT_LIMITS.max_any_depth,
        VIOLATION,
    ),
}


@pytest.mark.parametrize("name", EDGES)
async def test_what_an_update_may_hold_ends_exactly_at_its_limit(name: str, room: Room, line: Line) -> None:
    make, most, code = EDGES[name]
    line.update(make(most))
    assert await line.reached()
    refused = metric(room.server, "updates_refused_total", reason="limit" if code == TOO_LARGE else "violation")
    refused += metric(room.server, "updates_refused_total", reason="violation") if code == TOO_LARGE else 0
    line.update(make(most + 1))
    await counted(line, code, room.server)
    after = metric(room.server, "updates_refused_total", reason="limit" if code == TOO_LARGE else "violation")
    after += metric(room.server, "updates_refused_total", reason="violation") if code == TOO_LARGE else 0
    assert after == refused + 1
    await room.type_on()


# Presence


def state(size: int, clock: int = 1, client: int = 5_000) -> bytes:
    """A payload with one state of so many bytes."""
    return uints(1, client, clock) + var_string('{"a":"' + "x" * (size - 8) + '"}')


async def test_presence_state_of_the_largest_size_is_taken_and_one_byte_more_is_not(room: Room, line: Line) -> None:
    line.awareness(state(AWARENESS))
    await room.observer.until(lambda: any(message[0] == 1 and b"xxx" in message for message in room.observer.messages))
    before = limit(room.server, "awareness_bytes")
    line.awareness(state(AWARENESS + 1, clock=9))
    await counted(line, TOO_LARGE, room.server)
    assert limit(room.server, "awareness_bytes") == before + 1


async def test_presence_frame_beyond_its_limit_closes(room: Room, line: Line) -> None:
    def gone(size: int) -> bytes:
        """So many bytes of unknown ids that are gone: ignored. An entry takes eight bytes, or nine with a larger id."""
        count, larger = divmod(size - 2, 8)
        ids = [20_000] * larger + [6_000] * (count - larger)
        return uints(count) + b"".join(uints(client, 1) + var_string("null") for client in ids)

    assert len(gone(AWARENESS_FRAME)) == AWARENESS_FRAME
    line.awareness(gone(AWARENESS_FRAME))
    assert await line.reached()
    before = limit(room.server, "awareness_frame_bytes")
    line.awareness(gone(AWARENESS_FRAME + 1))
    await counted(line, TOO_LARGE, room.server)
    assert limit(room.server, "awareness_frame_bytes") == before + 1


async def test_a_connection_has_so_many_ids_of_presence_and_no_more(room: Room, line: Line) -> None:
    before = limit(room.server, "awareness_ids")
    entries = [uints(7_000 + n, 1) + var_string(f'{{"id":{n}}}') for n in range(AWARENESS_IDS + 1)]
    line.awareness(uints(AWARENESS_IDS) + b"".join(entries[:AWARENESS_IDS]))
    assert await line.reached()
    assert limit(room.server, "awareness_ids") == before
    line.awareness(uints(1) + entries[-1])
    assert await line.reached()
    assert limit(room.server, "awareness_ids") == before + 1


async def test_presence_over_its_rate_is_deferred_and_in_a_flood_ends_the_socket(room: Room, line: Line) -> None:
    deferred, floods = limit(room.server, "awareness_rate"), limit(room.server, "awareness_flood")
    for clock in range(1, AWARENESS_RATE + 1):
        line.awareness(state(20, clock))
    assert await line.reached()
    assert limit(room.server, "awareness_rate") == deferred
    for clock in range(AWARENESS_RATE + 1, AWARENESS_RATE * 3):
        line.awareness(state(20, clock))
    assert await line.reached()
    assert limit(room.server, "awareness_rate") > deferred
    for clock in range(AWARENESS_RATE * 3, AWARENESS_RATE * 20):
        line.awareness(state(20, clock))
    await counted(line, RATE, room.server)
    assert limit(room.server, "awareness_flood") == floods + 1


# Readers


async def test_frame_of_a_reader_may_be_so_large_and_no_larger(room: Room) -> None:
    reader = room.server.register("reader")
    room.server.add_member(room.owner, room.course, reader, "viewer")
    path = sync_path(room.course, room.server.connect(reader, room.course))

    def question(size: int) -> bytes:
        """A SyncStep1 message of exactly so many bytes, of which most are too many."""
        return b"\x00\x00" + var_bytes(b"\x00" * (size - 4))

    within = await Line.open(room.server.port, path)
    within.send(question(VIEWER_FRAME))  # it is read, and malformed
    assert await within.closed() == VIOLATION
    beyond = await Line.open(room.server.port, path)
    beyond.send(question(VIEWER_FRAME + 1))
    await counted(beyond, TOO_LARGE, room.server)


async def test_write_of_a_reader_is_refused_and_counted(room: Room) -> None:
    reader = room.server.register("reader")
    room.server.add_member(room.owner, room.course, reader, "viewer")
    line = await Line.open(room.server.port, sync_path(room.course, room.server.connect(reader, room.course)))
    before = metric(room.server, "updates_refused_total", reason="role")
    line.update(one(text("mine")))
    await counted(line, FORBIDDEN, room.server)
    assert metric(room.server, "updates_refused_total", reason="role") == before + 1


async def test_repeated_large_question_waits_and_is_counted(room: Room, line: Line) -> None:
    line.update(one(text("x" * 2 * VIEWER_FRAME)))
    await line.until(lambda: line.receipts() == 1)
    before = limit(room.server, "resync")
    line.ask()
    line.ask()
    assert await line.reached()
    assert limit(room.server, "resync") == before + 1


# Documents and what is in flight


async def test_document_grows_to_its_limit_and_no_byte_further(tmp_path_factory: pytest.TempPathFactory) -> None:
    with small(tmp_path_factory, "document", max_document_bytes=DOCUMENT, viewer_frame_bytes=VIEWER_FRAME) as server:
        async with furnished(server, server.register("owner")) as room:
            size = sum(map(len, room.log()))
            line = await room.enter(ack="seq")
            bare = len(one(text("x" * 200_000))) - 200_000
            line.update(one(text("x" * (DOCUMENT - size - bare))))
            await line.until(lambda: line.receipts() == 1)
            assert sum(map(len, room.log())) == DOCUMENT
            before = limit(server, "max_document_bytes")
            line.update(update(section(901, DOCUMENT - size - bare, text("y", (901, 0)))))
            await counted(line, TOO_LARGE, server)
            assert limit(server, "max_document_bytes") == before + 1
            writer = await room.enter()
            writer.send(update_message(b"\xff" * (DOCUMENT - 5)))  # a frame of exactly the limit is read, and malformed
            assert await writer.closed() == VIOLATION
            writer = await room.enter()
            writer.send(update_message(b"\xff" * (DOCUMENT - 4)))
            assert await writer.closed() == TOO_LARGE


async def test_large_messages_in_flight_have_a_budget(tmp_path_factory: pytest.TempPathFactory) -> None:
    with small(tmp_path_factory, "budget", in_flight_bytes=IN_FLIGHT) as server:
        async with furnished(server, server.register("owner")) as room:
            first, second = await room.enter(ack="seq"), await room.enter(ack="seq")
            before = limit(server, "in_flight_bytes")
            # The workers are only now being started, so the first is still in flight when the second comes.
            first.update(update(section(901, 0, text("x" * (IN_FLIGHT - 100 * KIB)))))
            second.update(update(section(902, 0, text("y" * 200 * KIB))))
            ended, other = (first, second) if await _ends_first(first, second) else (second, first)
            await counted(ended, OVERLOADED, server)
            await other.until(lambda: other.receipts() == 1)
            assert limit(server, "in_flight_bytes") == before + 1
            third = await room.enter(ack="seq")
            third.update(update(section(903, 0, text("z" * (IN_FLIGHT - 100)))))
            await third.until(lambda: third.receipts() == 1)


async def _ends_first(first: Line, second: Line) -> bool:
    done, waiting = await asyncio.wait(
        [asyncio.ensure_future(first.closed()), asyncio.ensure_future(second.closed())],
        return_when=asyncio.FIRST_COMPLETED,
    )
    for task in waiting:
        task.cancel()
    await asyncio.gather(*done, *waiting, return_exceptions=True)
    return first.has_ended


# Connections


async def refused(server: ServerProcess, path: str) -> int:
    """The status with which another connection is refused."""
    with pytest.raises(Refusal) as error:
        await Line.open(server.port, path)
    return error.value.status


async def test_connections_of_a_user_of_an_address_and_in_all_have_limits(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with small(
        tmp_path_factory,
        "connections",
        max_connections_per_user=PER_USER,
        max_connections_per_address=PER_ADDRESS,
        max_connections=TOTAL,
    ) as server:
        people = [server.register("owner"), server.register("second"), server.register("third")]
        course = server.create_course(people[0])
        for member in people[1:]:
            server.add_member(people[0], course, member, "editor")
        paths = [sync_path(course, server.connect(person, course)) for person in people]
        lines = [await Line.open(server.port, paths[0]) for _ in range(PER_USER)]
        assert await refused(server, paths[0]) == 429
        lines += [await Line.open(server.port, paths[1]) for _ in range(PER_ADDRESS - PER_USER)]
        assert await refused(server, paths[2]) == 429
        assert metric(server, "websocket_connections_refused_total", reason="too_many_connections") == 2
        assert metric(server, "websocket_connections_active", family="sync") == PER_ADDRESS
        await lines.pop().leave()
        lines.append(await Line.open(server.port, paths[2]))
        for line in lines:
            await line.leave()


async def test_an_instance_holds_so_many_connections_and_no_more(tmp_path_factory: pytest.TempPathFactory) -> None:
    with small(tmp_path_factory, "full", max_connections=TOTAL) as server:
        owner = server.register("owner")
        course = server.create_course(owner)
        path = sync_path(course, server.connect(owner, course))
        lines = [await Line.open(server.port, path) for _ in range(TOTAL)]
        assert await refused(server, path) == 503
        assert metric(server, "websocket_connections_refused_total", reason="full") == 1
        for line in lines:
            await line.leave()
