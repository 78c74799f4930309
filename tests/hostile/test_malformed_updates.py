"""Malformed messages through real sockets: one socket ends, the room goes on, and the log holds nothing of it."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator

import pytest

from constructure_sync.protocol.closes import VIOLATION
from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.messages import update_message
from tests.hostile.line import Line
from tests.hostile.malformed import CASES, OURS, Case, one
from tests.hostile.memory import resident_bytes
from tests.hostile.room import Room, furnished
from tests.server_process import Account, ServerProcess
from tests.unit.protocol.updates import gc, section, text, uints, update

MOST_GROWTH = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("hostile"), {"close_delay_seconds": "0"}) as running:
        yield running


@pytest.fixture(scope="module")
def owner(server: ServerProcess) -> Account:
    return server.register("owner")


@pytest.fixture(scope="module")
async def room(server: ServerProcess, owner: Account) -> AsyncIterator[Room]:
    """One room for all cases: whatever an attack leaves behind meets the next one."""
    async with furnished(server, owner) as opened:
        before = resident_bytes(server.pid)
        yield opened
        assert resident_bytes(server.pid) - before < MOST_GROWTH
        assert "Traceback" not in server.output
        assert "PanicException" not in server.output


@pytest.fixture
async def offender(room: Room) -> AsyncIterator[Line]:
    line = await room.enter()
    yield line
    await line.leave()


async def outcome(line: Line, case: Case) -> int | None:
    """Send a case and return the code that it was closed with, if it was."""
    for message in case.messages:
        line.send(message)
    if case.code is not None:
        return await line.closed()
    return None if await line.reached() else line.code


async def unharmed(room: Room, before: list[bytes]) -> None:
    """The neighbour types on, and the log has grown by that alone."""
    typed = await room.type_on()
    assert room.log() == [*before, typed]


@pytest.mark.parametrize("name", CASES)
async def test_malformed_message_ends_at_most_its_own_socket(name: str, room: Room, offender: Line) -> None:
    before = room.log()
    assert await outcome(offender, CASES[name]) == CASES[name].code
    await unharmed(room, before)


async def test_every_truncation_of_a_genuine_update_is_refused(room: Room) -> None:
    before = room.log()
    genuine = one(text("a lesson of some length"), text("b", (OURS, 22)))
    for size in range(len(genuine)):
        line = await room.enter()
        assert await outcome(line, Case([update_message(genuine[:size])])) == VIOLATION
        await line.leave()
    await unharmed(room, before)


async def test_random_bytes_end_at_most_their_own_socket(room: Room) -> None:
    choices = random.Random(1)
    before = room.log()
    for _ in range(200):
        line = await room.enter()
        assert await outcome(line, Case([update_message(choices.randbytes(choices.randint(1, 63)))], None)) in (
            None,
            VIOLATION,
        )
        await line.leave()
    await unharmed(room, before)


async def test_what_lies_before_a_malformed_struct_is_not_applied_either(room: Room, offender: Line) -> None:
    before = room.log()
    offender.update(one(text("yz"), text("c", parent=(OURS, 0))))
    assert await offender.closed() == VIOLATION
    newcomer = await room.enter()
    newcomer.ask()
    await newcomer.reached()
    assert b"yz" not in b"".join(newcomer.updates())
    await newcomer.leave()
    await unharmed(room, before)


async def test_gap_is_left_out_and_taken_once_it_is_filled(room: Room, offender: Line) -> None:
    client = OURS + 1
    before = room.log()
    late = update(section(client, 5, text("late", (client, 4))))
    offender.update(late)
    assert await offender.reached()
    assert room.log() == before
    whole = update(section(client, 0, text("abcde"), text("late", (client, 4))))
    offender.answer(whole)
    await room.observer.until(lambda: whole in room.observer.updates())
    await unharmed(room, [*before, whole])


async def test_insert_inside_a_surrogate_pair_is_relayed_as_it_came(room: Room, offender: Line) -> None:
    client = OURS + 2
    emoji = update(section(client, 0, text("a😀b")))
    inside = update(section(client + 1, 0, text("X", (client, 1), (client, 2))))
    before = room.log()
    offender.update(emoji)
    offender.update(inside)
    await room.observer.until(lambda: inside in room.observer.updates())
    await unharmed(room, [*before, emoji, inside])


async def test_many_sets_of_one_key_do_not_hold_up_the_others(room: Room, offender: Line) -> None:
    client = OURS + 3
    sets = [b"\x28\x01" + var_string("m") + var_string("k") + b"\x01\x7e"] * 32_000
    offender.update(update(section(client, 0, *sets)))
    await room.type_on()
    assert await offender.reached()
    await room.type_on()


async def test_R15_structs_under_a_neighbours_id_are_conveyed_and_refuse_nothing(room: Room, offender: Line) -> None:
    client = OURS + 4
    burnt = update(section(client, 0, gc(1000)))
    before = room.log()
    offender.update(burnt)
    await room.observer.until(lambda: burnt in room.observer.updates())
    offender.update(update(section(client, 0, text("victim text"))))
    assert await offender.reached()
    await unharmed(room, [*before, burnt])


async def test_presence_of_another_cannot_be_overwritten_or_ended(room: Room, offender: Line) -> None:
    victim = 4_242
    room.neighbour.awareness(uints(1, victim, 1) + var_string('{"cursor":1}'))
    await room.observer.until(lambda: any(b"cursor" in message for message in room.observer.messages))
    stranger = room.server.register("stranger")
    room.server.add_member(room.owner, room.course, stranger, "editor")
    access = room.server.connect(stranger, room.course)
    line = await Line.open(room.server.port, f"/sync/{room.course}?token={access.token}")
    room.observer.messages.clear()
    line.awareness(uints(1, victim, 2**53 - 1) + var_string("null"))
    line.awareness(uints(1, victim, 2**52) + var_string('{"forged":1}'))
    assert await line.reached()
    await line.leave()
    room.neighbour.awareness(uints(1, victim, 2) + var_string('{"cursor":2}'))
    await room.observer.until(lambda: any(b'"cursor":2' in message for message in room.observer.messages))
    assert not any(b"forged" in message for message in room.observer.messages)


async def test_half_a_frame_of_presence_reaches_nobody(room: Room, offender: Line) -> None:
    room.observer.messages.clear()
    offender.awareness(uints(2, 5_151, 1) + var_string('{"half":1}') + uints(5_152, 1) + var_bytes(b"NaN"))
    assert await offender.closed() == VIOLATION
    await room.type_on()
    assert not any(b"half" in message for message in room.observer.messages)


async def test_repeated_question_does_not_buy_the_document_again_and_again(
    server: ServerProcess, owner: Account
) -> None:
    async with furnished(server, owner) as other:
        large = update(section(OURS, 0, text("x" * 2_000_000)))
        other.neighbour.update(large)
        await other.observer.until(lambda: large in other.observer.updates())
        line = await other.enter()
        for _ in range(50):
            line.ask()
        assert await line.reached()
        await asyncio.wait_for(line.until(lambda: large in line.updates()), 10)
        assert line.updates().count(large) == 1
        await line.leave()
