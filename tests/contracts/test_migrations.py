"""Migrations over both databases: what they fill in, two at once, a start on an older and on a newer schema."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, insert, select, text
from sqlalchemy.engine import Connection

from storage import migrate as migrations
from storage.contracts import StorageError, StorageUnavailable
from storage.database import DEFAULT_OPTIONS
from storage.migrate import alembic_config, migrate
from storage.open import open_database
from storage.postgres import create_engine as create_server_engine
from storage.tables import courses, document_segments, document_updates, documents
from tests.contracts.schema import differences
from tests.postgres import Postgres


async def run(url: str, work: Callable[[Connection], object]) -> None:
    """Run a function in a transaction on either database."""
    if url.startswith("sqlite"):
        engine: Engine = create_engine(url)
        with engine.begin() as connection:
            work(connection)
        engine.dispose()
        return
    server = create_server_engine(url, DEFAULT_OPTIONS, connections=1)
    async with server.begin() as connection:
        await connection.run_sync(work)
    await server.dispose()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'constructure.db'}"
    found: str = request.getfixturevalue("empty_url")
    return found


def at_first(connection: Connection) -> None:
    command.upgrade(alembic_config(connection), "0001")


def add_document(number: int, rows: range, segments: list[tuple[int, int]], connection: Connection) -> None:
    """A document as version 0001 stored it."""
    document_id, course_id = UUID(int=number), uuid4()
    connection.execute(insert(courses).values(id=course_id, title="", visibility="private", created_at=0.0))
    connection.execute(
        insert(documents).values(
            id=document_id,
            course_id=course_id,
            name=str(course_id),
            lineage=uuid4(),
            schema_version=1,
            head_seq=10,
            head_commit=1,
            derived_seq=0,
            created_at=0.0,
        )
    )
    for seq in rows:
        connection.execute(
            insert(document_updates).values(document_id=document_id, seq=seq, payload=b"", commit_id=1, saved_at=0.0)
        )
    for first, last in segments:
        connection.execute(
            insert(document_segments).values(
                document_id=document_id, first_seq=first, last_seq=last, payload=b"", summary=b"", saved_at=0.0
            )
        )


async def test_places_are_filled_from_what_is_stored(url: str) -> None:
    def prepare(connection: Connection) -> None:
        at_first(connection)
        add_document(1, range(1, 11), [], connection)
        add_document(2, range(1, 11), [(1, 4), (5, 8)], connection)
        add_document(3, range(5, 11), [(1, 4), (5, 8)], connection)
        add_document(4, range(9, 11), [(1, 8)], connection)
        add_document(5, range(11, 11), [(1, 10)], connection)

    found: list[tuple[int, ...]] = []

    def look(connection: Connection) -> None:
        query = select(documents.c.covered_seq, documents.c.purged_seq).order_by(documents.c.id)
        found.extend((row[0], row[1]) for row in connection.execute(query))
        assert differences(connection) == []

    await run(url, prepare)
    await migrate(url)
    await run(url, look)
    assert found == [(0, 0), (8, 0), (8, 4), (8, 8), (10, 10)]


async def test_two_migrations_at_once_make_one_schema(url: str) -> None:
    await asyncio.gather(*(migrate(url) for _ in range(3)))
    async with await open_database(url) as database:
        await database.check()


async def test_a_step_back_and_forth(url: str) -> None:
    await migrate(url)
    await run(url, lambda connection: command.downgrade(alembic_config(connection), "0001"))
    await migrate(url)
    await run(url, lambda connection: differences(connection) == [] or pytest.fail("differs"))


async def test_a_schema_of_a_newer_version_is_left_alone_and_served(url: str) -> None:
    await migrate(url)
    await run(url, lambda connection: connection.execute(text("UPDATE alembic_version SET version_num = '9999'")))
    await migrate(url)
    async with await open_database(url) as database:
        await database.check()


@pytest.mark.parametrize("prepare", [lambda _: None, at_first])
async def test_a_server_that_was_not_migrated_stops_the_start(
    empty_url: str, prepare: Callable[[Connection], object]
) -> None:
    await run(empty_url, prepare)
    with pytest.raises(StorageError, match="run `constructure-sync migrate`"):
        await open_database(empty_url)


async def test_a_migration_does_not_queue_behind_a_table_that_is_in_use(
    postgres: Postgres, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_MS", 100)
    await run(empty_url, at_first)
    server = create_server_engine(empty_url, DEFAULT_OPTIONS, connections=1)
    async with server.begin() as connection:
        await connection.execute(select(documents.c.id))
        started = time.monotonic()
        with pytest.raises(StorageUnavailable, match=r"cannot be migrated now.*lock timeout"):
            await migrate(empty_url)
        assert time.monotonic() - started < 20
    await server.dispose()
    await migrate(empty_url)
