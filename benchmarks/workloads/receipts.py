"""How soon does a writer know that an edit is on disk, beside what the disk needs for one commit?"""

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]

from benchmarks.check import check
from benchmarks.figures import Case, Figures, latency
from benchmarks.knobs import Knobs
from benchmarks.load import Meter, fill_rooms, new_generator, warm_up
from benchmarks.servers import World, embedded, scaled
from tests.postgres import Postgres

_ROW = b"x" * 100


def cases(knobs: Knobs) -> Sequence[Case]:
    """Return the cases of both databases, and those of their bare commits."""
    shape = knobs.receipts
    load = f"{shape.rooms} rooms x {shape.clients} writers, {shape.rate / shape.clients:g} edits/s each"
    return [
        Case("one-row commits, one after the other: SQLite FULL", partial(commits_sqlite, knobs.commits)),
        Case("one-row commits, one after the other: PostgreSQL", partial(commits_postgres, knobs.commits)),
        Case(f"{load}: SQLite FULL", partial(receipts, knobs, embedded)),
        Case(f"{load}: PostgreSQL and Valkey", partial(receipts, knobs, scaled)),
    ]


def receipts(knobs: Knobs, world: World) -> Figures:
    """Measure one spell; of ours, since no peer gives receipts from disk."""
    shape = knobs.receipts
    with world(shape.rooms) as target, new_generator() as generator:
        clients = fill_rooms(generator, target, shape.rooms, shape.clients, wants_receipts=True)
        warm_up(generator, clients, shape.rate * shape.rooms, knobs.warm_up_seconds, target)
        meter, before = Meter(*target.instances), len(generator.sent_at)
        generator.steadily(clients, shape.rate * shape.rooms, knobs.seconds)
        (used,), _, shares = meter.stop()
        edits = len(generator.sent_at) - before
        backends = meter.backends(edits)
        generator.settle()
        check(generator, target.urls())
        return {
            **latency("receipt", [seconds for client in clients for seconds in client.receipts]),
            **latency("delivery", generator.latencies),
            "server CPU us an edit": 1e6 * used / edits,
            **backends,
            **shares,
        }


def commits_sqlite(count: int) -> Figures:
    """Measure commits of one row, without a server of ours."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "commits.db"
        with closing(sqlite3.connect(file, isolation_level=None)) as database:
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=FULL")
            database.execute("CREATE TABLE rows (data BLOB)")
            return latency("commit", [_timed(database) for _ in range(count)])


def _timed(database: sqlite3.Connection) -> float:
    started = time.perf_counter()
    database.execute("INSERT INTO rows VALUES (?)", (_ROW,))
    return time.perf_counter() - started


def commits_postgres(count: int) -> Figures:
    """Measure commits of one row, without a server of ours."""
    with Postgres() as postgres:
        return latency("commit", asyncio.run(_insert(postgres.url, count)))


async def _insert(url: str, count: int) -> list[float]:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE rows (data bytea)")
        taken = []
        for _ in range(count):
            started = time.perf_counter()
            await connection.execute("INSERT INTO rows VALUES ($1)", _ROW)
            taken.append(time.perf_counter() - started)
        return taken
    finally:
        await connection.close()
