"""Every test that takes `backend` runs over each of `BACKENDS`; one that takes `postgres_url` has a database of its own."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.migrate import migrate
from tests.contracts.backends import Backend, MemoryBackend, SqlBackend
from tests.postgres import MISSING, Postgres

BACKENDS = ("memory", "sqlite", "postgres")
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server for all tests of this process."""
    if MISSING is not None:
        pytest.skip(MISSING)
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def migrated(postgres: Postgres) -> str:
    """The name of a database with our schema, to be copied."""
    url = postgres.create_database("migrated")
    with ThreadPoolExecutor(1) as thread:  # a loop may be running here
        thread.submit(lambda: asyncio.run(migrate(url))).result()
    return "migrated"


@pytest.fixture
def empty_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a database without any table, for one test."""
    yield from _database(postgres, "template1")


@pytest.fixture
def postgres_url(postgres: Postgres, migrated: str) -> Iterator[str]:
    """The URL of a database with our schema and nothing in it, for one test."""
    yield from _database(postgres, migrated)


def _database(postgres: Postgres, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name, template)
    postgres.drop_database(name)


@pytest.fixture(params=BACKENDS)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    made: Backend
    if request.param == "memory":
        made = MemoryBackend()
    elif request.param == "sqlite":
        made = await SqlBackend.sqlite(tmp_path)
    else:
        made = await SqlBackend.postgres(request.getfixturevalue("postgres_url"))
    yield made
    await made.close()
