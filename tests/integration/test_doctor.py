"""A damaged log: found, located, taken out, served read-only meanwhile, and made whole again; nothing is thrown away."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import pycrdt
import pytest
import websockets

from constructure_sync.persistence.compactor import CompactionLimits, Compactor, decode_pieces, encode_pieces
from constructure_sync.persistence.doctor.commands import Doctor, NothingDone, open_doctor
from constructure_sync.persistence.doctor.treatment import NotRebuilt
from constructure_sync.persistence.export import stored_updates
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.messages import update_message
from constructure_sync.settings import Settings
from schemas.ids import CommitId, CourseId, DocumentId, Seq, UserId
from schemas.roles import PlatformRole
from storage.accounts import User
from storage.contracts import Append, Appended, Diverged, Head, NewUpdate, StoredSegment
from storage.courses import NewCourse
from storage.log import SqlUpdateLog
from tests.server_process import REPOSITORY, Account, ServerProcess

DEADLINE = 20.0
OWNER = UserId(UUID(int=7))
COURSE = CourseId(UUID(int=8))
NAME = str(COURSE)
DOCUMENT = DocumentId(UUID(int=9))
TIMEOUT = 60.0

NESTED = b"\x01\x01\x05\x00\x08\x01\x01t\x01" + b"\x75\x01" * 100_000 + b"\x7e\x00"
DEPENDENT = b"\x01\x01\x09\x00\x84\x06\x2a\x01x\x00"  # of client 9, behind clock 42 of client 6
EMPTY = b"\x00\x00"

MALFORMED, WAITS = "malformed: ", "a part waits for what is not there: "


def typed(count: int) -> list[bytes]:
    """Return updates that need one another (words in a text), each followed by one that needs none (a key of its client)."""
    text = pycrdt.Text()
    document: pycrdt.Doc[pycrdt.Text] = pycrdt.Doc({"title": text}, client_id=5)
    updates: list[bytes] = []
    subscription = document.observe(lambda event: updates.append(event.update))
    for number in range(count):
        text += f"word {number} "
        keys: pycrdt.Map[object] = pycrdt.Map()
        other: pycrdt.Doc[pycrdt.Map[object]] = pycrdt.Doc({"keys": keys}, client_id=100 + number)
        keys[f"key {number}"] = number
        updates.append(other.get_update())
    document.unobserve(subscription)
    return updates


@dataclass(frozen=True, slots=True)
class Content:
    words: int
    keys: int


def shown(updates: Sequence[bytes]) -> Content:
    """Return what a client that loads these updates sees; nothing may be pending."""
    text, keys = pycrdt.Text(), pycrdt.Map[object]()
    document: pycrdt.Doc[pycrdt.Text | pycrdt.Map[object]] = pycrdt.Doc({"title": text, "keys": keys})
    known = Known()
    for update in updates:
        part = known.close(update)
        assert not part.missing
        known.add(part)
        document.apply_update(update)
    return Content(str(text).count("word"), len(keys))


@dataclass(frozen=True, slots=True)
class Ward:
    """A database with one course whose log is `updates`, and a doctor."""

    doctor: Doctor
    file: Path
    updates: list[bytes]

    @property
    def log(self) -> SqlUpdateLog:
        return self.doctor.database.log

    def sql(self, statement: str, *values: object) -> None:
        with closing(sqlite3.connect(self.file)) as database, database:
            database.execute(statement, values)

    def damage(self, seq: int, payload: bytes) -> None:
        self.sql("UPDATE document_updates SET payload = ? WHERE seq = ?", payload, seq)

    async def head(self) -> Head:
        return (await self.log.heads([DOCUMENT]))[DOCUMENT]

    async def opened(self) -> list[bytes]:
        stored = await self.log.load(DOCUMENT)
        assert stored is not None
        return stored_updates(stored)

    async def rows(self) -> list[bytes]:
        return [row.payload for row in await self.log.history(DOCUMENT, Seq(1), Seq(10_000))]

    async def found(self) -> dict[str, str]:
        return {place: problem async for _, found in self.doctor.verify([NAME]) for place, problem in found}

    async def inspected(self) -> str:
        return "\n".join(await self.doctor.inspect(NAME))

    async def compact(self, **limits: float) -> None:
        allowed = replace(CompactionLimits(updates_at_close=1), **limits)  # type: ignore[arg-type]
        await Compactor(self.log, self.doctor.workers, allowed).compact_if_worth(DOCUMENT)


@asynccontextmanager
async def ward(folder: Path, updates: list[bytes]) -> AsyncIterator[Ward]:
    settings = Settings(data_dir=folder)
    async with open_doctor(settings, TIMEOUT) as doctor:
        await doctor.database.accounts.create(User(OWNER, "ada@example.org", "Ada", PlatformRole.TEACHER, 1.0), "-")
        course = NewCourse(
            COURSE, "Sorting", OWNER, DOCUMENT, UUID(int=10), 1, updates[0], CommitId(1), created_at=time.time()
        )
        await doctor.database.courses.create(course)
        rest = [NewUpdate(update, OWNER) for update in updates[1:]]
        await doctor.database.log.append([Append(DOCUMENT, Head(Seq(1), CommitId(1)), CommitId(2), rest)])
        yield Ward(doctor, folder / "constructure.db", updates)


async def test_a_good_log_has_nothing_to_find_open_or_compacted(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(40)) as it:
        assert await it.found() == {}
        assert await it.doctor.bisect(NAME) is None
        await it.compact()
        assert await it.found() == {}
        assert await it.doctor.bisect(NAME) is None
        inspected = await it.inspected()

    assert "head        update 80, commit 2" in inspected
    assert "covered to 80" in inspected
    assert "80 structs of 41 client ids" in inspected
    assert "pending     0 updates" in inspected
    assert "read-only   no" in inspected
    assert "update 80 by Ada" in inspected


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (typed(3)[2][:-3], MALFORMED),
        (NESTED, MALFORMED),
        (DEPENDENT, WAITS),
    ],
    ids=["truncated", "deeply nested", "without what it depends on"],
)
async def test_a_bad_update_is_found_taken_out_and_the_rest_rebuilt(tmp_path: Path, bad: bytes, problem: str) -> None:
    async with ward(tmp_path, typed(40)) as it:
        it.damage(21, bad)  # the eleventh word
        found = await it.found()
        first = await it.doctor.bisect(NAME)

        assert first is not None
        assert first.place == "update 21"
        assert first.problem.startswith(problem)
        assert found["update 21"] == first.problem
        assert set(found) == {f"update {seq}" for seq in range(21, 80, 2)}

        await it.doctor.quarantine(NAME, 21, "bits have rotted")
        assert (await it.rows())[20] == EMPTY
        assert "read-only   update 21 is in quarantine" in await it.inspected()
        assert "quarantine  update 21, " in await it.inspected()
        assert "bits have rotted" in await it.inspected()

        treated = await it.doctor.rebuild(NAME, 4096, None)
        assert [left.place for left in treated.left_out] == [f"update {seq}" for seq in range(23, 80, 2)]
        assert shown(await it.opened()) == Content(words=10, keys=40)
        assert await it.found() == {}
        assert await it.doctor.bisect(NAME) is None
        assert "read-only   no" in await it.inspected()


async def test_what_was_left_out_comes_back_when_the_missing_update_does(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(40)) as it:
        await it.doctor.quarantine(NAME, 21, "a mistake")
        await it.doctor.rebuild(NAME, 4096, None)
        await it.compact(raw_rows_seconds=0.0)
        it.sql("DELETE FROM document_updates")  # as retention does in time

        for seq in range(21, 80, 2):
            await it.doctor.restore(NAME, seq)
        assert "document" not in await it.found()
        treated = await it.doctor.rebuild(NAME, 4096, None)

        assert treated.left_out == []
        assert shown(await it.opened()) == Content(words=40, keys=40)
        with pytest.raises(NothingDone):
            await it.doctor.restore(NAME, 21)


async def test_an_update_taken_out_by_mistake_is_put_back_as_it_was(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(5)) as it:
        head, rows = await it.head(), await it.rows()
        await it.doctor.quarantine(NAME, 3, "a mistake")
        with pytest.raises(NothingDone):
            await it.doctor.quarantine(NAME, 3, "twice")
        with pytest.raises(NothingDone):
            await it.doctor.quarantine(NAME, 11, "there is none")
        assert await it.rows() != rows

        await it.doctor.restore(NAME, 3)

        assert await it.rows() == rows
        again = await it.head()
        assert again is not None
        assert head is not None
        # Another commit id: rooms that were opened meanwhile see that this is not the log that they have read (R9).
        assert (again.seq, again.commit == head.commit) == (head.seq, False)
        assert "read-only   no" in await it.inspected()
        assert await it.found() == {}


async def test_R7_nothing_is_folded_or_purged_while_a_document_awaits_repair(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(40)) as it:
        await it.compact()
        last = (await it.head()).seq
        more = [NewUpdate(update, OWNER) for update in typed(50)[80:]]
        (appended,) = await it.log.append([Append(DOCUMENT, await it.head(), CommitId(3), more)])
        assert isinstance(appended, Appended)
        assert await it.log.to_sweep(None, 1, 10) == [DOCUMENT]
        rows = await it.rows()
        await it.doctor.quarantine(NAME, last + 1, "why not")

        await it.compact(raw_rows_seconds=0.0)

        assert await it.log.purge_covered(DOCUMENT, 1e12, 100) == 0
        assert await it.log.to_sweep(None, 1, 10) == []
        assert len(await it.rows()) == len(rows)
        await it.doctor.restore(NAME, last + 1)
        assert await it.rows() == rows
        assert shown(await it.opened()) == Content(words=50, keys=50)


async def test_R9_a_rebuild_is_fenced_and_noticed_by_who_knows_the_old_log(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(5)) as it:
        before = await it.head()
        (appended,) = await it.log.append([Append(DOCUMENT, before, CommitId(3), [NewUpdate(EMPTY, OWNER)])])
        assert isinstance(appended, Appended)
        segment = StoredSegment(Seq(1), before.seq, encode_pieces([]), encode_pieces([]))
        assert not await it.doctor.repair.replace_segments(DOCUMENT, before, segment, [])
        assert len(await it.opened()) == 11

        known = await it.head()
        await it.doctor.rebuild(NAME, 4096, None)

        assert (await it.head()).seq == known.seq
        (late,) = await it.log.append([Append(DOCUMENT, known, CommitId(4), [NewUpdate(EMPTY, OWNER)])])
        assert late == Diverged(DOCUMENT)
        assert await it.found() == {}


async def test_a_damaged_segment_is_rebuilt_from_its_rows(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(40)) as it:
        await it.compact()
        it.sql("UPDATE document_segments SET payload = substr(payload, 1, 100)")
        assert list(await it.found()) == ["segment 1-80"]
        # The doctor's own reading of it: rows come first, and they are good.
        assert await it.doctor.bisect(NAME) is None

        treated = await it.doctor.rebuild(NAME, 400, None)

        assert treated.left_out == []
        assert treated.pieces > 1
        assert shown(await it.opened()) == Content(words=40, keys=40)
        assert await it.found() == {}


async def test_what_only_a_damaged_segment_holds_is_kept_before_it_is_replaced(tmp_path: Path) -> None:
    async with ward(tmp_path / "data", typed(40)) as it:
        await it.compact(segment_bytes=300)
        it.sql("DELETE FROM document_updates WHERE seq <= 70")
        (segment,) = (await it.doctor.repair.content(DOCUMENT)).segments  # type: ignore[union-attr]
        pieces = decode_pieces(segment.payload)
        damaged = [*pieces[:2], pieces[2][:-4], *pieces[3:]]
        it.sql("UPDATE document_segments SET payload = ?", encode_pieces(damaged))
        first = await it.doctor.bisect(NAME)
        assert first is not None
        assert first.place == "segment 1-80, piece 3"

        with pytest.raises(NotRebuilt, match="--copies"):
            await it.doctor.rebuild(NAME, 4096, None)
        assert (await it.opened())[2] == damaged[2]
        await it.doctor.rebuild(NAME, 4096, tmp_path / "copies")

        kept = {file.read_bytes() for file in (tmp_path / "copies").iterdir()}
        assert damaged[2] in kept
        assert await it.found() == {}
        assert shown(await it.opened()).keys > 20


async def test_a_segment_that_is_not_what_its_rows_add_up_to_is_found(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(10)) as it:
        await it.compact()
        rows = await it.rows()
        (segment,) = (await it.doctor.repair.content(DOCUMENT)).segments  # type: ignore[union-attr]
        (summary,) = decode_pieces(segment.summary)
        it.sql("UPDATE document_segments SET payload = ?", encode_pieces([rows[0]]))
        assert await it.found() == {
            "segment 1-20, piece 1": "its summary tells of something else",
            "segment 1-20": "it does not hold what its updates hold",
        }
        it.sql("UPDATE document_segments SET payload = ?, summary = ?", segment.payload, encode_pieces([summary[:-1]]))
        assert await it.found() == {"segment 1-20, piece 1": "its summary tells of something else"}


async def test_holes_and_a_wrong_head_are_found_and_mended(tmp_path: Path) -> None:
    async with ward(tmp_path, typed(10)) as it:
        it.sql("DELETE FROM document_updates WHERE seq IN (8, 9, 20)")
        it.sql("UPDATE documents SET covered_seq = 3")
        found = await it.found()
        assert found["update 8-9"] == found["update 20"] == "is not stored"
        assert found["document"] == "covered_seq is 3, segments reach to 0"

        await it.doctor.rebuild(NAME, 4096, None)

        assert await it.found() == {}
        assert shown(await it.opened()) == Content(words=4, keys=8)


# A server that runs meanwhile


def command(server: ServerProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CONSTRUCTURE_")}
    return subprocess.run(
        [sys.executable, "-m", "constructure_sync.cli", "doctor", *arguments],
        cwd=REPOSITORY,
        env=inherited | {"CONSTRUCTURE_DATA_DIR": str(server.data_dir)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@dataclass(slots=True)
class Client:
    """A client that has answered the server's question, and has what the server has. writes: how many it has sent."""

    document: "pycrdt.Doc[pycrdt.Text]"
    socket: websockets.ClientConnection
    writes: int = 0

    @property
    def words(self) -> int:
        return str(self.document["title"]).count("word")

    async def sync(self) -> None:
        await self.socket.send(pycrdt.create_sync_message(self.document))
        while True:
            message = await self.socket.recv()
            assert isinstance(message, bytes)
            if message[0] == 0:
                reply = pycrdt.handle_sync_message(message[1:], self.document)
                if reply is not None:
                    await self.socket.send(reply)
                    self.writes += 1
                if message[1] == 1:
                    return

    async def send(self, update: bytes) -> str:
        """Send an update and tell what the server says to it: "saved" or "refused"."""
        await self.socket.send(update_message(update))
        self.writes += 1
        while True:
            message = await self.socket.recv()
            if isinstance(message, bytes) and message[0] == 0x78 and message[1] >= self.writes:
                return "saved"
            if isinstance(message, bytes) and message[0] == 2:
                return "refused"

    async def edit(self) -> str:
        before = self.document.get_state()
        self.document["title"] += "word "
        return await self.send(self.document.get_update(before))


