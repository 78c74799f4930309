"""Rights that change while somebody is let in, or while everybody is looked at, under a virtual clock."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import cast
from uuid import UUID

from auth.documents import Denied, DocumentAccess, Grant
from constructure_sync.bus.contracts import RightsChanged
from constructure_sync.gate import Gate
from constructure_sync.persistence.log_writer import CommitLimits
from constructure_sync.rooms.connection import Connection
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.transport.admission import Admitted, UpgradeRequest
from schemas.ids import CourseId, SessionId, UserId
from schemas.roles import Role
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.unit.rooms.bench import DOCUMENT, Bench, FakeSocket

ELSEWHERE = 9
COURSE, OTHER = CourseId(UUID(int=5)), CourseId(UUID(int=6))


class Access:
    """What the database says of a grant, after `delay` seconds."""

    def __init__(self) -> None:
        self.role = Role.EDITOR
        self.delay = 0.0
        self.course = COURSE

    async def authorise_document(self, token: str, name: str) -> Grant | Denied:
        return Grant(
            user_id=UserId(UUID(int=1)),
            user_name="Ada",
            role=self.role,
            document_id=DOCUMENT,
            document_name=name,
            lineage=UUID(int=2),
            schema_version=1,
            course_id=self.course,
            session_id=SessionId(UUID(int=3)),
            expires_at=0.0,
            is_read_only=False,
        )

    async def recheck(self, grant: Grant) -> Grant | Denied:
        found = replace(grant, role=self.role)
        await asyncio.sleep(self.delay)
        return found


class Door:
    """A gate before real rooms."""

    def __init__(self, bench: Bench) -> None:
        self.access = Access()
        self.bench = bench
        self.gate = Gate(cast(DocumentAccess, self.access), bench.rooms, bench.bus, 10**6)
        self.running = bench.loop.create_task(self.gate.run())

    async def admit(self) -> Connection:
        request = UpgradeRequest(f"/sync/{COURSE}", {}, None, (), "", "token")
        admitted = await self.gate.admit(request)
        assert isinstance(admitted, Admitted)
        return cast(Connection, admitted.open(FakeSocket()))


def at_door(body: Callable[[Door], Awaitable[None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        await body(Door(Bench(loop, RoomLimits(), CommitLimits())))

    run_virtually(main)


def test_a_right_that_is_taken_while_the_room_is_opened_is_taken_from_who_comes_in() -> None:
    async def body(door: Door) -> None:
        door.bench.weather.delay = 2.0
        coming = asyncio.ensure_future(door.admit())
        await asyncio.sleep(0.01)
        door.access.role = Role.VIEWER
        door.gate.told(ELSEWHERE, RightsChanged(COURSE))
        connection = await coming
        await asyncio.sleep(1)
        assert not connection.member.can_write

    at_door(body)


def test_a_change_that_is_told_does_not_wait_for_the_look_at_everybody() -> None:
    async def body(door: Door) -> None:
        door.access.course = OTHER
        for _ in range(300):
            await door.admit()
        door.access.course = COURSE
        connection = await door.admit()
        await asyncio.sleep(29.9)
        door.access.delay = 0.5
        await asyncio.sleep(1)  # the look at everybody has begun
        door.access.role = Role.VIEWER
        door.gate.told(ELSEWHERE, RightsChanged(COURSE))
        await asyncio.sleep(1)
        assert not connection.member.can_write

    at_door(body)


def test_the_newest_look_at_a_right_counts_whichever_ends_last() -> None:
    async def body(door: Door) -> None:
        connection = await door.admit()
        door.access.delay = 5.0
        door.gate.told(ELSEWHERE, RightsChanged(COURSE))
        await asyncio.sleep(0.1)
        door.access.role, door.access.delay = Role.VIEWER, 0.0
        await door.gate.rights_changed(COURSE)
        assert not connection.member.can_write
        await asyncio.sleep(10)
        assert not connection.member.can_write

    at_door(body)


def test_after_messages_were_missed_everybody_is_looked_at() -> None:
    async def body(door: Door) -> None:
        connection = await door.admit()
        door.access.role = Role.VIEWER
        door.gate.missed_control()
        await asyncio.sleep(1)
        assert not connection.member.can_write

    at_door(body)
