"""The months of `analytics_events` on PostgreSQL: each a table of its own, made before it begins.

Rows of a month that has none go to the default partition, so nothing is refused when the job did not run; they move when the
month gets its table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Final

from sqlalchemy import and_, column, delete, func, insert, inspect, select, table, text
from sqlalchemy.engine import Connection

from storage.database import SqlDatabase
from storage.tables import analytics_events

MONTHS_AHEAD: Final = 3

_DEFAULT: Final = f"{analytics_events.name}_default"
_TURN: Final = "partitions of analytics_events"


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month in UTC. begin, end: seconds since 1970; the end is not in it."""

    name: str
    begin: int
    end: int


def months(now: float, ahead: int) -> Iterator[Month]:
    """The month of `now` and so many after it."""
    first = datetime.fromtimestamp(now, UTC)
    number = first.year * 12 + first.month - 1
    for each in range(number, number + ahead + 1):
        begin, end = _beginning(each), _beginning(each + 1)
        yield Month(f"{begin:%Y_%m}", int(begin.timestamp()), int(end.timestamp()))


def _beginning(number: int) -> datetime:
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)


async def ensure_partitions(database: SqlDatabase, now: float) -> list[str]:
    """Make the tables of this month and the next three that are missing; their names. Nothing to do on SQLite.

    Safe from several instances at once, and again at any time. now: seconds since 1970. Raises StorageUnavailable.
    """
    return await database.write(partial(_ensure, now))


def _ensure(now: float, connection: Connection) -> list[str]:
    if connection.dialect.name != "postgresql":
        return []
    parent = analytics_events.name
    wanted = {f"{parent}_{month.name}": month for month in months(now, MONTHS_AHEAD)}
    if wanted.keys() <= _tables(connection):
        return []
    # The lock ends with the transaction, so no pooler is in its way.
    connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(_TURN, 0))))
    missing = {name: month for name, month in wanted.items() if name not in _tables(connection)}
    if missing:
        connection.execute(text(f"LOCK TABLE {_DEFAULT} IN ACCESS EXCLUSIVE MODE"))
    for name, month in missing.items():
        _make(name, month, connection)
    return list(missing)


def _make(name: str, month: Month, connection: Connection) -> None:
    """Make a month's table with the rows that wait for it in the default partition: while they are there, it cannot be attached."""
    parent = analytics_events.name
    waiting = table(_DEFAULT, *(column(each.name) for each in analytics_events.columns))
    is_of_month = and_(waiting.c.at >= month.begin, waiting.c.at < month.end)
    rows = [each.name for each in analytics_events.columns]
    connection.execute(text(f"CREATE TABLE {name} (LIKE {parent} INCLUDING ALL)"))
    connection.execute(insert(table(name, *map(column, rows))).from_select(rows, select(waiting).where(is_of_month)))
    connection.execute(delete(waiting).where(is_of_month))
    connection.execute(
        text(f"ALTER TABLE {parent} ATTACH PARTITION {name} FOR VALUES FROM ({month.begin}) TO ({month.end})")
    )


def _tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())
