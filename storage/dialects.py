"""Where the two databases have different words for the same."""

from typing import Final, TypeVar
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Table, TableValuedAlias, any_, bindparam, column, func
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.types import TypeEngine

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


def table_of(name: str, **columns: TypeEngine[UUID] | TypeEngine[int] | TypeEngine[bytes]) -> TableValuedAlias:
    """On PostgreSQL: a table of rows that the caller sends, as one array for each column, the parameters `{name}_{column}`."""
    arrays = [bindparam(f"{name}_{each}", type_=postgresql.ARRAY(type_)) for each, type_ in columns.items()]
    shape = func.unnest(*arrays).table_valued(*(column(each, type_) for each, type_ in columns.items()))
    return shape.alias(name).render_derived()
