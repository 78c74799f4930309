"""Appending to logs, in one transaction over all documents of a batch (UL1 to UL4).

Nearly every append names the head of its log. Such a one is compared and set: the head moves if it is the one that is named, and
the rows go behind it. What is left over met somebody else's append, or is a repeated one; only that is looked into.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Final, cast
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    LargeBinary,
    Select,
    Uuid,
    bindparam,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import (
    BEGINNING,
    NO_COMMIT,
    Append,
    Appended,
    AppendResult,
    Diverged,
    Gone,
    Head,
    StorageUnavailable,
)
from storage.dialects import POSTGRES, insert_or, one_of, table_of
from storage.heads import Spot, commits_at, holds, locked_heads_of, read_heads
from storage.tables import document_clients, document_updates, documents

_Heads = Mapping[DocumentId, Head | None]
"""Where logs end; None: there is no such document."""


def append(batch: Sequence[Append], now: float, connection: Connection) -> Sequence[AppendResult]:
    """What becomes of each append of a batch. now: seconds since 1970, for `saved_at`."""
    left = _append_at_heads(batch, now, connection)
    others = [each for each in batch if each.document_id in left]
    results = _append_others(others, left, now, connection) if others else {}
    return [results[each.document_id] if each.document_id in left else _behind(each.after, each) for each in batch]


def _is_new(
    document_id: ColumnElement[UUID], head_commit: ColumnElement[int], commit: ColumnElement[int]
) -> Sequence[ColumnElement[bool]]:
    """That a commit is not in a document's log (UL4): neither its head's, whose rows may be purged, nor that of a stored row."""
    rows = exists().where(document_updates.c.commit_id == commit, document_updates.c.document_id == document_id)
    return head_commit != commit, ~rows


def _behind(head: Head, append: Append) -> Appended:
    return Appended(append.document_id, Seq(head.seq + 1), Seq(head.seq + len(append.updates)), head.commit)


def _append_at_heads(batch: Sequence[Append], now: float, connection: Connection) -> _Heads:
    """Append what names the head of its log. The heads of the others, whose rows are locked; nothing of them is changed."""
    append_them = _append_in_postgres if connection.dialect.name == POSTGRES else _append_in_sqlite
    left = append_them(batch, now, connection)
    bindings = [
        {"document_id": each.document_id, "client_id": seen.client_id, "user_id": seen.user_id, "bound_at": now}
        for each in batch
        if each.bindings and each.document_id not in left
        for seen in each.bindings
    ]
    if bindings:
        connection.execute(insert_or(document_clients, connection).on_conflict_do_nothing(), bindings)
    return left


# ---------------------------------------------------------------------- what does not name the head


def _append_others(
    batch: Sequence[Append], heads: _Heads, now: float, connection: Connection
) -> Mapping[DocumentId, AppendResult]:
    """What becomes of appends that do not name the head, or may be in the log already."""
    earlier = _earlier(batch, heads, connection)
    commits = commits_at(_doubtful(batch, heads, earlier), connection)
    results: dict[DocumentId, AppendResult] = {}
    fresh: list[Append] = []
    for each in batch:
        head = heads[each.document_id]
        if head is None:
            results[each.document_id] = Gone(each.document_id)
        elif each.document_id in earlier:
            first, last = earlier[each.document_id]
            previous = NO_COMMIT if first == 1 else commits.get((each.document_id, Seq(first - 1)))
            results[each.document_id] = Appended(each.document_id, first, last, previous)
        elif holds(each.after, head, commits.get((each.document_id, each.after.seq))):
            results[each.document_id] = _behind(head, each)
            fresh.append(replace(each, after=head))
        else:
            results[each.document_id] = Diverged(each.document_id)
    if fresh and _append_at_heads(fresh, now, connection):
        raise StorageUnavailable("a log has moved while its head was locked")
    return results


def _earlier(batch: Sequence[Append], heads: _Heads, connection: Connection) -> Mapping[DocumentId, tuple[Seq, Seq]]:
    """First and last Seq of those appends that the log has already (UL4)."""
    last = {
        (row[0], row[1]): Seq(row[2])
        for row in connection.execute(_ends_of(connection.dialect.name), {"commits": [each.commit for each in batch]})
    }
    found: dict[DocumentId, tuple[Seq, Seq]] = {}
    for each in batch:
        head = heads[each.document_id]
        if head is not None and head.commit == each.commit:
            seq = head.seq  # its rows may be purged already
        elif (each.document_id, each.commit) in last:
            seq = last[each.document_id, each.commit]
        else:
            continue
        # Counted back from the last: the oldest rows are purged first, so the first may be gone.
        found[each.document_id] = (Seq(seq - len(each.updates) + 1), Seq(seq))
    return found


@cache
def _ends_of(dialect: str) -> Select[UUID, int, int]:
    """The last Seq that each of the commits gave, by document."""
    table = document_updates.c
    return (
        select(table.document_id, table.commit_id, func.max(table.seq))
        .where(one_of(table.commit_id, "commits", dialect))
        .group_by(table.document_id, table.commit_id)
    )


def _doubtful(batch: Sequence[Append], heads: _Heads, earlier: Mapping[DocumentId, tuple[Seq, Seq]]) -> Sequence[Spot]:
    """The rows that must be looked at to decide: the one before each repeated append, and the place that another names."""
    spots: list[Spot] = []
    for each in batch:
        if each.document_id in earlier:
            spots.append((each.document_id, Seq(earlier[each.document_id][0] - 1)))
        elif each.after not in (BEGINNING, heads[each.document_id]):
            spots.append((each.document_id, each.after.seq))
    return spots


# ---------------------------------------------------------------------- SQLite

# Straight through the driver: in SQLAlchemy's hands a lone append costs several times what SQLite itself needs for it.
_MOVE_HEAD: Final = str(
    update(documents)
    .where(
        documents.c.id == bindparam("document"),
        documents.c.head_seq == bindparam("after"),
        documents.c.head_commit == bindparam("after_commit"),
        *_is_new(documents.c.id, documents.c.head_commit, bindparam("commit")),
    )
    .values(head_seq=bindparam("last"), head_commit=bindparam("commit"))
    .compile(dialect=sqlite.dialect(paramstyle="named"))
)
_ADD_UPDATES: Final = str(insert(document_updates).compile(dialect=sqlite.dialect()))


def _append_in_sqlite(batch: Sequence[Append], now: float, connection: Connection) -> _Heads:
    """See `_append_at_heads`. The whole database is locked since the transaction began."""
    driver = cast(sqlite3.Connection, connection.connection.driver_connection)
    left: list[DocumentId] = []
    rows: list[tuple[object, ...]] = []
    for each in batch:
        document, after = each.document_id.hex, each.after
        place = {
            "document": document,
            "after": after.seq,
            "after_commit": after.commit,
            "last": after.seq + len(each.updates),
            "commit": each.commit,
        }
        if not driver.execute(_MOVE_HEAD, place).rowcount:
            left.append(each.document_id)
            continue
        rows += [
            # In the order of the table's columns.
            (document, seq, new.payload, None if new.user_id is None else new.user_id.hex, each.commit, now)
            for seq, new in enumerate(each.updates, after.seq + 1)
        ]
    driver.executemany(_ADD_UPDATES, rows)
    if not left:
        return {}
    found = read_heads(left, connection)
    return {each: found.get(each) for each in left}


# ---------------------------------------------------------------------- PostgreSQL


@cache
def _at_heads() -> Select[UUID, int, int, bool]:
    """All of it in one statement, since each is a round trip: id, head before, and whether something was appended to it.

    The heads are locked in id order, as they are by everybody who locks several, and compared as they are then. Whether a commit
    is in the log already is seen as of before that wait: but whoever names a head with the commit behind it has learnt of
    it after both were committed, and that was before this statement began.
    """
    asked = table_of(
        "asked", id=Uuid(), after=BigInteger(), after_commit=BigInteger(), last=BigInteger(), commit=BigInteger()
    )
    new = table_of("new", document_id=Uuid(), seq=BigInteger(), payload=LargeBinary(), user_id=Uuid())
    locked = locked_heads_of(POSTGRES).cte("locked")
    moved = (
        update(documents)
        .where(
            documents.c.id == locked.c.id,
            locked.c.id == asked.c.id,
            locked.c.head_seq == asked.c.after,
            locked.c.head_commit == asked.c.after_commit,
            *_is_new(locked.c.id, locked.c.head_commit, asked.c.commit),
        )
        .values(head_seq=asked.c.last, head_commit=asked.c.commit)
        .returning(documents.c.id, documents.c.head_commit)
        .cte("moved")
    )
    rows = select(
        new.c.document_id,
        new.c.seq,
        new.c.payload,
        new.c.user_id,
        moved.c.head_commit,
        bindparam("now", type_=Double()),
    ).where(new.c.document_id == moved.c.id)
    added = insert(document_updates).from_select([each.name for each in document_updates.c], rows).cte("added")
    return (
        select(locked.c.id, locked.c.head_seq, locked.c.head_commit, moved.c.id.is_not(None))
        .select_from(locked.outerjoin(moved, moved.c.id == locked.c.id))
        .add_cte(added)
    )


def _append_in_postgres(batch: Sequence[Append], now: float, connection: Connection) -> _Heads:
    """See `_append_at_heads`."""
    rows = [(each, seq, new) for each in batch for seq, new in enumerate(each.updates, each.after.seq + 1)]
    values = {
        "ids": [each.document_id for each in batch],
        "asked_id": [each.document_id for each in batch],
        "asked_after": [each.after.seq for each in batch],
        "asked_after_commit": [each.after.commit for each in batch],
        "asked_last": [each.after.seq + len(each.updates) for each in batch],
        "asked_commit": [each.commit for each in batch],
        "new_document_id": [each.document_id for each, _, _ in rows],
        "new_seq": [seq for _, seq, _ in rows],
        "new_payload": [new.payload for _, _, new in rows],
        "new_user_id": [new.user_id for _, _, new in rows],
        "now": now,
    }
    left: dict[DocumentId, Head | None] = {each.document_id: None for each in batch}
    for document_id, seq, commit, is_appended in connection.execute(_at_heads(), values):
        if is_appended:
            del left[DocumentId(document_id)]
        else:
            left[DocumentId(document_id)] = Head(Seq(seq), CommitId(commit))
    return left
