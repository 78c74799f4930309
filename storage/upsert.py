"""INSERT … ON CONFLICT for both databases: they speak the same words, SQLAlchemy has them in two places."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection


def insert_or(table: Table, connection: Connection) -> postgresql.Insert | sqlite.Insert:
    """An INSERT into `table` that can be told what to do when the row is there, for the database of `connection`."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)
