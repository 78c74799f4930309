"""Leases over both databases, by a clock that is moved by hand."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from storage.leases import Leases
from tests.contracts.backends import SqlBackend


@pytest.fixture(params=["sqlite", "postgres"])
async def leases(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Leases]:
    if request.param == "sqlite":
        backend = await SqlBackend.sqlite(tmp_path)
    else:
        backend = await SqlBackend.postgres(request.getfixturevalue("postgres_url"))
    yield Leases(backend.database)
    await backend.close()


async def test_one_holds_a_lease_until_it_ends(leases: Leases) -> None:
    assert await leases.acquire("sweep", "one", 100.0, 60.0)
    assert not await leases.acquire("sweep", "two", 159.0, 60.0)
    assert await leases.acquire("sweep", "two", 160.0, 60.0)
    assert not await leases.acquire("sweep", "one", 161.0, 60.0)


async def test_its_holder_renews_a_lease(leases: Leases) -> None:
    assert await leases.acquire("sweep", "one", 100.0, 60.0)
    assert await leases.acquire("sweep", "one", 150.0, 60.0)
    assert not await leases.acquire("sweep", "two", 170.0, 60.0)


async def test_jobs_have_leases_of_their_own(leases: Leases) -> None:
    assert await leases.acquire("sweep", "one", 100.0, 60.0)
    assert await leases.acquire("months", "two", 100.0, 60.0)


async def test_only_its_holder_gives_a_lease_up(leases: Leases) -> None:
    assert await leases.acquire("sweep", "one", 100.0, 60.0)
    await leases.release("sweep", "two")
    assert not await leases.acquire("sweep", "two", 101.0, 60.0)
    await leases.release("sweep", "one")
    assert await leases.acquire("sweep", "two", 101.0, 60.0)


async def test_of_many_at_once_one_gets_it(leases: Leases) -> None:
    for now in (100.0, 200.0):
        got = await asyncio.gather(*(leases.acquire("sweep", f"instance {n}", now, 60.0) for n in range(8)))
        assert sum(got) == 1
