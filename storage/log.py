"""The update log in SQL."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from schemas.ids import CommitId, DocumentId, Seq
from storage.append import append
from storage.contracts import (
    Append,
    AppendResult,
    Changes,
    Diverged,
    Gone,
    Head,
    StorageError,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
)
from storage.database import SqlDatabase
from storage.heads import commit_at, holds, read_head, read_heads
from storage.segments import Place, check_arguments
from storage.tables import document_segments, document_updates, documents


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
        return await self._database.write(partial(append, batch, self._now()))

    async def load(self, document_id: DocumentId) -> StoredDocument | None:
        """See UL5. StorageError: the stored log has a hole, which no rule of ours can make."""
        return await self._database.read(partial(_load, document_id))

    async def add_segments(
        self,
        document_id: DocumentId,
        segments: Sequence[StoredSegment],
        replaces: Sequence[tuple[Seq, Seq]],
        at: Head,
    ) -> bool:
        """See UL6. ValueError: the segments contradict themselves or do not cover what they replace."""
        place = check_arguments(segments, replaces)
        return await self._database.write(partial(_add_segments, document_id, place, segments, at, self._now()))

    async def purge_covered(self, document_id: DocumentId, saved_before: float, limit: int) -> int:
        """See UL7."""
        return await self._database.write(partial(_purge_covered, document_id, saved_before, limit))

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]:
        """See UL8."""
        return await self._database.read(partial(_updates, document_id, first, last))

    async def heads(self, document_ids: Sequence[DocumentId]) -> Mapping[DocumentId, Head]:
        """See UL9."""
        if not document_ids:
            return {}
        return await self._database.read(partial(read_heads, document_ids))

    async def changes(self, document_id: DocumentId, after: Head, limit: int) -> Changes | Diverged | Gone:
        """See UL10."""
        return await self._database.read(partial(_changes, document_id, after, limit))

    async def to_sweep(self, after: DocumentId | None, uncovered: int, limit: int) -> Sequence[DocumentId]:
        """See UL11."""
        table = documents.c
        wanted = or_(table.head_seq - table.covered_seq >= uncovered, table.purged_seq < table.covered_seq)
        query = select(table.id).where(wanted, table.read_only_reason.is_(None)).order_by(table.id).limit(limit)
        if after is not None:
            query = query.where(table.id > after)
        return await self._database.read(lambda connection: connection.scalars(query).all())


def _load(document_id: DocumentId, connection: Connection) -> StoredDocument | None:
    head = read_head(document_id, connection)
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
    updates = _updates(document_id, Seq(covered + 1), head.seq, connection)
    if len(updates) != head.seq - covered:
        raise StorageError(f"the log of document {document_id} lacks updates between {covered + 1} and {head.seq}")
    return StoredDocument(document_id, head, segments, updates)


def _updates(document_id: DocumentId, first: Seq, last: Seq, connection: Connection) -> Sequence[StoredUpdate]:
    table = document_updates.c
    rows = connection.execute(
        select(table.seq, table.payload)
        .where(table.document_id == document_id, table.seq.between(first, last))
        .order_by(table.seq)
    )
    return [StoredUpdate(Seq(row[0]), row[1]) for row in rows]


def _changes(document_id: DocumentId, after: Head, limit: int, connection: Connection) -> Changes | Diverged | Gone:
    head = read_head(document_id, connection)
    if head is None:
        return Gone(document_id)
    if not holds(after, head, commit_at(document_id, after.seq, connection)):
        return Diverged(document_id)
    last = min(head.seq, after.seq + limit)
    table = document_updates.c
    rows = connection.execute(
        select(table.seq, table.payload, table.commit_id)
        .where(table.document_id == document_id, table.seq.between(after.seq + 1, last))
        .order_by(table.seq)
    ).all()
    if len(rows) != last - after.seq:
        return Diverged(document_id)
    newest = Head(Seq(rows[-1][0]), CommitId(rows[-1][2])) if rows else after
    return Changes(newest, [StoredUpdate(Seq(row[0]), row[1]) for row in rows])


def _add_segments(
    document_id: DocumentId,
    place: Place,
    segments: Sequence[StoredSegment],
    at: Head,
    now: float,
    connection: Connection,
) -> bool:
    head = read_head(document_id, connection, lock=True)
    if head is None or not holds(at, head, commit_at(document_id, at.seq, connection)):
        return False
    if _awaits_repair(document_id, connection):
        return False
    table = document_segments.c
    stored = [
        (Seq(row[0]), Seq(row[1]))
        for row in connection.execute(
            select(table.first_seq, table.last_seq).where(table.document_id == document_id).order_by(table.first_seq)
        )
    ]
    if not place.fits(stored, head.seq):
        return False
    if place.replaces:
        connection.execute(
            delete(document_segments).where(
                table.document_id == document_id, table.first_seq.in_([first for first, _ in place.replaces])
            )
        )
    _write_segments(document_id, segments, now, connection)
    connection.execute(
        update(documents)
        .where(documents.c.id == document_id, documents.c.covered_seq < place.last)
        .values(covered_seq=place.last)
    )
    return True


def _write_segments(
    document_id: DocumentId, segments: Sequence[StoredSegment], now: float, connection: Connection
) -> None:
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


def _awaits_repair(document_id: DocumentId, connection: Connection) -> bool:
    """Whether a damaged document's rows are still needed: a segment of what integrates now would not hold them all."""
    reason = select(documents.c.read_only_reason).where(documents.c.id == document_id)
    return connection.scalar(reason) is not None


def _purge_covered(document_id: DocumentId, saved_before: float, limit: int, connection: Connection) -> int:
    covered = connection.scalar(
        select(func.max(document_segments.c.last_seq)).where(document_segments.c.document_id == document_id)
    )
    if covered is None or _awaits_repair(document_id, connection):
        return 0
    table = document_updates.c
    oldest = (
        select(table.seq)
        .where(table.document_id == document_id, table.seq <= covered, table.saved_at < saved_before)
        .order_by(table.seq)
        .limit(limit)
    )
    purged = connection.execute(
        delete(document_updates).where(table.document_id == document_id, table.seq.in_(oldest.scalar_subquery()))
    ).rowcount
    if purged:
        _note_purged(document_id, covered, connection)
    return purged


def _note_purged(document_id: DocumentId, covered: int, connection: Connection) -> None:
    """Move `purged_seq` up to the last row before the first that is left."""
    table = document_updates.c
    left = connection.scalar(select(func.min(table.seq)).where(table.document_id == document_id, table.seq <= covered))
    purged = covered if left is None else left - 1
    connection.execute(
        update(documents)
        .where(documents.c.id == document_id, documents.c.purged_seq < purged)
        .values(purged_seq=purged)
    )
