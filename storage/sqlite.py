"""SQLite: one writer, several readers, and what turns SQLite's errors into ours.

A store's function runs in a database thread, so that a transaction costs the event loop one hop however many statements it
has, and no cancellation can stop it between two of them. (Measured on one append: 0.8 ms against 4.3 ms with aiosqlite's hop
per statement.)
"""

import asyncio
import errno
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, cast

import sqlalchemy
from sqlalchemy import Engine, event
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from storage.contracts import StorageError, StorageUnavailable
from storage.database import DEFAULT_OPTIONS, DatabaseOptions, Rejected, cause

T = TypeVar("T")

BUSY_TIMEOUT_MS: Final = 5_000
"""How long SQLite waits for a lock that another process holds."""

SYNCHRONOUS_FULL: Final = 2

_UNDECIDED: Final = (
    *(TimeoutError, OperationalError, InterfaceError, InternalError, PoolTimeout, OSError),
    *(sqlite3.OperationalError, sqlite3.InterfaceError, sqlite3.InternalError),
)
"""What SQLAlchemy raises, and the driver where it is used directly, when trying again may help."""


def sqlite_url(url: str) -> URL:
    """The URL of a `sqlite:///path`; its folder is made. StorageError: it names no file."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StorageError("the database URL cannot be read; an example: sqlite:///data/constructure.db") from error
    if not parsed.database or parsed.database == ":memory:":
        raise StorageError("the database URL names no file: nothing would survive a restart")
    _make_folder(Path(parsed.database).parent)
    return parsed


def _make_folder(folder: Path) -> None:
    """Make a folder that outlives a power cut, whoever made it and however many of those above it are new.

    SQLite syncs the folder of its files; but the folder itself is safe only once the one above it is synced.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for above in folder.absolute().parents:
        try:
            descriptor = os.open(above, os.O_RDONLY)
        except PermissionError:  # a folder that we may not read was there before us
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a file system that does not sync folders
                raise
        finally:
            os.close(descriptor)


def create_engine(url: str, *, readers: int) -> Engine:
    """An engine for SQLite. readers 0: the single write connection; otherwise so many read-only ones."""
    engine = sqlalchemy.create_engine(
        sqlite_url(url),
        poolclass=QueuePool,
        pool_size=max(1, readers),
        max_overflow=0,
        pool_timeout=10,
        connect_args={"check_same_thread": False},
    )
    begin = "BEGIN" if readers else "BEGIN IMMEDIATE"

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # The driver must not begin transactions by itself: it would begin none for reads, a deferred one for writes.
        connection.isolation_level = None
        _set_pragmas(connection, read_only=readers > 0)

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        # A cursor of SQLAlchemy's costs ten times what the statement does.
        cast(sqlite3.Connection, connection.connection.driver_connection).execute(begin)

    return engine


def _set_pragmas(connection: sqlite3.Connection, *, read_only: bool) -> None:
    """Set what durability rests on, and read it back: SQLite ignores a pragma that it cannot follow."""
    wanted: dict[str, tuple[str, object]] = {
        "busy_timeout": (str(BUSY_TIMEOUT_MS), BUSY_TIMEOUT_MS),
        "journal_mode": ("WAL", "wal"),
        "synchronous": ("FULL", SYNCHRONOUS_FULL),
        "foreign_keys": ("ON", 1),
        "query_only": ("ON", 1) if read_only else ("OFF", 0),
    }
    for name, (value, expected) in wanted.items():
        connection.execute(f"PRAGMA {name} = {value}").close()
        found = connection.execute(f"PRAGMA {name}").fetchone()[0]
        if found != expected:
            raise StorageError(f"SQLite does not follow PRAGMA {name} = {value}: it says {found!r}")


class _Lane:
    """A fixed number of threads and connections, and a bounded queue before them."""

    def __init__(self, name: str, engine: Engine, options: DatabaseOptions, *, threads: int) -> None:
        self.engine = engine
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=f"database-{name}")
        self._name = name
        self._max_waiting = options.max_waiting
        self._time_limit = options.time_limit
        self._waiting = 0
        self._closed = False
        self._idle: list[Connection] = []

    async def run(self, work: Callable[[Connection], T]) -> T:
        if self._closed:
            raise StorageUnavailable("the database is closed")
        if self._waiting >= self._max_waiting:
            raise StorageUnavailable(f"more than {self._max_waiting} database {self._name}s are waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._time_limit):
                # Given up before its turn, a transaction never starts; given up later, it still ends as a whole.
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._transact, work)
        except (IntegrityError, sqlite3.IntegrityError) as error:
            raise Rejected(cause(error)) from error
        except _UNDECIDED as error:
            raise StorageUnavailable(cause(error)) from error
        except (DBAPIError, sqlite3.Error) as error:
            raise StorageError(cause(error)) from error
        finally:
            self._waiting -= 1

    def _transact(self, work: Callable[[Connection], T]) -> T:
        # A connection stays with the lane until something fails on it: taking it from the pool costs more than a transaction.
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.engine.connect()
        try:
            with connection.begin():
                result = work(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result

    async def close(self) -> None:
        self._closed = True
        ended = asyncio.to_thread(self._threads.shutdown, wait=True, cancel_futures=True)
        try:
            async with asyncio.timeout(self._time_limit):
                await ended
        except TimeoutError as error:
            raise StorageUnavailable("a database transaction did not end") from error
        for connection in self._idle:
            connection.close()
        self.engine.dispose()


class SqliteDatabase:
    """`SqlDatabase` on one SQLite file.

    Writes queue for the single write connection; reads see one moment each, beside the writer (WAL). A caller that is
    cancelled, or that waited longer than the time limit, leaves its transaction wholly there or wholly absent.
    """

    def __init__(self, url: str, options: DatabaseOptions = DEFAULT_OPTIONS, *, readers: int = 4) -> None:
        self._writer = _Lane("write", create_engine(url, readers=0), options, threads=1)
        self._readers = _Lane("read", create_engine(url, readers=readers), options, threads=readers)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase."""
        return await self._writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase."""
        return await self._readers.run(work)

    async def close(self) -> None:
        """See SqlDatabase. StorageUnavailable: a transaction did not end in time."""
        await self._readers.close()
        await self._writer.close()
