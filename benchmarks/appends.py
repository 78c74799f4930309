"""What one durable append costs of our own CPU: `python -m benchmarks.appends [COUNT]`.

Each line is a mean over COUNT appends, one after the other, and microseconds of CPU, not of time: of the thread of the event loop,
and of all other threads of this process (the database thread of SQLite). A disk or a server that is waited for costs nothing here.
Beside each store stands its bare driver, doing the least that a log needs.
"""

import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]
import uvloop

from schemas.ids import CommitId, CourseId, DocumentId, UserId
from schemas.roles import PlatformRole
from storage.accounts import User
from storage.contracts import Append, Appended, Head, NewUpdate
from storage.courses import NewCourse
from storage.migrate import migrate
from storage.open import Database, open_database
from tests.postgres import Postgres

_PAYLOAD: Final = b"x" * 40
_WARM_UP: Final = 50


@dataclass(frozen=True, slots=True)
class Shape:
    """An append of `updates` updates to each of `documents` documents."""

    name: str
    documents: int
    updates: int

    @property
    def rows(self) -> int:
        return self.documents * self.updates


SHAPES: Final = (
    Shape("one edit", 1, 1),
    Shape("10 documents, 7 edits each", 10, 7),
    Shape("one document, 100 edits", 1, 100),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of the thread of the event loop, and of all others."""

    loop: float
    others: float


async def _cost(count: int, append: Callable[[], Awaitable[object]]) -> Cost:
    """What one call costs, as a mean."""
    for _ in range(_WARM_UP):
        await append()
    own, all_threads = time.thread_time(), time.process_time()
    for _ in range(count):
        await append()
    own, all_threads = time.thread_time() - own, time.process_time() - all_threads
    return Cost(own / count, (all_threads - own) / count)


def _show(name: str, shape: Shape, cost: Cost) -> None:
    total = 1e6 * (cost.loop + cost.others)
    print(
        f"{name:<12} {shape.name:<28} loop {1e6 * cost.loop:7.0f}  other threads {1e6 * cost.others:7.0f}"
        f"  a row {total / shape.rows:7.1f}",
        flush=True,
    )


async def _store(name: str, url: str, count: int) -> None:
    async with await open_database(url) as database:
        for shape in SHAPES:
            heads = dict.fromkeys(await _new_documents(database, shape.documents), Head(1, 1))  # type: ignore[arg-type]
            new = [NewUpdate(_PAYLOAD, UserId(uuid4()))] * shape.updates

            async def append(heads: dict[DocumentId, Head] = heads, new: Sequence[NewUpdate] = new) -> None:
                batch = [
                    Append(each, after, CommitId(random.getrandbits(62)), new) for each, after in sorted(heads.items())
                ]
                for each, result in zip(batch, await database.log.append(batch), strict=True):
                    assert isinstance(result, Appended)
                    heads[each.document_id] = Head(result.last, each.commit)

            _show(name, shape, await _cost(count, append))


async def _new_documents(database: Database, count: int) -> Sequence[DocumentId]:
    owner = UserId(uuid4())
    await database.accounts.create(User(owner, f"{owner}@example.org", "Owner", PlatformRole.TEACHER, 0.0), "-")
    ids = [DocumentId(uuid4()) for _ in range(count)]
    for each in ids:
        await database.courses.create(
            NewCourse(
                id=CourseId(uuid4()),
                title="Course",
                owner=owner,
                document_id=each,
                lineage=uuid4(),
                schema_version=1,
                first_update=b"first",
                commit=CommitId(1),
                created_at=0.0,
            )
        )
    return ids


async def _bare_sqlite(file: Path, count: int) -> None:
    """The statements of a log that checks nothing, in the thread of the event loop."""
    with closing(sqlite3.connect(file, isolation_level=None)) as database:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            database.execute(f"PRAGMA {pragma}")
        for shape in SHAPES:
            ids = [
                row[0]
                for row in database.execute("SELECT id FROM documents ORDER BY head_seq LIMIT ?", (shape.documents,))
            ]
            seq = 10_000_000

            async def append(ids: Sequence[str] = ids, updates: int = shape.updates) -> None:
                nonlocal seq
                first, seq, commit = seq, seq + updates, random.getrandbits(62)
                rows = [(each, first + nth, _PAYLOAD, each, commit, 1.0) for each in ids for nth in range(updates)]
                database.execute("BEGIN IMMEDIATE")
                database.executemany(
                    "UPDATE documents SET head_seq=?, head_commit=? WHERE id=?", [(seq, commit, each) for each in ids]
                )
                database.executemany("INSERT INTO document_updates VALUES (?,?,?,?,?,?)", rows)
                database.execute("COMMIT")

            _show("bare sqlite3", shape, await _cost(count, append))


async def _bare_postgres(url: str, count: int) -> None:
    """The same with asyncpg."""
    connection = await asyncpg.connect(url)
    try:
        for shape in SHAPES:
            query = "SELECT id FROM documents ORDER BY head_seq LIMIT $1"
            ids = [row[0] for row in await connection.fetch(query, shape.documents)]
            seq = 10_000_000

            async def append(ids: Sequence[object] = ids, updates: int = shape.updates) -> None:
                nonlocal seq
                first, seq, commit = seq, seq + updates, random.getrandbits(62)
                rows = [(each, first + nth, _PAYLOAD, each, commit, 1.0) for each in ids for nth in range(updates)]
                await connection.execute("BEGIN")
                await connection.execute(
                    "UPDATE documents SET head_seq=$1, head_commit=$2 WHERE id=ANY($3)", seq, commit, ids
                )
                await connection.executemany("INSERT INTO document_updates VALUES ($1,$2,$3,$4,$5,$6)", rows)
                await connection.execute("COMMIT")

            _show("bare asyncpg", shape, await _cost(count, append))
    finally:
        await connection.close()


async def _measure(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "constructure.db"
        await _store("SQLite", f"sqlite:///{file}", count)
        await _bare_sqlite(file, count)
    with Postgres() as postgres:
        await migrate(postgres.url)
        await _store("PostgreSQL", postgres.url, count)
        await _bare_postgres(postgres.url, count)


if __name__ == "__main__":
    uvloop.run(_measure(int(sys.argv[1]) if len(sys.argv) > 1 else 500))
