"""A course that grows by very many small edits: what is stored and held of it, beside a stock Yjs document after the same edits.

Three stock clients type, change properties and move nodes; each edit is read, kept and folded as in a room and saved in a real
SQLite log, which is compacted while it goes. Then: the size of what is left, what opening it takes in a fresh process, what the
room that was open all the time holds, and what the database file takes with and without raw rows. The collected log must show
the clients' content and be at most 1.2 times as large as the clients' own state.
"""

import argparse
import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from uuid import uuid4

from constructure_sync.persistence.compactor import CompactionLimits, Compactor, Outcome
from constructure_sync.persistence.export import stored_updates
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
from constructure_sync.replica.jobs import compact, fold
from constructure_sync.replica.pool import WorkerPool
from constructure_sync.rooms.history import History, Piece
from schemas.ids import CommitId, CourseId, DocumentId, Seq, UserId
from schemas.roles import PlatformRole
from storage.accounts import User
from storage.contracts import Append, Appended, Head, NewUpdate, StoredDocument
from storage.courses import NewCourse
from storage.open import Database, open_database
from tests.faults.growth_open import resident
from tests.faults.node_process import FOLDER, NodeProcess

EDIT, STATE, COMPARE = range(3)
BATCH: Final = 1000
TIMEOUT: Final = 600.0
MOST_OF_STOCK: Final = 1.2
MB: Final = 1_000_000
FOLD_ENTRIES: Final = 5_000
SEGMENT_BYTES: Final = 256 * 1024


class OpenCourse:
    """One course that is open all the time: its room's history, its log, and now and then a compaction."""

    def __init__(self, database: Database, workers: WorkerPool) -> None:
        self.course_id, self.document_id = CourseId(uuid4()), DocumentId(uuid4())
        self.history = History()
        self.compactions = 0
        self.compacting = 0.0
        self._database = database
        self._workers = workers
        self._compactor = Compactor(database.log, workers, CompactionLimits())
        self._head = Head(Seq(0), CommitId(0))
        self._since_compaction = 0
        self._commits = random.Random(1)

    async def take(self, updates: Sequence[bytes]) -> None:
        """Take some edits, save them in one commit, and do what is due then."""
        history = self.history
        for update in updates:
            part = history.known.close(update)
            assert not part.missing
            assert not part.is_empty
            history.append(part, 1, None, 0.0)
        await self._save(updates)
        history.mark_saved(history.head)
        entries = history.foldable(SEGMENT_BYTES, FOLD_ENTRIES)
        if entries:
            await self._fold(entries)
        self._since_compaction += len(updates)
        if self._since_compaction >= self._compactor.limits.updates_while_open:
            self._since_compaction = 0
            await self.compact()

    async def _save(self, updates: Sequence[bytes]) -> None:
        if self._head.seq == 0:
            await self._create(updates[0])
            updates = updates[1:]
        commit = CommitId(self._commits.getrandbits(62) | 2)
        news = [NewUpdate(update, None) for update in updates]
        (result,) = await self._database.log.append([Append(self.document_id, self._head, commit, news)])
        assert isinstance(result, Appended), result
        self._head = Head(result.last, commit)

    async def _create(self, first_update: bytes) -> None:
        owner = UserId(uuid4())
        await self._database.accounts.create(User(owner, "a@example.org", "A", PlatformRole.TEACHER, 0.0), "-")
        made = NewCourse(
            self.course_id, "Course", owner, self.document_id, uuid4(), 1, first_update, CommitId(1), created_at=0.0
        )
        await self._database.courses.create(made)
        self._head = Head(Seq(1), CommitId(1))

    async def _fold(self, entries: int) -> None:
        """As `Room._fold` does."""
        history = self.history
        segments = history.segments
        is_last_small = bool(segments) and len(segments[-1].framed) < SEGMENT_BYTES // 2
        first = len(segments) - 1 if is_last_small else len(segments)
        pieces: list[Piece] = [*segments[first:], *history.tail[:entries]]
        merged = await self._workers.run(fold, [piece.update for piece in pieces], SEGMENT_BYTES, timeout=TIMEOUT)
        history.fold(first, entries, merged)

    async def compact(self) -> None:
        """Compact the log; the open room goes on as it is."""
        started = time.monotonic()
        assert await self._compactor.compact_if_worth(self.document_id) is Outcome.DONE
        self.compacting += time.monotonic() - started
        self.compactions += 1

    async def stored(self) -> StoredDocument:
        """Return what the log holds."""
        stored = await self._database.log.load(self.document_id)
        assert stored is not None
        return stored


def _ask(node: NodeProcess, command: int, *parts: bytes) -> Reader:
    return Reader(node.ask(b"".join((write_var_uint(command), *parts))))


