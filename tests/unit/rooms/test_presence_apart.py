"""Presence in two rooms of one document on two instances (R8): told over the bus, owned by one connection, never sent back."""

import asyncio

from constructure_sync.bus.contracts import PresenceChanged, RollCalled
from constructure_sync.protocol.awareness import GONE, AwarenessEntry, decode_awareness, encode_awareness
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.messages import awareness_message
from constructure_sync.rooms.connection import Connection
from tests.unit.rooms.bench import PRESENCE, Bench, FakeSocket
from tests.unit.rooms.test_follower import on_two


def says(connection: Connection, client_id: int, clock: int, state: str) -> None:
    connection.receive(awareness_message(encode_awareness([AwarenessEntry(client_id, clock, state.encode())])))


def told(socket: FakeSocket) -> dict[int, bool]:
    """Return who was told to be there or gone since the last call."""
    payloads = [Reader(message, 1).read_var_bytes() for message in socket.take(PRESENCE)]
    return {entry.client_id: entry.state != GONE for payload in payloads for entry in decode_awareness(payload)}


def test_R8_who_comes_and_goes_on_one_instance_is_seen_on_the_other() -> None:
    async def body(one: Bench, two: Bench) -> None:
        ada, _ = one.join(await one.room())
        _, bob = two.join(await two.room(), 2)
        await asyncio.sleep(0.1)
        told(bob)
        says(ada, 7, 1, '{"user":{"name":"Ada"}}')
        await asyncio.sleep(0.1)
        assert told(bob) == {7: True}
        ada.ended()
        await asyncio.sleep(0.1)
        assert told(bob) == {7: False}

    on_two(body)


def test_R8_a_room_that_opens_asks_who_is_there() -> None:
    async def body(one: Bench, two: Bench) -> None:
        ada, _ = one.join(await one.room())
        says(ada, 7, 1, "{}")
        await asyncio.sleep(0.1)
        _, bob = two.join(await two.room(), 2)
        await asyncio.sleep(0.1)
        assert told(bob) == {7: True}

    on_two(body)


def test_R8_after_a_bus_that_was_away_everyone_says_again_who_is_there() -> None:
    async def body(one: Bench, two: Bench) -> None:
        rooms = [await one.room(), await two.room()]
        ada, _ = one.join(rooms[0])
        _, bob = two.join(rooms[1], 2)
        one.bus.filter = lambda message: False
        says(ada, 7, 1, "{}")
        await asyncio.sleep(0.1)
        assert told(bob) == {}
        one.bus.filter = lambda message: True
        for room in rooms:
            room.missed()
        await asyncio.sleep(0.1)
        assert told(bob) == {7: True}

    on_two(body)


def test_R8_what_came_over_the_bus_is_not_sent_back_and_expires_with_its_instance() -> None:
    async def body(one: Bench, two: Bench) -> None:
        ada, _ = one.join(await one.room())
        connection, bob = two.join(await two.room(), 2)
        says(ada, 7, 1, "{}")
        await asyncio.sleep(0.1)
        # Stock clients send every state that they receive back (interleavings 6).
        for message in bob.take(PRESENCE):
            connection.receive(message)
        await asyncio.sleep(0.1)
        assert not [message for message in two.bus.published if isinstance(message, PresenceChanged)]
        one.bus.filter = lambda message: False  # as if it had been killed
        await asyncio.sleep(60)
        assert told(bob) == {7: False}
        assert len(connection.room.presence) == 0

    on_two(body)


def test_R8_a_client_that_changes_its_instance_is_not_removed_by_the_end_of_its_old_socket() -> None:
    async def body(one: Bench, two: Bench) -> None:
        old, _ = one.join(await one.room(), 1)
        _, neighbour = one.join(await one.room(), 2)
        says(old, 7, 3, "{}")
        await asyncio.sleep(0.1)
        new, _ = two.join(await two.room(), 1)
        says(new, 7, 3, "{}")
        says(new, 7, 4, "{}")  # y-protocols answers its own null so
        await asyncio.sleep(0.1)
        told(neighbour)
        old.ended()
        await asyncio.sleep(0.1)
        assert told(neighbour) == {}
        assert [len((await bench.room()).presence) for bench in (one, two)] == [1, 1]

    on_two(body)


def test_R13_a_client_with_sockets_on_two_instances_does_not_have_the_roll_called_again_and_again() -> None:
    async def body(one: Bench, two: Bench) -> None:
        left, _ = one.join(await one.room(), 5)
        right, _ = two.join(await two.room(), 5)
        _, neighbour = one.join(await one.room(), 2)
        await asyncio.sleep(1)
        for number in range(1, 100):
            for socket in (left, right) if number % 2 else (right, left):
                says(socket, 7, number, "{}")
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.5)
        calls = [message for bench in (one, two) for message in bench.bus.published if isinstance(message, RollCalled)]
        assert len(calls) < 10
        assert len(neighbour.take(PRESENCE)) < 400

    on_two(body)
