"""Where the two databases have different words for the same."""

from typing import Final, TypeVar

from sqlalchemy import Column, ColumnElement, Table, any_, bindparam
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

T = TypeVar("T")

POSTGRES: Final = "postgresql"


def insert_or(table: Table, connection: Connection) -> postgresql.Insert | sqlite.Insert:
    """An INSERT into `table` that can be told what to do when the row is there (ON CONFLICT)."""
    return postgresql.insert(table) if connection.dialect.name == POSTGRES else sqlite.insert(table)


def one_of(column: Column[T], name: str, dialect: str) -> ColumnElement[bool]:
    """Whether a column is one of the values of the parameter `name`, a list.

    PostgreSQL gets them as one array: the statement is then the same for any number of them, and is prepared once.
    """
    if dialect == POSTGRES:
        return column == any_(bindparam(name, type_=postgresql.ARRAY(column.type)))
    return column.in_(bindparam(name, expanding=True))
