"""PostgreSQL behind a pooler in transaction mode: only prepared statements need a session, and those can be left out."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import func, select, text

from storage.contracts import BEGINNING, StorageUnavailable
from storage.database import DEFAULT_OPTIONS, DatabaseOptions
from storage.leases import Leases
from storage.migrate import migrate
from storage.open import open_database
from storage.partitions import ensure_partitions
from storage.postgres import PostgresDatabase
from tests.contracts.backends import FIRST_COMMIT, SqlBackend
from tests.contracts.logs import FIRST, an_append, appended, covered_seqs, loaded, place, segment
from tests.pooler import Loss, TransactionPooler
from tests.postgres import Postgres

POOLED = DatabaseOptions(is_pooled=True, connections=4)


@pytest.fixture
async def pooler(postgres: Postgres) -> AsyncIterator[TransactionPooler]:
    async with TransactionPooler(postgres.port) as running:
        yield running


def through(pooler: TransactionPooler, postgres: Postgres, url: str) -> str:
    """The URL of the same database behind the pooler."""
    return url.replace(f":{postgres.port}/", f":{pooler.port}/")


async def test_everything_works_behind_a_pooler(pooler: TransactionPooler, postgres: Postgres, empty_url: str) -> None:
    url = through(pooler, postgres, empty_url)
    await migrate(url, POOLED)
    async with await open_database(url, POOLED) as database:
        await database.check()
    backend = await SqlBackend.postgres(url, POOLED)
    try:
        documents = [await backend.document() for _ in range(4)]

        async def write(writer: int) -> None:
            for number in range(10):
                commit = 100 * (writer + 1) + number
                await backend.log.append([an_append(each, FIRST, commit, b"x") for each in documents])
                await backend.log.heads(documents)

        await asyncio.gather(*map(write, range(3)))
        for each in documents:
            head = (await loaded(backend, each)).head
            assert await backend.log.add_segments(each, [segment(1, 20)], [], head)
            assert await backend.log.purge_covered(each, 9_000.0, 100) == 20
            assert covered_seqs(await loaded(backend, each)) == list(range(1, 32))
        assert await Leases(backend.database).acquire("job", "one", 0.0, 60.0)
        assert len(await ensure_partitions(backend.database, 0.0)) == 4
        left = select(func.count()).select_from(text("pg_prepared_statements"))
        assert {await backend.database.read(lambda connection: connection.scalar(left)) for _ in range(6)} == {0}
    finally:
        await backend.close()
    assert pooler.transactions > 60


async def test_prepared_statements_are_what_a_pooler_breaks(
    pooler: TransactionPooler, postgres: Postgres, postgres_url: str
) -> None:
    database = PostgresDatabase(through(pooler, postgres, postgres_url), DEFAULT_OPTIONS)

    async def work() -> None:
        for _ in range(20):
            await Leases(database).acquire("job", "one", 0.0, 60.0)

    try:
        with pytest.raises(StorageUnavailable, match="prepared statement"):
            await work()
    finally:
        await database.close()


@pytest.mark.parametrize(("is_pooled", "at_head", "behind"), [(False, 3, 5), (True, 4, 8)])
async def test_an_append_takes_few_round_trips(
    postgres: Postgres, postgres_url: str, is_pooled: bool, at_head: int, behind: int
) -> None:
    async with TransactionPooler(postgres.port, size=1) as pooler:
        options = DatabaseOptions(is_pooled=is_pooled, connections=2)
        backend = await SqlBackend.postgres(through(pooler, postgres, postgres_url), options)
        try:
            documents = [await backend.document() for _ in range(3)]
            counts: list[int] = []
            for commit in range(2, 8):
                # Every other one names the head; the others only know what everybody knows.
                after = place(commit - 1, commit - 1 if commit > 2 else FIRST_COMMIT) if commit % 2 else BEGINNING
                before = pooler.round_trips
                await backend.log.append([an_append(each, after, commit, b"x") for each in documents])
                counts.append(pooler.round_trips - before)
            # The first two also prepare their statements.
            assert counts[2:] == [behind, at_head, behind, at_head]
        finally:
            await backend.close()


@pytest.mark.parametrize("loss", Loss)
async def test_UL2_a_commit_whose_result_is_unknown_is_repeated_safely(
    pooler: TransactionPooler, postgres: Postgres, postgres_url: str, loss: Loss
) -> None:
    backend = await SqlBackend.postgres(through(pooler, postgres, postgres_url), POOLED)
    try:
        documents = [await backend.document() for _ in range(3)]
        batch = [an_append(each, FIRST, 2, b"a", b"b") for each in documents]
        pooler.loss = loss
        with pytest.raises(StorageUnavailable):
            await backend.log.append(batch)
        found = {loss.COMMIT: FIRST, loss.ANSWER: place(3, 2)}[loss]
        assert await backend.log.heads(documents) == dict.fromkeys(documents, found)
        assert list(await backend.log.append(batch)) == [appended(each, 2, 3, FIRST_COMMIT) for each in documents]
        assert [covered_seqs(await loaded(backend, each)) for each in documents] == [[1, 2, 3]] * 3
    finally:
        await backend.close()
