"""Transactions: what the stores need of a database, and the words in which every database fails.

Stores hand over a plain function of a connection. It runs inside one transaction, whichever database and driver serves it: in
a thread with SQLite, through `AsyncConnection.run_sync` with asyncpg.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from storage.contracts import StorageError, StorageUnavailable

T = TypeVar("T")


class Rejected(StorageError):
    """The database refuses the change: a key is taken, or something it refers to is absent. Nothing was changed."""


class DatabaseAway(StorageUnavailable):
    """Nobody answers, or whoever answers is starting or stopping: other calls would fare no better."""


class SqlDatabase(Protocol):
    """A database that the stores run their functions on. Safe to call from many tasks of one event loop at once."""

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` gives, once its transaction is committed and synced to disk.

        StorageUnavailable: locked, full, failing, away or too slow. Rejected: against a constraint. StorageError: anything else.
        """
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` gives; all its queries see the same moment, and it cannot write. Raises StorageUnavailable."""
        ...

    async def close(self) -> None:
        """Let running transactions end, then close every connection; later calls fail."""
        ...


@dataclass(frozen=True, slots=True)
class DatabaseOptions:
    """How a database is used. Seconds, counts; what SQLite has no word for it passes over.

    connections: of this process, half for writing, half for reading. lock_limit: how long a transaction waits for a row that
    another one holds. max_waiting: calls that may wait for a connection. is_pooled: a pooler in transaction mode stands before
    the server. accepts_unsafe_durability: a server may run that loses what it has committed (R1).
    """

    time_limit: float = 10.0
    lock_limit: float = 1.0
    connections: int = 10
    max_waiting: int = 10_000
    is_pooled: bool = False
    accepts_unsafe_durability: bool = False


DEFAULT_OPTIONS: Final = DatabaseOptions()


def cause(error: BaseException) -> str:
    """The driver's own words, without the statement and its parameters: those hold content."""
    if isinstance(error, TimeoutError):
        return "no answer from the database in time"
    return str(error.orig) if isinstance(error, DBAPIError) else str(error)
