"""The update log in SQL."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Final
from uuid import UUID

from sqlalchemy import Select, bindparam, delete, func, insert, or_, select, tuple_, update
from sqlalchemy.engine import Connection, Row

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import (
    BEGINNING,
    NO_COMMIT,
    Append,
    Appended,
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
from storage.dialects import insert_or, one_of
from storage.segments import Place, check_arguments
from storage.tables import document_clients, document_segments, document_updates, documents

_COMMITS_AT: Final = select(document_updates.c.document_id, document_updates.c.seq, document_updates.c.commit_id).where(
    tuple_(document_updates.c.document_id, document_updates.c.seq).in_(bindparam("places", expanding=True))
)
_MOVE_HEAD: Final = (
    update(documents)
    .where(documents.c.id == bindparam("document"))
    .values(head_seq=bindparam("head"), head_commit=bindparam("commit"))
)
_ADD_UPDATES: Final = insert(document_updates)

_Spot = tuple[DocumentId, Seq]
"""An update row's key."""


@cache
def _heads_of(dialect: str) -> Select[UUID, int, int]:
    table = documents.c
    return select(table.id, table.head_seq, table.head_commit).where(one_of(table.id, "ids", dialect))


@cache
def _locked_heads_of(dialect: str) -> Select[UUID, int, int]:
    # In id order: two batches that want the same documents wait for each other, and never both.
    return _heads_of(dialect).order_by(documents.c.id).with_for_update(key_share=True)


@cache
def _ends_of(dialect: str) -> Select[UUID, int, int]:
    """The last Seq that each of the commits gave, by document."""
    table = document_updates.c
    return (
        select(table.document_id, table.commit_id, func.max(table.seq))
        .where(one_of(table.commit_id, "commits", dialect))
        .group_by(table.document_id, table.commit_id)
    )


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
        return await self._database.read(partial(_heads, document_ids))

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


def _append(batch: Sequence[Append], now: float, connection: Connection) -> Sequence[AppendResult]:
    ids = [each.document_id for each in batch]
    heads = _as_heads(connection.execute(_locked_heads_of(connection.dialect.name), {"ids": ids}))
    earlier = _earlier(batch, heads, connection)
    commits = _commits_at(_doubtful(batch, heads, earlier), connection)
    results = [_place(each, heads.get(each.document_id), earlier, commits) for each in batch]
    fresh = [
        (each, result)
        for each, result in zip(batch, results, strict=True)
        if isinstance(result, Appended) and each.document_id not in earlier
    ]
    if fresh:
        _write(fresh, now, connection)
    return results


def _earlier(
    batch: Sequence[Append], heads: Mapping[DocumentId, Head], connection: Connection
) -> Mapping[DocumentId, tuple[Seq, Seq]]:
    """First and last Seq of those appends that the log has already (UL4)."""
    last = {
        (row[0], row[1]): Seq(row[2])
        for row in connection.execute(_ends_of(connection.dialect.name), {"commits": [each.commit for each in batch]})
    }
    found: dict[DocumentId, tuple[Seq, Seq]] = {}
    for each in batch:
        head = heads.get(each.document_id)
        if head is not None and head.commit == each.commit:
            seq = head.seq  # its rows may be purged already
        elif (each.document_id, each.commit) in last:
            seq = last[each.document_id, each.commit]
        else:
            continue
        # Counted back from the last: the oldest rows are purged first, so the first may be gone.
        found[each.document_id] = (Seq(seq - len(each.updates) + 1), Seq(seq))
    return found


def _doubtful(
    batch: Sequence[Append], heads: Mapping[DocumentId, Head], earlier: Mapping[DocumentId, tuple[Seq, Seq]]
) -> Sequence[_Spot]:
    """The rows that must be looked at to decide the batch: none as long as every appender knows the head."""
    spots: list[_Spot] = []
    for each in batch:
        if each.document_id in earlier:
            spots.append((each.document_id, Seq(earlier[each.document_id][0] - 1)))
        elif each.document_id in heads and each.after not in (BEGINNING, heads[each.document_id]):
            spots.append((each.document_id, each.after.seq))
    return spots


def _commits_at(spots: Sequence[_Spot], connection: Connection) -> Mapping[_Spot, CommitId]:
    """Which commits wrote the rows that are asked for; those that are not stored are left out."""
    if not spots:
        return {}
    return {(row[0], row[1]): CommitId(row[2]) for row in connection.execute(_COMMITS_AT, {"places": spots})}


def _commit_at(document_id: DocumentId, seq: Seq, connection: Connection) -> CommitId | None:
    return _commits_at([(document_id, seq)], connection).get((document_id, seq))


def _place(
    append: Append,
    head: Head | None,
    earlier: Mapping[DocumentId, tuple[Seq, Seq]],
    commits: Mapping[_Spot, CommitId],
) -> AppendResult:
    """Where this append stands, or goes."""
    document_id, after = append.document_id, append.after
    if head is None:
        return Gone(document_id)
    if document_id in earlier:
        first, last = earlier[document_id]
        return Appended(
            document_id, first, last, NO_COMMIT if first == 1 else commits.get((document_id, Seq(first - 1)))
        )
    if not _holds(after, head, commits.get((document_id, after.seq))):
        return Diverged(document_id)
    return Appended(document_id, Seq(head.seq + 1), Seq(head.seq + len(append.updates)), head.commit)


def _holds(place: Head, head: Head, written_by: CommitId | None) -> bool:
    """Whether a log with this head holds `place`. written_by: the commit of the stored row of that Seq."""
    return place in (BEGINNING, head) or written_by == place.commit


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
        connection.execute(insert_or(document_clients, connection).on_conflict_do_nothing(), bindings)


def _as_heads(rows: Iterable[Row[UUID, int, int]]) -> dict[DocumentId, Head]:
    return {DocumentId(row[0]): Head(Seq(row[1]), CommitId(row[2])) for row in rows}


def _heads(document_ids: Sequence[DocumentId], connection: Connection) -> Mapping[DocumentId, Head]:
    return _as_heads(connection.execute(_heads_of(connection.dialect.name), {"ids": list(document_ids)}))


def _head(document_id: DocumentId, connection: Connection, *, lock: bool = False) -> Head | None:
    query = _locked_heads_of if lock else _heads_of
    return _as_heads(connection.execute(query(connection.dialect.name), {"ids": [document_id]})).get(document_id)


def _load(document_id: DocumentId, connection: Connection) -> StoredDocument | None:
    head = _head(document_id, connection)
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
    head = _head(document_id, connection)
    if head is None:
        return Gone(document_id)
    if not _holds(after, head, _commit_at(document_id, after.seq, connection)):
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
    head = _head(document_id, connection, lock=True)
    if head is None or not _holds(at, head, _commit_at(document_id, at.seq, connection)):
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