async def _grow(course: OpenCourse, node: NodeProcess, edits: int) -> int:
    """Have so many edits made and taken; return the bytes of their updates."""
    taken = size = 0
    started = time.monotonic()
    while taken < edits:
        reader = _ask(node, EDIT, write_var_uint(min(BATCH, edits - taken)))
        updates = [reader.read_var_bytes() for _ in range(reader.read_var_uint())]
        await course.take(updates)
        before, taken = taken, taken + len(updates)
        size += sum(map(len, updates))
        if before // 100_000 < taken // 100_000:
            print(f"{taken} edits, {time.monotonic() - started:.0f} s", flush=True)
    await course.compact()
    return size


def _stored_bytes(database: Path, course: OpenCourse) -> tuple[int, int]:
    """Return the size of the database with all raw rows, and of a copy without those that segments cover; vacuumed."""
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for purges in (False, True):
            copy = Path(folder) / "copy.db"
            with sqlite3.connect(database) as source, sqlite3.connect(copy) as target:
                source.backup(target)
            source.close()
            if purges:
                target.execute(
                    "DELETE FROM document_updates WHERE seq <= (SELECT max(last_seq) FROM document_segments)"
                )
                target.commit()
            target.execute("VACUUM")
            target.close()
            sizes.append(copy.stat().st_size)
            copy.unlink()
    return sizes[0], sizes[1]


def _opened_anew(folder: Path, course: OpenCourse, state: bytes) -> tuple[dict[str, float], dict[str, float]]:
    """Return what opening takes in a fresh server process, and in a fresh stock Yjs."""
    ours = [sys.executable, "-m", "tests.faults.growth_open", str(folder), str(course.course_id)]
    (folder / "state").write_bytes(state)
    node = shutil.which("node")
    assert node is not None
    theirs = [node, str(FOLDER / "growth_open.mjs"), str(folder / "state")]
    outputs = [subprocess.run(each, check=True, capture_output=True, timeout=TIMEOUT).stdout for each in (ours, theirs)]
    return json.loads(outputs[0]), json.loads(outputs[1])


async def _measure(edits: int) -> bool:
    with tempfile.TemporaryDirectory() as name, NodeProcess("growth.mjs") as node:
        folder, started = Path(name), time.monotonic()
        file = folder / "constructure.db"
        async with await open_database(f"sqlite:///{file}") as database, WorkerPool(1) as workers:
            course = OpenCourse(database, workers)
            memory = resident()
            raw = await _grow(course, node, edits)
            memory = resident() - memory
            stored = await course.stored()
            pieces = stored_updates(stored)
            summaries = sum(len(segment.summary) for segment in stored.segments)
            whole = [piece for piece, _ in compact(pieces, SEGMENT_BYTES)]
            reader = _ask(node, STATE)
            state = reader.read_var_bytes()
            for form in (pieces, whole):
                listed = (write_var_uint(len(form)), *map(var_bytes, form))
                difference = _ask(node, COMPARE, *listed).read_var_string()
                if difference:
                    print(f"the log differs from the clients: {difference}")
                    return False
        kept, purged = _stored_bytes(file, course)
        ours, theirs = _opened_anew(folder, course, state)
    size, least = sum(map(len, pieces)), sum(map(len, whole))
    history = course.history
    print(f"{edits} edits, {raw / MB:.1f} MB of updates, {time.monotonic() - started:.0f} s in all")
    print(f"{course.compactions} compactions took {course.compacting:.0f} s; segments: {len(stored.segments)}")
    print(f"stock Yjs with gc: {len(state) / MB:.2f} MB")
    print(
        f"collected log: {size / MB:.2f} MB ({size / len(state):.3f} of stock), and {summaries / MB:.2f} MB of summaries"
    )
    print(f"collected as a whole: {least / MB:.2f} MB ({least / len(state):.3f} of stock)")
    print(f"database: {kept / MB:.1f} MB with all raw rows, {purged / MB:.1f} MB with those purged")
    print(f"opening: {ours['seconds']:.2f} s, {ours['memory'] / MB:.0f} MB, {ours['pieces']:.0f} pieces")
    print(f"opening in stock Yjs: {theirs['seconds']:.2f} s, {theirs['memory'] / MB:.0f} MB")
    print(
        f"the room that was open: {history.size / MB:.1f} MB of history in {len(history.segments)} segments and "
        f"{len(history.tail)} entries; its process grew by {memory / MB:.0f} MB"
    )
    return size <= MOST_OF_STOCK * len(state)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many edits."""
    parser.add_argument("--edits", type=int, default=1_000_000, help="small edits to one course")


def run(arguments: argparse.Namespace) -> int:
    """Let a course grow and print what it takes."""
    return 0 if asyncio.run(_measure(arguments.edits)) else 1
