"""The core of the server under `disk_recorder.c`: real rooms, log writer and compactor on a real database file.

`python -m tests.faults.power_recorder FOLDER EDITS SEED SYNCHRONOUS`; prints the course's id. Clients write through sockets of
this very process, and every receipt is marked in the trace at the moment in which the room writes it, so the trace tells what
was promised before what. A SYNCHRONOUS other than FULL lowers the database's promise, to show that it is needed.
"""

import asyncio
import ctypes
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest.mock import patch
from uuid import UUID

from pycrdt import Doc, Map, TransactionEvent

from constructure_sync.observability import configure_logging
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.messages import update_message
from constructure_sync.protocol.update_writer import EMPTY_UPDATE
from constructure_sync.replica.jobs import merge_updates
from constructure_sync.rooms.connection import Member
from constructure_sync.services import Services, open_services
from constructure_sync.settings import Settings
from schemas.ids import CommitId, CourseId, DocumentId, UserId
from schemas.roles import PlatformRole
from storage import sqlite
from storage.accounts import User
from storage.courses import NewCourse
from tests.faults.writer import EDITS

CLIENTS: Final = 4
ROUNDS: Final = 10  # after each, everybody leaves: the document is closed, and compacted while the next round goes on
WINDOW: Final = 6
MAX_CHARACTERS: Final = 1_500
WAIT_SECONDS: Final = 60.0
COURSE_MADE: Final = 0
"""The mark of the promise that the course exists. A receipt is marked with `client << 32 | edits`."""
_RECEIPT: Final = 120


class Client:
    """A client and its socket: makes edits `client.1`, `client.2` … and marks what it is promised."""

    def __init__(self, number: int, randomness: random.Random, user: UserId) -> None:
        self._number = number
        self._randomness = randomness
        self._member = Member(user, "writer", can_write=True, wants_receipts=True)
        self._doc: Doc[Map[str]] = Doc()
        self._edits = self._doc.get(EDITS, type=Map[str])
        self._doc.observe(self._observe)
        self._update = b""
        self._before = 0  # edits made before this visit
        self._made = 0
        self._promised = 0
        self._progress = asyncio.Event()

    async def visit(self, services: Services, document_id: DocumentId, edits: int) -> None:
        """Join, make so many edits, wait for the receipt of the last, and leave."""
        room = await services.rooms.open(document_id)
        connection = services.rooms.join(room, self._member, self, lambda: None)
        self._before = self._made
        async with asyncio.timeout(WAIT_SECONDS):
            for _ in range(edits):
                while self._made - self._promised >= WINDOW:
                    await self._progressed()
                connection.receive(update_message(self._make_edit()))
                if self._randomness.random() < 0.5:
                    await asyncio.sleep(0)
            while self._promised < self._made:
                await self._progressed()
        connection.ended()

    async def _progressed(self) -> None:
        self._progress.clear()
        await self._progress.wait()

    def _make_edit(self) -> bytes:
        self._made += 1
        self._edits[f"{self._number}.{self._made}"] = "x" * self._randomness.randint(1, MAX_CHARACTERS)
        return self._update

    def _observe(self, event: TransactionEvent) -> None:
        self._update = event.update

    # The socket that the room writes to

    @property
    def buffered(self) -> int:
        return 0

    def write(self, framed: bytes) -> None:
        """Take the room's frames; a receipt is a promise made now."""
        for payload in _payloads(framed):
            if payload[0] == _RECEIPT:
                self._promised = self._before + Reader(payload, 1).read_var_uint()
                mark(self._number << 32 | self._promised)
                self._progress.set()

    def pause_reading(self) -> None:
        """Nothing is read from a network here."""

    def resume_reading(self) -> None:
        """Nothing is read from a network here."""

    def close(self, code: int, reason: str) -> None:
        raise RuntimeError(f"the room closed the socket: {code} {reason}")

    def ping(self) -> None:
        """Nobody is there to answer."""


def mark(promise: int) -> None:
    """Write a mark into the trace."""
    ctypes.CDLL(None).disk_recorder_mark(ctypes.c_uint64(promise))


def _payloads(framed: bytes) -> Iterator[bytes]:
    """Yield the payloads of unmasked WebSocket frames."""
    position = 0
    while position < len(framed):
        length, start = framed[position + 1], position + 2
        if length >= 126:
            start += 2 if length == 126 else 8
            length = int.from_bytes(framed[position + 2 : start], "big")
        position = start + length
        yield framed[start:position]


async def record(data_dir: Path, edits: int, seed: int) -> None:
    """Make a course and so many edits in it, in rounds."""
    randomness = random.Random(seed)
    settings = Settings(data_dir=data_dir, room_idle_seconds=0.01, segment_bytes=64 * 1024)
    async with open_services(settings) as services:
        # A worker takes a second to start; from then on the document is compacted while clients write.
        await services.workers.run(merge_updates, [EMPTY_UPDATE], timeout=WAIT_SECONDS)
        user, course, document_id = (UUID(int=randomness.getrandbits(128), version=4) for _ in range(3))
        await _make_course(services, UserId(user), CourseId(course), DocumentId(document_id))
        mark(COURSE_MADE)
        print(course, flush=True)
        clients = [Client(n, random.Random(randomness.random()), UserId(user)) for n in range(1, CLIENTS + 1)]
        for _ in range(ROUNDS):
            async with asyncio.TaskGroup() as visits:
                for client in clients:
                    share = edits // CLIENTS // ROUNDS
                    visits.create_task(client.visit(services, DocumentId(document_id), share))
            async with asyncio.timeout(WAIT_SECONDS):
                while services.rooms.room(DocumentId(document_id)) is not None:
                    await asyncio.sleep(0.005)


async def _make_course(services: Services, user: UserId, course: CourseId, document_id: DocumentId) -> None:
    now = time.time()
    await services.database.accounts.create(
        User(user, "writer@example.org", "writer", PlatformRole.TEACHER, now), password_hash="none"
    )
    await services.database.courses.create(
        NewCourse(course, "course", user, document_id, document_id, 1, EMPTY_UPDATE, CommitId(1), now)
    )


def main(folder: str, edits: str, seed: str, synchronous: str) -> None:
    """See the module."""
    configure_logging("WARNING")
    full = sqlite._set_pragmas

    def lowered(connection: sqlite3.Connection, *, read_only: bool) -> None:
        full(connection, read_only=read_only)
        connection.execute(f"PRAGMA synchronous = {synchronous}").close()

    with patch.object(sqlite, "_set_pragmas", full if synchronous == "FULL" else lowered):
        asyncio.run(record(Path(folder), int(edits), int(seed)))


if __name__ == "__main__":
    main(*sys.argv[1:])
