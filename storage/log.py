"""The update log in SQL."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or
from sqlalchemy.engine import Connection

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import (
    Append,
    Appended,
    AppendResult,
    Diverged,
    Gone,
    StorageError,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
)
from storage.database import SqlDatabase
from storage.segments import Place, check_arguments
from storage.tables import document_clients, document_segments, document_updates, documents

_HEADS: Final = (
    select(documents.c.id, documents.c.head_seq, documents.c.head_commit)
    .where(documents.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(documents.c.id)
    .with_for_update()
)
_EARLIER_COMMITS: Final = (
    select(
        document_updates.c.document_id,
        document_updates.c.commit_id,
        func.min(document_updates.c.seq),
        func.max(document_updates.c.seq),
    )
    .where(document_updates.c.commit_id.in_(bindparam("commits", expanding=True)))
    .group_by(document_updates.c.document_id, document_updates.c.commit_id)
)
_MOVE_HEAD: Final = (
    update(documents)
    .where(documents.c.id == bindparam("document"))
    .values(head_seq=bindparam("head"), head_commit=bindparam("commit"))
)
_ADD_UPDATES: Final = insert(document_updates)
_BIND_CLIENTS: Final = insert_or(document_clients).on_conflict_do_nothing()


@dataclass(frozen=True, slots=True)
class _Head:
    seq: int
    commit: int


class SqlUpdateLog:
    """`UpdateLog` on a database. now: seconds since 1970, for `saved_at`."""

    def __init__(self, database: SqlDatabase, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See UL1 to UL4. ValueError: a document named twice in one batch, or an append without updates."""
        if len({each.document_id for each in batch}) != len(batch):
            raise ValueError("a document may appear once in a batch")
        if not all(each.updates for each in batch):
            raise ValueError("an append needs at least one update")
        if not batch:
            return ()
        return await self._database.write(partial(_append, batch, self._now()))

    async def load(self, document_id: DocumentId) -> StoredDocument | None:
        """See UL5. StorageError: the stored log has a hole, which no rule of ours can make."""
        return await self._database.read(partial(_load, document_id))

    async def add_segments(
        self, document_id: DocumentId, segments: Sequence[StoredSegment], replaces: Sequence[tuple[Seq, Seq]]
    ) -> bool:
        """See UL6. ValueError: the segments contradict themselves or do not cover what they replace."""
        place = check_arguments(segments, replaces)
        return await self._database.write(partial(_add_segments, document_id, place, segments, self._now()))

    async def purge_covered(self, document_id: DocumentId, saved_before: float, limit: int) -> int:
        """See UL7."""
        return await self._database.write(partial(_purge_covered, document_id, saved_before, limit))

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]:
        """See UL8."""
        return await self._database.read(partial(_updates, document_id, first, last))


def _append(batch: Sequence[Append], now: float, connection: Connection) -> Sequence[AppendResult]:
    ids = [each.document_id for each in batch]
    heads = {row[0]: _Head(row[1], row[2]) for row in connection.execute(_HEADS, {"ids": ids})}
    earlier = {
        (row[0], row[1]): (Seq(row[2]), Seq(row[3]))
        for row in connection.execute(_EARLIER_COMMITS, {"commits": [each.commit for each in batch]})
    }
    results = [_place(each, heads.get(each.document_id), earlier) for each in batch]
    fresh = [
        (each, result)
        for each, result in zip(batch, results, strict=True)
        if isinstance(result, Appended) and (each.document_id, each.commit) not in earlier
    ]
    if fresh:
        _write(fresh, now, connection)
    return results


def _place(
    append: Append, head: _Head | None, earlier: Mapping[tuple[DocumentId, int], tuple[Seq, Seq]]
) -> AppendResult:
    """Where this append stands, or goes."""
    if head is None:
        return Gone(append.document_id)
    before = earlier.get((append.document_id, append.commit))
    if before is not None:
        return Appended(append.document_id, *before)
    if head.commit != append.expected:
        return Diverged(append.document_id)
    return Appended(append.document_id, Seq(head.seq + 1), Seq(head.seq + len(append.updates)))


