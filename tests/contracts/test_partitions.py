"""The months of analytics events: made ahead, once, and every row in the month it belongs to."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import insert, text
from sqlalchemy.engine import Connection

from storage.partitions import ensure_partitions
from storage.tables import analytics_events
from tests.contracts.backends import SqlBackend


def moment(*date: int) -> float:
    """Seconds since 1970 of a moment in UTC."""
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


NOW = moment(2031, 11, 20)
FIRST_MONTHS = [f"analytics_events_{month}" for month in ("2031_11", "2031_12", "2032_01", "2032_02")]


@pytest.fixture
async def backend(postgres_url: str) -> AsyncIterator[SqlBackend]:
    made = await SqlBackend.postgres(postgres_url)
    yield made
    await made.close()


async def add(backend: SqlBackend, *moments: float) -> None:
    rows = [{"id": uuid4(), "at": at, "course_id": uuid4(), "kind": "opened", "payload": {"n": 1}} for at in moments]
    await backend.database.write(lambda connection: connection.execute(insert(analytics_events), rows).close())


async def by_table(backend: SqlBackend) -> Counter[str]:
    def count(connection: Connection) -> Counter[str]:
        rows = connection.execute(text("SELECT tableoid::regclass::text FROM analytics_events"))
        return Counter(row[0].removeprefix("analytics_events_") for row in rows)

    return await backend.database.read(count)


async def test_this_month_and_the_next_three_are_made_once(backend: SqlBackend) -> None:
    assert await ensure_partitions(backend.database, NOW) == FIRST_MONTHS
    assert await ensure_partitions(backend.database, NOW) == []
    assert await ensure_partitions(backend.database, moment(2031, 12, 1)) == ["analytics_events_2032_03"]


async def test_rows_go_to_their_month_to_the_second(backend: SqlBackend) -> None:
    await ensure_partitions(backend.database, NOW)
    await add(backend, NOW, moment(2031, 12, 1), moment(2032, 1, 1) - 0.001, moment(2032, 1, 1), moment(2032, 2, 29))
    assert await by_table(backend) == {"2031_11": 1, "2031_12": 2, "2032_01": 1, "2032_02": 1}


async def test_rows_without_a_month_wait_in_the_default_and_move_when_it_is_made(backend: SqlBackend) -> None:
    await add(backend, NOW, moment(2032, 1, 15), moment(2032, 1, 31), moment(2040, 1, 1), 0.0)
    assert await by_table(backend) == {"default": 5}
    assert await ensure_partitions(backend.database, NOW) == FIRST_MONTHS
    assert await by_table(backend) == {"default": 2, "2031_11": 1, "2032_01": 2}


async def test_many_instances_at_once_make_each_month_once(backend: SqlBackend) -> None:
    await add(backend, *(NOW + number for number in range(50)))
    others = [SqlBackend(backend.url) for _ in range(2)]
    made = await asyncio.gather(*(ensure_partitions(each.database, NOW) for each in [backend, *others] for _ in "12"))
    assert sorted(name for names in made for name in names) == FIRST_MONTHS
    assert await by_table(backend) == {"2031_11": 50}
    for each in others:
        await each.close()


async def test_an_embedded_database_has_no_months(tmp_path: Path) -> None:
    backend = await SqlBackend.sqlite(tmp_path)
    try:
        assert await ensure_partitions(backend.database, NOW) == []
        await add(backend, NOW)
    finally:
        await backend.close()
