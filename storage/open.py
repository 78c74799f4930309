"""Open everything that is stored, from one URL."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from sqlalchemy import text

from storage.accounts import Accounts
from storage.breaker import BreakerState, CircuitBreaker, GuardedDatabase
from storage.courses import Courses
from storage.database import DEFAULT_OPTIONS, DatabaseOptions, SqlDatabase
from storage.leases import Leases
from storage.log import SqlUpdateLog
from storage.migrate import check_schema, migrate
from storage.postgres import PostgresDatabase, check_server
from storage.sqlite import SqliteDatabase
from storage.stranded import SqlStrandedChanges
from storage.urls import is_postgres


@dataclass(frozen=True, slots=True)
class Database:
    """The stores of one database, and their life: `close` it once, after the last use."""

    log: SqlUpdateLog
    stranded: SqlStrandedChanges
    accounts: Accounts
    courses: Courses
    leases: Leases
    connections: SqlDatabase

    async def check(self) -> None:
        """Return when the database answers. Raises StorageUnavailable."""
        await self.connections.read(lambda connection: connection.execute(text("SELECT 1")).close())

    async def close(self) -> None:
        """Let running transactions end, then close every connection."""
        await self.connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def open_database(
    url: str,
    options: DatabaseOptions = DEFAULT_OPTIONS,
    *,
    breaker_told: Callable[[BreakerState], object] = lambda _: None,
) -> Database:
    """Open the stores of the database at `url`. An embedded one is migrated first; a server must have been.

    breaker_told: hears when a server goes away and comes back.
    Raises StorageUnavailable, StorageError (bad URL, schema of an older version, a server that must not hold a log).
    """
    connections: SqlDatabase
    if is_postgres(url):
        connections = await _open_server(url, options, breaker_told)
    else:
        await migrate(url)
        connections = SqliteDatabase(url, options)
    return Database(
        log=SqlUpdateLog(connections),
        stranded=SqlStrandedChanges(connections),
        accounts=Accounts(connections),
        courses=Courses(connections),
        leases=Leases(connections),
        connections=connections,
    )


async def _open_server(
    url: str, options: DatabaseOptions, breaker_told: Callable[[BreakerState], object]
) -> SqlDatabase:
    server = PostgresDatabase(url, options)
    try:
        await check_server(server, options)
        await check_schema(server)
    except BaseException:
        await server.close()
        raise
    return GuardedDatabase(server, CircuitBreaker(told=breaker_told))