def _write(fresh: Sequence[tuple[Append, Appended]], now: float, connection: Connection) -> None:
    connection.execute(
        _MOVE_HEAD,
        [{"document": each.document_id, "head": at.last, "commit": each.commit} for each, at in fresh],
    )
    connection.execute(
        _ADD_UPDATES,
        [
            {
                "document_id": each.document_id,
                "seq": at.first + offset,
                "payload": new.payload,
                "user_id": new.user_id,
                "commit_id": each.commit,
                "saved_at": now,
            }
            for each, at in fresh
            for offset, new in enumerate(each.updates)
        ],
    )
    bindings = [
        {"document_id": each.document_id, "client_id": seen.client_id, "user_id": seen.user_id, "bound_at": now}
        for each, _ in fresh
        for seen in each.bindings
    ]
    if bindings:
        connection.execute(_BIND_CLIENTS, bindings)


def _load(document_id: DocumentId, connection: Connection) -> StoredDocument | None:
    head = connection.execute(
        select(documents.c.head_seq, documents.c.head_commit).where(documents.c.id == document_id)
    ).first()
    if head is None:
        return None
    table = document_segments.c
    segments = [
        StoredSegment(Seq(row[0]), Seq(row[1]), row[2], row[3])
        for row in connection.execute(
            select(table.first_seq, table.last_seq, table.payload, table.summary)
            .where(table.document_id == document_id)
            .order_by(table.first_seq)
        )
    ]
    covered = segments[-1].last if segments else Seq(0)
    updates = _updates(document_id, Seq(covered + 1), head[0], connection)
    if len(updates) != head[0] - covered:
        raise StorageError(f"the log of document {document_id} lacks updates between {covered + 1} and {head[0]}")
    return StoredDocument(document_id, Seq(head[0]), CommitId(head[1]), segments, updates)


def _updates(document_id: DocumentId, first: Seq, last: Seq, connection: Connection) -> Sequence[StoredUpdate]:
    table = document_updates.c
    rows = connection.execute(
        select(table.seq, table.payload)
        .where(table.document_id == document_id, table.seq.between(first, last))
        .order_by(table.seq)
    )
    return [StoredUpdate(Seq(row[0]), row[1]) for row in rows]


def _add_segments(
    document_id: DocumentId, place: Place, segments: Sequence[StoredSegment], now: float, connection: Connection
) -> bool:
    head = connection.scalar(select(documents.c.head_seq).where(documents.c.id == document_id).with_for_update())
    table = document_segments.c
    stored = [
        (Seq(row[0]), Seq(row[1]))
        for row in connection.execute(
            select(table.first_seq, table.last_seq).where(table.document_id == document_id).order_by(table.first_seq)
        )
    ]
    if head is None or not place.fits(stored, head):
        return False
    if place.replaces:
        connection.execute(
            delete(document_segments).where(
                table.document_id == document_id, table.first_seq.in_([first for first, _ in place.replaces])
            )
        )
    connection.execute(
        insert(document_segments),
        [
            {
                "document_id": document_id,
                "first_seq": each.first,
                "last_seq": each.last,
                "payload": each.payload,
                "summary": each.summary,
                "saved_at": now,
            }
            for each in segments
        ],
    )
    return True


def _purge_covered(document_id: DocumentId, saved_before: float, limit: int, connection: Connection) -> int:
    covered = connection.scalar(
        select(func.max(document_segments.c.last_seq)).where(document_segments.c.document_id == document_id)
    )
    if covered is None:
        return 0
    table = document_updates.c
    oldest = (
        select(table.seq)
        .where(table.document_id == document_id, table.seq <= covered, table.saved_at < saved_before)
        .order_by(table.seq)
        .limit(limit)
    )
    return connection.execute(
        delete(document_updates).where(table.document_id == document_id, table.seq.in_(oldest.scalar_subquery()))
    ).rowcount
