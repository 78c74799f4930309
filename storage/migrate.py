"""Bring a database to the schema of this version, or see whether somebody did.

A database that a newer release has migrated is left alone: releases change the schema so that the one before still runs on it
(docs/operations.md, "PostgreSQL").
"""

import asyncio
import sqlite3
from functools import cache
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Select, func, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from storage import postgres, sqlite
from storage.contracts import StorageError, StorageUnavailable
from storage.database import DEFAULT_OPTIONS, DatabaseOptions, SqlDatabase
from storage.urls import is_postgres

_TURN: Final = "migration of constructure-sync"
"""Name of the advisory lock that a migration holds: one at a time, whoever starts them."""

_TURN_MS: Final = 60_000
LOCK_MS: Final = 5_000
"""So long a statement waits for a table; those that come after it wait behind it meanwhile."""


async def migrate(url: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> None:
    """Run every migration that the database lacks, all in one transaction. StorageUnavailable: it cannot be opened."""
    if is_postgres(url):
        await _migrate_postgres(url, options)
    else:
        await asyncio.to_thread(_migrate_sqlite, url)


async def check_schema(database: SqlDatabase) -> None:
    """Return when the schema is that of this version or of a newer one. StorageError: it is older."""
    if await database.read(_is_behind):
        raise StorageError(
            "the database has the schema of an older version, or none: run `constructure-sync migrate`, then start"
        )


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for this package; nothing is read from a file."""
    config = Config()
    _set_place(config)
    config.attributes["connection"] = connection
    return config


def _set_place(config: Config) -> None:
    config.set_main_option("script_location", "storage:migrations")
    config.set_main_option("path_separator", "os")


def _is_behind(connection: Connection) -> bool:
    """Whether a step of this version is missing; what is not one of our steps is of a newer version."""
    found = MigrationContext.configure(connection).get_current_revision()
    return found is None or found in _older_steps()


@cache
def _older_steps() -> frozenset[str]:
    """All steps of this version but the last. Read once: they are files, and a server asks again and again."""
    config = Config()
    _set_place(config)
    steps = ScriptDirectory.from_config(config)
    return frozenset(step.revision for step in steps.walk_revisions()) - {steps.get_current_head() or ""}


def _upgrade(connection: Connection) -> None:
    if _is_behind(connection):
        command.upgrade(alembic_config(connection), "head")


def _migrate_sqlite(url: str) -> None:
    engine = sqlite.create_engine(url, readers=0)
    try:
        with engine.begin() as connection:
            _upgrade(connection)
    except (DBAPIError, sqlite3.Error, OSError) as error:
        raise StorageUnavailable(f"the database cannot be opened or migrated: {error}") from error
    finally:
        engine.dispose()


async def _migrate_postgres(url: str, options: DatabaseOptions) -> None:
    """Wait for whoever migrates, then for no lock for long: what waits for a table's lock holds up everybody behind it."""
    engine = postgres.create_engine(url, options, connections=1)
    try:
        with postgres.errors_translated():
            async with engine.begin() as connection:
                await connection.execute(_lock_limit(_TURN_MS))
                await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(_TURN, 0))))
                await connection.execute(_lock_limit(LOCK_MS))
                await connection.run_sync(_upgrade)
    except StorageUnavailable as error:
        raise StorageUnavailable(f"the database cannot be migrated now: {error}") from error
    finally:
        await engine.dispose()


def _lock_limit(milliseconds: int) -> Select[str]:
    return select(func.set_config("lock_timeout", f"{milliseconds}ms", True))
