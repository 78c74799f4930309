"""Open everything that is stored, from one URL."""

from dataclasses import dataclass
from typing import Self

from sqlalchemy import text

from storage.accounts import Accounts
from storage.courses import Courses
from storage.database import SqlDatabase
from storage.log import SqlUpdateLog
from storage.migrate import migrate
from storage.stranded import SqlStrandedChanges


@dataclass(frozen=True, slots=True)
class Database:
    """The stores of one database, and their life: `close` it once, after the last use."""

    log: SqlUpdateLog
    stranded: SqlStrandedChanges
    accounts: Accounts
    courses: Courses
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


async def open_database(url: str, *, time_limit: float = 10.0) -> Database:
    """Migrate the database at `url` to this version and open its stores.

    time_limit: seconds that any one transaction may take. Raises StorageUnavailable, StorageError (bad URL).
    """
    await migrate(url)
    connections = SqlDatabase(url, time_limit=time_limit)
    return Database(
        log=SqlUpdateLog(connections),
        stranded=SqlStrandedChanges(connections),
        accounts=Accounts(connections),
        courses=Courses(connections),
        connections=connections,
    )
