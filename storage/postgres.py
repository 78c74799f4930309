"""PostgreSQL through asyncpg: transactions, what they are bounded by, and what turns the server's errors into ours.

Nothing here outlives a transaction on the server: every setting is local to one, so a pooler in transaction mode may stand
before it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar, cast
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import ColumnElement, Select, case, event, func, select
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError, NotSupportedError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from storage.contracts import StorageError, StorageUnavailable
from storage.database import DEFAULT_OPTIONS, DatabaseAway, DatabaseOptions, Rejected, SqlDatabase, cause

T = TypeVar("T")

_Bounds = Select[*tuple[str, ...]]

OLDEST_VERSION: Final = 14
"""The oldest major release that is served; tests run on the one that the development requirements bring."""

_CONNECT_SECONDS: Final = 5.0
_RECYCLE_SECONDS: Final = 1800
_SENT_AWAY: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "53300"})
"""The server ends, crashed, starts, ended an idle session, or takes no more connections."""

_READ_ONLY: Final = "25006"

_MENDABLE: Final = frozenset({"42P01", "42703", "42501"})
"""No such table or column, or no right to it: an operator who restores a backup or mends rights can make it come right."""

_DECIDED: Final = ("22", "42", "0A")
"""Classes of errors that stay the same however often it is tried: data that does not fit, statements that mean nothing."""

_LIBPQ_ONLY: Final = frozenset(
    {"channel_binding", "connect_timeout", "gssencmode", "keepalives", "keepalives_idle", "keepalives_interval"}
    | {"keepalives_count", "tcp_user_timeout", "fallback_application_name", "client_encoding", "require_auth"}
)
"""Words of a URL that asyncpg would send to the server as settings, which it refuses."""


def postgres_dsn(url: str) -> str:
    """A `postgresql://` URL as asyncpg reads it. StorageError: it names no host or no database."""
    try:
        parts = urlsplit(url)
        known = [(name, value) for name, value in parse_qsl(parts.query) if name not in _LIBPQ_ONLY]
    except ValueError as error:
        raise StorageError(f"the database URL cannot be read: {error}") from error
    if not parts.netloc and not any(name == "host" for name, _ in known):
        raise StorageError("the database URL names no host; an example: postgresql://user:password@host:5432/database")
    if not parts.path.strip("/") and not any(name in ("dbname", "database") for name, _ in known):
        raise StorageError(
            "the database URL names no database; an example: postgresql://user:password@host:5432/database"
        )
    return f"postgresql://{parts.netloc}{parts.path}" + (f"?{urlencode(known)}" if known else "")


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """Begins each transaction together with what bounds it, in one round trip. bounds: SQL, which cannot fail by itself."""

    bounds = ""

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:
        if not query.startswith("BEGIN"):  # the driver's own word, with which its transactions start
            return str(await super().execute(query, *args, timeout=timeout))
        try:
            return str(await super().execute(query + self.bounds, timeout=timeout))
        except BaseException:
            # Nobody knows whether a transaction is open: what goes on here might be lost with it.
            self.terminate()
            raise


def create_engine(
    url: str, options: DatabaseOptions, *, connections: int, bounds: _Bounds | None = None
) -> AsyncEngine:
    """An engine of at most so many connections, none of which is opened yet. bounds: what each transaction begins with."""
    arguments: dict[str, object] = {
        "dsn": postgres_dsn(url),
        "timeout": min(_CONNECT_SECONDS, options.time_limit),
        "connection_class": _Connection,
    }
    if options.is_pooled:
        # Without its cache asyncpg uses the unnamed statement, the only one that is sure to be on the server that the pooler
        # chose for this transaction; without its own, SQLAlchemy prepares it anew each time.
        arguments |= {"statement_cache_size": 0, "prepared_statement_cache_size": 0}
    engine = create_async_engine(
        "postgresql+asyncpg://",
        connect_args=arguments,
        pool_size=connections,
        max_overflow=0,
        # Shorter than the whole, so that "busy" is told from "away".
        pool_timeout=options.time_limit / 2,
        pool_recycle=_RECYCLE_SECONDS,
    )

    words = "" if bounds is None else str(bounds.compile(engine.sync_engine, compile_kwargs={"literal_binds": True}))

    @event.listens_for(engine.sync_engine, "connect")
    def bound(_: object, entry: ConnectionPoolEntry) -> None:
        cast(_Connection, entry.driver_connection).bounds = words

    @event.listens_for(engine.sync_engine, "checkout")
    def discard_ended(_: object, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        # A connection that ended while nobody used it is replaced before anybody notices, without asking the server.
        driver = entry.driver_connection
        if isinstance(driver, asyncpg.Connection) and driver.is_closed():
            raise DisconnectionError

    @event.listens_for(engine.sync_engine, "handle_error")
    def leave_standby(context: ExceptionContext) -> None:
        # After a failover these connections may lead to what is a standby now; new ones find the primary.
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
            context.is_disconnect = True

    return engine


def _bounds(options: DatabaseOptions, *, is_writing: bool) -> _Bounds:
    """What holds until the end of a transaction, whoever has set something else for its role or its database.

    A role or database may have lowered synchronous_commit; what an operator has raised above "on" stays.
    """
    limit = f"{options.time_limit * 1000:.0f}ms"
    values: dict[str, ColumnElement[str] | str] = {"statement_timeout": limit}
    if is_writing:
        now = func.current_setting("synchronous_commit")
        values |= {
            "lock_timeout": f"{options.lock_limit * 1000:.0f}ms",
            # When we are gone without a word, the rows we hold must not stay locked.
            "idle_in_transaction_session_timeout": limit,
            "synchronous_commit": case((now == "remote_apply", now), else_="on"),
        }
    return select(*(func.set_config(name, value, True) for name, value in values.items()))


@contextmanager
def errors_translated() -> Iterator[None]:
    """Raise what asyncpg and SQLAlchemy raise as our own errors."""
    try:
        yield
    except PoolTimeout as error:
        raise StorageUnavailable("all database connections are busy") from error
    except (TimeoutError, OSError) as error:
        raise DatabaseAway(cause(error)) from error
    except DBAPIError as error:
        raise _translated(error) from error
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:  # from opening a connection, which SQLAlchemy passes on as it is
        raise translated_state(getattr(error, "sqlstate", None), str(error)) from error


def _translated(error: DBAPIError) -> StorageError:
    if isinstance(error, IntegrityError):
        return Rejected(cause(error))
    if isinstance(error, NotSupportedError):  # a statement that was prepared before the schema changed
        return StorageUnavailable(cause(error))
    return translated_state(getattr(error.orig, "sqlstate", None), cause(error))


def translated_state(state: str | None, words: str) -> StorageError:
    """Our error for a SQLSTATE (None: the connection broke): what is not known to be decided may come right when tried again."""
    if state is not None and state.startswith("22"):
        return StorageError(words.partition(": ")[0])  # after the colon may come the value itself
    if state is None or state.startswith("08") or state in _SENT_AWAY:
        return DatabaseAway(words)
    if state.startswith(_DECIDED) and state not in _MENDABLE:
        return StorageError(words)
    return StorageUnavailable(words)


async def check_server(database: SqlDatabase, options: DatabaseOptions) -> None:
    """Return when the server may hold a log. StorageError: it is too old, or loses what it has committed (R1)."""
    names = ("server_version_num", "server_version", "fsync", "full_page_writes")
    query = select(*(func.current_setting(name) for name in names))
    number, version, *durable = await database.read(lambda connection: tuple(connection.execute(query).one()))
    if int(number) < OLDEST_VERSION * 10_000:
        raise StorageError(f"the database server is PostgreSQL {version}; {OLDEST_VERSION} or newer is needed")
    lost = [f"{name}=off" for name, value in zip(names[2:], durable, strict=True) if value != "on"]
    if lost and not options.accepts_unsafe_durability:
        raise StorageError(
            f"the database server runs with {', '.join(lost)}: after a crash it would lack edits that were acknowledged. "
            "Turn it on, or set CONSTRUCTURE_DATABASE_ACCEPTS_UNSAFE_DURABILITY=true to accept the loss"
        )


class PostgresDatabase:
    """`SqlDatabase` on a PostgreSQL server. Writes and reads have connections of their own, so neither starves the other."""

    def __init__(self, url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> None:
        self._options = options
        half = max(1, options.connections // 2)
        self._writers = create_engine(
            url, options, connections=half, bounds=_bounds(options, is_writing=True)
        ).execution_options(isolation_level="READ COMMITTED")
        self._readers = create_engine(
            url,
            options,
            connections=max(1, options.connections - half),
            bounds=_bounds(options, is_writing=False),
        ).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._waiting = 0
        self._is_closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase."""
        return await self._run(self._writers, work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase."""
        return await self._run(self._readers, work)

    async def _run(self, engine: AsyncEngine, work: Callable[[Connection], T]) -> T:
        if self._is_closed:
            raise StorageUnavailable("the database is closed")
        if self._waiting >= self._options.max_waiting:
            raise StorageUnavailable(f"more than {self._options.max_waiting} database calls are waiting")
        self._waiting += 1
        self._idle.clear()
        try:
            with errors_translated():
                async with asyncio.timeout(self._options.time_limit), engine.begin() as connection:
                    return await connection.run_sync(work)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle.set()

    async def close(self) -> None:
        """See SqlDatabase."""
        self._is_closed = True
        try:
            async with asyncio.timeout(self._options.time_limit):
                await self._idle.wait()
        except TimeoutError as error:
            raise StorageUnavailable("a database transaction did not end") from error
        finally:
            await self._writers.dispose()
            await self._readers.dispose()
