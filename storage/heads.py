"""Heads and places of logs in SQL: where a log ends, and whether it holds a place."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Final
from uuid import UUID

from sqlalchemy import Select, bindparam, select, tuple_
from sqlalchemy.engine import Connection, Row

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import BEGINNING, Head
from storage.dialects import one_of
from storage.tables import document_updates, documents

Spot = tuple[DocumentId, Seq]
"""An update row's key."""

_COMMITS_AT: Final = select(document_updates.c.document_id, document_updates.c.seq, document_updates.c.commit_id).where(
    tuple_(document_updates.c.document_id, document_updates.c.seq).in_(bindparam("places", expanding=True))
)


@cache
def _heads_of(dialect: str) -> Select[UUID, int, int]:
    table = documents.c
    return select(table.id, table.head_seq, table.head_commit).where(one_of(table.id, "ids", dialect))


@cache
def locked_heads_of(dialect: str) -> Select[UUID, int, int]:
    """Id, Seq and commit of the heads of the documents `ids`, whose rows it locks.

    In id order: two batches that want the same documents wait for each other, and never both.
    """
    return _heads_of(dialect).order_by(documents.c.id).with_for_update(key_share=True)


def as_heads(rows: Iterable[Row[UUID, int, int]]) -> dict[DocumentId, Head]:
    """Heads by document, of rows of id, Seq and commit."""
    return {DocumentId(row[0]): Head(Seq(row[1]), CommitId(row[2])) for row in rows}


def read_heads(document_ids: Sequence[DocumentId], connection: Connection) -> dict[DocumentId, Head]:
    """The heads of those documents that exist."""
    return as_heads(connection.execute(_heads_of(connection.dialect.name), {"ids": list(document_ids)}))


def read_head(document_id: DocumentId, connection: Connection, *, lock: bool = False) -> Head | None:
    """The head of a document, which is locked until the transaction ends, or not. None: no such document."""
    query = locked_heads_of if lock else _heads_of
    return as_heads(connection.execute(query(connection.dialect.name), {"ids": [document_id]})).get(document_id)


def commits_at(spots: Sequence[Spot], connection: Connection) -> Mapping[Spot, CommitId]:
    """Which commits wrote the rows that are asked for; those that are not stored are left out."""
    if not spots:
        return {}
    return {(row[0], row[1]): CommitId(row[2]) for row in connection.execute(_COMMITS_AT, {"places": spots})}


def commit_at(document_id: DocumentId, seq: Seq, connection: Connection) -> CommitId | None:
    """Which commit wrote this row. None: it is not stored."""
    return commits_at([(document_id, seq)], connection).get((document_id, seq))


def holds(place: Head, head: Head, written_by: CommitId | None) -> bool:
    """Whether a log with this head holds `place` (UL3). written_by: the commit of the stored row of that Seq."""
    return place in (BEGINNING, head) or written_by == place.commit
