"""What only SQLite can do wrong: pragmas, a full disk, a lock held elsewhere, a schema that drifts."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import insert, text
from sqlalchemy.engine import Connection

from schemas.ids import CommitId
from storage.contracts import Append, NewUpdate, StorageError, StorageUnavailable
from storage.database import DatabaseOptions, Rejected
from storage.migrate import migrate
from storage.open import open_database
from storage.sqlite import SqliteDatabase
from storage.tables import document_updates, documents
from tests.contracts.backends import FIRST_COMMIT, SqlBackend
from tests.contracts.logs import FIRST, appended, place
from tests.contracts.schema import differences


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqlBackend]:
    backend = await SqlBackend.sqlite(tmp_path)
    yield backend
    await backend.close()


def pragma(name: str, connection: Connection) -> object:
    return connection.execute(text(f"PRAGMA {name}")).scalar_one()


async def test_R1_every_connection_syncs_fully(sqlite: SqlBackend) -> None:
    for run in (sqlite.database.write, sqlite.database.read):
        assert await run(lambda connection: pragma("synchronous", connection)) == 2
        assert await run(lambda connection: pragma("journal_mode", connection)) == "wal"
        assert await run(lambda connection: pragma("foreign_keys", connection)) == 1


async def test_readers_cannot_write(sqlite: SqlBackend) -> None:
    with pytest.raises(StorageUnavailable, match="readonly"):
        await sqlite.database.read(lambda connection: connection.execute(text("DELETE FROM users")).close())


async def test_UL2_a_full_disk_appends_nothing_and_the_next_append_works(sqlite: SqlBackend) -> None:
    document_id = await sqlite.document()
    await sqlite.log.append([Append(document_id, FIRST, CommitId(2), [NewUpdate(b"a", None)])])
    pages = await sqlite.database.write(lambda connection: pragma("page_count", connection))
    await sqlite.database.write(lambda connection: pragma(f"max_page_count = {pages}", connection))
    big = Append(document_id, place(2, 2), CommitId(3), [NewUpdate(b"b" * 100_000, None)])
    with pytest.raises(StorageUnavailable, match="full"):
        await sqlite.log.append([big])
    before = await sqlite.log.load(document_id)
    assert before is not None
    assert before.head.seq == 2
    await sqlite.database.write(lambda connection: pragma("max_page_count = 1000000", connection))
    assert list(await sqlite.log.append([big])) == [appended(document_id, 3, 3, 2)]


async def test_UL2_a_lock_held_by_another_process_is_unavailable_then_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sqlite.BUSY_TIMEOUT_MS", 20)
    sqlite = await SqlBackend.sqlite(tmp_path)
    document_id = await sqlite.document()
    append = Append(document_id, FIRST, CommitId(2), [NewUpdate(b"a", None)])
    other = sqlite3.connect(tmp_path / "constructure.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageUnavailable, match="locked"):
            await sqlite.log.append([append])
        with pytest.raises(StorageUnavailable, match=r"migrated.*locked"):
            await migrate(sqlite.url)
        assert await sqlite.log.load(document_id) is not None
        other.execute("ROLLBACK")
        assert list(await sqlite.log.append([append])) == [appended(document_id, 2, 2, FIRST_COMMIT)]
    finally:
        other.close()
        await sqlite.close()


async def test_a_failed_transaction_leaves_nothing_and_no_words_of_content(sqlite: SqlBackend) -> None:
    def broken(connection: Connection) -> None:
        connection.execute(insert(documents).values(id=None, name="secret words"))

    with pytest.raises(Rejected):
        await sqlite.database.write(broken)
    with pytest.raises(StorageUnavailable) as raised:
        await sqlite.database.write(
            lambda connection: connection.execute(text("SELECT 'secret words' FROM nowhere")).close()
        )
    assert "secret words" not in str(raised.value)
    assert await sqlite.log.load(await sqlite.document()) is not None


async def test_R13_a_slow_transaction_gives_its_callers_an_answer_in_time(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'slow.db'}"
    database = SqliteDatabase(url, DatabaseOptions(time_limit=0.05))
    gate = threading.Event()
    started = threading.Event()

    def slow(_: Connection) -> None:
        started.set()
        gate.wait(20)

    first = asyncio.create_task(database.write(slow))
    try:
        assert await asyncio.to_thread(started.wait, 20)
        ran: list[int] = []
        with pytest.raises(StorageUnavailable, match="in time"):
            await database.write(lambda _: ran.append(1))
        with pytest.raises(StorageUnavailable, match="in time"):
            await first
        gate.set()
    finally:
        gate.set()
        await database.close()
    assert ran == []


async def test_R13_the_queue_before_the_writer_is_bounded(tmp_path: Path) -> None:
    database = SqliteDatabase(f"sqlite:///{tmp_path / 'queue.db'}", DatabaseOptions(max_waiting=1))
    gate = threading.Event()
    first = asyncio.create_task(database.write(lambda _: gate.wait(20)))
    await asyncio.sleep(0)
    try:
        with pytest.raises(StorageUnavailable, match="waiting"):
            await database.write(lambda _: None)
    finally:
        gate.set()
        assert await first
        await database.close()


async def test_UL5_a_hole_in_the_stored_log_is_an_error(sqlite: SqlBackend) -> None:
    document_id = await sqlite.document()
    updates = [NewUpdate(b"a", None), NewUpdate(b"b", None)]
    await sqlite.log.append([Append(document_id, FIRST, CommitId(2), updates)])
    hole = document_updates.delete().where(document_updates.c.seq == 2)
    await sqlite.database.write(lambda connection: connection.execute(hole).close())
    with pytest.raises(StorageError, match="lacks updates between 1 and 3"):
        await sqlite.log.load(document_id)


async def test_migrations_make_the_schema_of_the_tables(sqlite: SqlBackend) -> None:
    assert await sqlite.database.read(differences) == []


async def test_migrating_again_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'folder' / 'constructure.db'}"
    await migrate(url)
    database = await open_database(url)
    async with database:
        await database.check()


@pytest.mark.parametrize(
    "url", ["mysql://host/db", "postgresql://", "postgresql://host", "sqlite://", "sqlite:///:memory:", "nonsense"]
)
async def test_a_url_that_cannot_be_used_is_named(url: str) -> None:
    with pytest.raises(StorageError, match="database"):
        await open_database(url)


async def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "constructure.db").write_bytes(b"not a database, by far" * 1000)
    with pytest.raises(StorageUnavailable, match="not a database"):
        await open_database(f"sqlite:///{tmp_path / 'constructure.db'}")


async def test_a_cancelled_caller_leaves_a_whole_transaction(sqlite: SqlBackend) -> None:
    document_id = await sqlite.document()
    append = Append(document_id, FIRST, CommitId(2), [NewUpdate(b"a", None), NewUpdate(b"b", None)])
    for _ in range(20):
        task = asyncio.create_task(sqlite.log.append([append]))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        stored = await sqlite.log.load(document_id)
        assert stored is not None
        assert stored.head.seq in (1, 3)
    assert list(await sqlite.log.append([append])) == [appended(document_id, 2, 3, FIRST_COMMIT)]


async def test_looking_up_repeated_commits_uses_an_index(sqlite: SqlBackend) -> None:
    plan = await sqlite.database.read(
        lambda connection: connection.execute(
            text("EXPLAIN QUERY PLAN SELECT min(seq) FROM document_updates WHERE commit_id IN (1, 2, 3)")
        ).all()
    )
    assert "USING COVERING INDEX ix_document_updates_commit_id" in str(plan)


async def test_R9_a_write_holds_the_lock_from_its_first_word(sqlite: SqlBackend, tmp_path: Path) -> None:
    def try_to_write_beside(_: Connection) -> None:
        other = sqlite3.connect(tmp_path / "constructure.db", timeout=0, isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
        finally:
            other.close()

    with pytest.raises(StorageUnavailable, match="locked"):
        await sqlite.database.write(try_to_write_beside)