@asynccontextmanager
async def connected(server: ServerProcess, owner: Account, course: str) -> AsyncIterator[Client]:
    grant = server.connect(owner, course)
    url = f"{grant.url}/{course}?token={grant.token}&ack=seq"
    async with websockets.connect(url) as socket, asyncio.timeout(DEADLINE):
        client = Client(pycrdt.Doc({"title": pycrdt.Text()}), socket)
        await client.sync()
        yield client


async def test_a_course_is_served_read_only_until_it_is_rebuilt(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"room_idle_seconds": "0.3"}) as server:
        owner = server.register("owner")
        course = server.create_course(owner, "Sorting")
        updates = typed(10)
        async with connected(server, owner, course) as client:
            for update in updates:
                assert await client.send(update) == "saved"
        file = server.data_dir / "constructure.db"
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE document_updates SET payload = substr(payload, 1, 9) WHERE seq = 10")
        await refused(server, owner, course)

        verified = command(server, "verify", "--all")
        assert verified.returncode == 1, verified.stderr
        assert f"{course}: update 10: malformed: " in verified.stdout
        assert "1 documents read, 1 of them damaged" in verified.stdout
        async with open_doctor(Settings(data_dir=server.data_dir), TIMEOUT) as doctor:
            first = await doctor.bisect(course)
            assert first is not None
            assert first.place == "update 10"
            await doctor.quarantine(course, 10, "cut off")

        async with connected(server, owner, course) as client:
            assert client.words == 4
            assert await client.edit() == "refused"

        rebuilt = command(server, "rebuild", course)
        assert rebuilt.returncode == 0, rebuilt.stderr
        assert "left out: update 12: a part waits" in rebuilt.stdout
        async with connected(server, owner, course) as client:
            assert await client.edit() == "saved"
            # Somebody who still has the lost update brings everything back.
            for update in updates:
                assert await client.send(update) == "saved"
        async with connected(server, owner, course) as client:
            assert client.words == 11
        async with open_doctor(Settings(data_dir=server.data_dir), TIMEOUT) as doctor:
            assert [found async for _, found in doctor.verify([course])] == [[]]


