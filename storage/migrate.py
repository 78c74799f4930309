"""Bring a database to the schema of this version."""

import asyncio

from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from storage.contracts import StorageUnavailable
from storage.database import create_engine


async def migrate(url: str) -> None:
    """Run every migration that the database lacks, all in one transaction. StorageUnavailable: it cannot be opened."""
    await asyncio.to_thread(_migrate, url)


def alembic_config(connection: Connection) -> Config:
    """Alembic's settings for this package; nothing is read from a file."""
    config = Config()
    config.set_main_option("script_location", "storage:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _migrate(url: str) -> None:
    engine = create_engine(url, readers=0)
    try:
        with engine.begin() as connection:
            command.upgrade(alembic_config(connection), "head")
    except (DBAPIError, OSError) as error:
        raise StorageUnavailable(f"the database cannot be opened or migrated: {error}") from error
    finally:
        engine.dispose()
