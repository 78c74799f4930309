"""How PostgreSQL is set up: what stops a start, what a role or a database may have set otherwise, what may stand in a URL."""

import pytest
from sqlalchemy import text
from sqlalchemy.engine import Connection

from storage.contracts import StorageError, StorageUnavailable
from storage.database import DatabaseOptions
from storage.open import open_database
from storage.postgres import PostgresDatabase
from tests.postgres import Postgres


def setting(name: str, connection: Connection) -> object:
    return connection.scalar(text(f"SELECT current_setting('{name}')"))


@pytest.mark.parametrize(
    ("default", "in_effect"), [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")]
)
async def test_R1_a_commit_is_on_disk_whatever_the_role_has_set(
    postgres: Postgres, postgres_url: str, default: str, in_effect: str
) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.sql(f'ALTER DATABASE "{name}" SET synchronous_commit = {default}')
    database = PostgresDatabase(postgres_url)
    try:
        assert await database.read(lambda connection: setting("synchronous_commit", connection)) == default
        assert await database.write(lambda connection: setting("synchronous_commit", connection)) == in_effect
    finally:
        await database.close()


@pytest.mark.usefixtures("postgres")  # which is skipped where there is none
async def test_R1_a_server_that_loses_commits_stops_the_start_unless_it_is_accepted() -> None:
    with Postgres({"fsync": "off", "full_page_writes": "off"}) as careless:
        with pytest.raises(StorageError, match=r"fsync=off, full_page_writes=off.*ACCEPTS_UNSAFE_DURABILITY"):
            await open_database(careless.url)
        with pytest.raises(StorageError, match="constructure-sync migrate"):
            await open_database(careless.url, DatabaseOptions(accepts_unsafe_durability=True))


async def test_a_server_too_old_stops_the_start(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.postgres.OLDEST_VERSION", 99)
    with pytest.raises(StorageError, match=r"is PostgreSQL 1.*; 99 or newer is needed"):
        await open_database(postgres_url)


async def test_isolation_is_ours_whatever_the_role_has_set(postgres: Postgres, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    postgres.sql(f'ALTER DATABASE "{name}" SET default_transaction_isolation = serializable')
    database = PostgresDatabase(postgres_url)
    try:
        writes = await database.write(lambda connection: setting("transaction_isolation", connection))
        reads = await database.read(lambda connection: setting("transaction_isolation", connection))
        assert (writes, reads) == ("read committed", "repeatable read")
    finally:
        await database.close()


@pytest.mark.parametrize(
    "query", ["sslmode=disable", "sslmode=prefer&channel_binding=prefer&connect_timeout=10", "application_name=x"]
)
async def test_what_libpq_knows_may_stand_in_a_url(postgres_url: str, query: str) -> None:
    async with await open_database(f"{postgres_url.replace('postgresql:', 'postgres:')}?{query}") as database:
        await database.check()


async def test_tls_that_is_asked_for_is_not_done_without(postgres_url: str) -> None:
    with pytest.raises(StorageUnavailable, match="SSL"):
        await open_database(f"{postgres_url}?sslmode=require")