async def test_R9_a_room_that_was_open_gives_a_rebuilt_log_what_it_lost(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, {"room_idle_seconds": "0.3"}) as server:
        owner = server.register("owner")
        course = server.create_course(owner, "Sorting")
        async with connected(server, owner, course) as client:
            for update in typed(10):
                assert await client.send(update) == "saved"
            async with open_doctor(Settings(data_dir=server.data_dir), TIMEOUT) as doctor:
                await doctor.quarantine(course, 10, "lost")
                treated = await doctor.rebuild(course, 4096, None)
                assert [left.place for left in treated.left_out] == [f"update {seq}" for seq in range(12, 21, 2)]
            # The sender has all that was lost and is not asked for it: the room must bring it back.
            assert await client.send(typed(11)[-1]) == "saved"
        async with open_doctor(Settings(data_dir=server.data_dir), TIMEOUT) as doctor:
            found = [found async for _, found in doctor.verify([course])]
            assert found == [[]]
        server.restart()
        async with connected(server, owner, course) as client:
            assert client.words == 10


async def refused(server: ServerProcess, owner: Account, course: str) -> None:
    """Wait until the course cannot be opened: its room has gone, and loading it fails."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                async with connected(server, owner, course):
                    pass
                await asyncio.sleep(0.5)
            except websockets.InvalidStatus as error:
                if error.response.status_code == 503:
                    return
                raise
