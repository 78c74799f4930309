"""A room of the real server with somebody who edits in it, and what its log holds: what attacks must leave unharmed."""

import http.client
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from urllib.parse import urlencode
from uuid import UUID

from tests.hostile.line import Line
from tests.server_process import HOST, Account, Connect, ServerProcess
from tests.unit.protocol.updates import section, text, update

NEIGHBOUR = 77


def sync_path(course: str, connect: Connect, **query: str) -> str:
    """The path and query under which a course is opened."""
    return f"/sync/{course}?{urlencode({'token': connect.token, **query})}"


def logged(server: ServerProcess, course: str) -> list[bytes]:
    """Return the updates in a course's log, in order, read from the database itself."""
    with closing(sqlite3.connect(f"file:{server.data_dir / 'constructure.db'}?mode=ro", uri=True)) as database:
        return [
            bytes(payload)
            for (payload,) in database.execute(
                "select u.payload from document_updates u join documents d on d.id = u.document_id "
                "where d.course_id = ? order by u.seq",
                (UUID(course).hex,),
            )
        ]


def metric(server: ServerProcess, name: str, **labels: str) -> float:
    """Return one sample of /metrics; 0 when it is not there yet."""
    connection = http.client.HTTPConnection(HOST, server.port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    inner = ",".join(f'{key}="{value}"' for key, value in labels.items())
    wanted = f"{name}{{{inner}}} " if inner else f"{name} "
    return sum(float(line.removeprefix(wanted)) for line in page.splitlines() if line.startswith(wanted))


@dataclass(slots=True)
class Room:
    """A course with a neighbour who types and an observer who reads."""

    server: ServerProcess
    owner: Account
    course: str
    connect: Connect
    neighbour: Line
    observer: Line
    typed: int = 0
    seen: set[bytes] = field(default_factory=set)

    async def enter(self, **query: str) -> Line:
        """Open another line to the room, with the right to write."""
        return await Line.open(self.server.port, sync_path(self.course, self.connect, **query))

    async def type_on(self) -> bytes:
        """The neighbour types a letter: it is saved, and the observer sees it. Returns the update."""
        typed = update(section(NEIGHBOUR, self.typed, text("n", (NEIGHBOUR, self.typed - 1) if self.typed else None)))
        saved = self.neighbour.receipts()
        self.neighbour.update(typed)
        self.typed += 1
        await self.neighbour.until(lambda: self.neighbour.receipts() > saved)
        await self.observer.until(lambda: typed in self.observer.updates())
        self.observer.messages.clear()
        return typed

    def log(self) -> list[bytes]:
        return logged(self.server, self.course)


@asynccontextmanager
async def furnished(server: ServerProcess, owner: Account) -> AsyncIterator[Room]:
    """A new course with its two people."""
    course = server.create_course(owner)
    connect = server.connect(owner, course)
    neighbour = await Line.open(server.port, sync_path(course, connect, ack="seq"))
    observer = await Line.open(server.port, sync_path(course, connect))
    observer.ask()
    room = Room(server, owner, course, connect, neighbour, observer)
    await room.type_on()
    try:
        yield room
    finally:
        await neighbour.leave()
        await observer.leave()
