"""The database is asked about once a second, by however many probes, and a probe is always answered."""

import asyncio

import pytest

from constructure_sync.rest.readiness import AWAY, DatabaseProbe
from storage.contracts import StorageError, StorageUnavailable


class FakeDatabase:
    """A database that answers as it is told to. looks, schema_looks: how often it was asked."""

    def __init__(self) -> None:
        self.now = 100.0
        self.looks = 0
        self.schema_looks = 0
        self.fault: Exception | None = None
        self.schema_fault: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.probe = DatabaseProbe(
            self.check, self.check_schema, lasting=1.0, schema_lasting=30.0, timeout=0.2, clock=lambda: self.now
        )

    async def check(self) -> None:
        self.looks += 1
        await self.answers.wait()
        if self.fault is not None:
            raise self.fault

    async def check_schema(self) -> None:
        self.schema_looks += 1
        if self.schema_fault is not None:
            raise self.schema_fault

    async def after(self, seconds: float) -> tuple[str, ...]:
        self.now += seconds
        return await self.probe.reasons()


@pytest.fixture
async def database() -> FakeDatabase:
    return FakeDatabase()


async def test_probes_that_come_together_or_soon_after_share_one_look(database: FakeDatabase) -> None:
    assert await asyncio.gather(*[database.probe.reasons() for _ in range(20)]) == [()] * 20
    assert await database.after(0.9) == ()
    assert database.looks == 1
    assert await database.after(0.2) == ()
    assert database.looks == 2
    assert database.schema_looks == 1
    await database.after(30.0)
    assert database.schema_looks == 2


async def test_a_database_that_goes_away_is_noticed_and_so_is_its_return(database: FakeDatabase) -> None:
    database.fault = StorageUnavailable("gone")
    assert await database.after(1.1) == (AWAY,)
    database.fault = None
    assert await database.after(0.1) == (AWAY,)
    assert await database.after(1.1) == ()


async def test_R13_a_database_that_does_not_answer_counts_as_away(database: FakeDatabase) -> None:
    database.answers.clear()
    assert await database.after(1.1) == (AWAY,)


async def test_a_probe_that_gives_up_takes_the_look_from_nobody(database: FakeDatabase) -> None:
    database.answers.clear()
    impatient = asyncio.create_task(database.probe.reasons())
    patient = asyncio.create_task(database.probe.reasons())
    await asyncio.sleep(0)
    impatient.cancel()
    database.answers.set()
    assert await patient == ()
    assert database.looks == 1


async def test_a_schema_of_another_version_is_a_reason_until_it_is_brought_up(database: FakeDatabase) -> None:
    database.schema_fault = StorageError("run migrate")
    assert await database.after(1.1) == ("run migrate",)
    database.schema_fault = None
    assert await database.after(1.1) == ()


async def test_a_fault_of_the_check_itself_is_a_reason(database: FakeDatabase) -> None:
    database.fault = KeyError("a fault of ours")
    (reason,) = await database.after(1.1)
    assert "cannot be judged" in reason
