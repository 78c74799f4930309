"""Looking at a log as it lies in the database, also when it is damaged, and repairing it.

Nothing is thrown away: what is taken out of a log moves to `quarantined_updates`, from where it can be put back.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import time
from typing import Final

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import Head, StoredSegment, StoredUpdate
from storage.database import SqlDatabase
from storage.dialects import insert_or
from storage.tables import document_clients, document_segments, document_updates, documents, quarantined_updates, users

EMPTY_UPDATE: Final = b"\x00\x00"
"""What stands in the place of a quarantined update: the Yjs update (V1) that holds nothing."""

_LAST_WRITERS: Final = 5


@dataclass(frozen=True, slots=True)
class Named:
    """A document and its name."""

    id: DocumentId
    name: str


@dataclass(frozen=True, slots=True)
class Writer:
    """Who saved one of the newest updates. name: None for the server itself and for people who are gone."""

    seq: Seq
    name: str | None
    saved_at: float


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An update that was taken out of its log. size: bytes. quarantined_at: seconds since 1970."""

    seq: Seq
    size: int
    reason: str
    quarantined_at: float


@dataclass(frozen=True, slots=True)
class LogFacts:
    """A document's log without its content. clients: how many client ids are bound to users; writers: newest first."""

    name: str
    head: Head
    covered_seq: Seq
    purged_seq: Seq
    derived_seq: Seq
    read_only_reason: str | None
    clients: int
    writers: Sequence[Writer]
    quarantined: Sequence[Quarantined]


@dataclass(frozen=True, slots=True)
class LogContent:
    """A document's log of one moment, whatever state it is in.

    segments, updates: in order, everything that is stored, also rows that a segment covers. head_row: the commit of the head's
    row; None when that is not stored. quarantined: the Seqs of updates that were taken out.
    """

    head: Head
    head_row: CommitId | None
    covered_seq: Seq
    segments: Sequence[StoredSegment]
    updates: Sequence[StoredUpdate]
    quarantined: frozenset[Seq]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An update of which a rebuilt log does not hold everything."""

    seq: Seq
    reason: str


class Repair:
    """The store of whoever repairs logs. now: seconds since 1970."""

    def __init__(self, database: SqlDatabase, now: Callable[[], float] = time) -> None:
        self._database = database
        self._now = now

    async def documents(self, after: DocumentId | None, limit: int) -> Sequence[Named]:
        """At most `limit` documents, in order of their ids and after `after`."""
        query = select(documents.c.id, documents.c.name).order_by(documents.c.id).limit(limit)
        if after is not None:
            query = query.where(documents.c.id > after)
        return await self._database.read(
            lambda connection: [Named(DocumentId(row[0]), row[1]) for row in connection.execute(query)]
        )

    async def facts(self, document_id: DocumentId) -> LogFacts | None:
        """What is known of a log without reading its content. None: no such document."""
        return await self._database.read(partial(_facts, document_id))

    async def content(self, document_id: DocumentId) -> LogContent | None:
        """Everything that is stored of a log. None: no such document."""
        return await self._database.read(partial(_content, document_id))

    async def quarantine(self, document_id: DocumentId, seq: Seq, reason: str) -> bool:
        """Take an update out: an empty one stands in its place, and the document is read-only from now on.

        False: no such update is stored, or it is out already; nothing was changed.
        """
        return await self._database.write(partial(_quarantine, document_id, seq, reason, self._now()))

    async def restore(self, document_id: DocumentId, seq: Seq) -> bool:
        """Put an update back where it was; with the last one the document can be written again.

        False: this update was not taken out; nothing was changed.
        """
        return await self._database.write(partial(_restore, document_id, seq, self._now()))

    async def replace_segments(
        self, document_id: DocumentId, at: Head, segment: StoredSegment, left_out: Sequence[LeftOut]
    ) -> bool:
        """Put one segment in the place of the whole log up to `at`, and let the document be written again.

        Update rows stay; those that the segment does not wholly hold are also kept in quarantine, since covered rows are purged
        in time. The head gets another commit id, so that rooms which hold more than the log notice and offer it again (R9).
        False: `at` is not the head any more; nothing was changed.
        """
        return await self._database.write(partial(_replace_segments, document_id, at, segment, left_out, self._now()))


def _lock(document_id: DocumentId, connection: Connection) -> Head | None:
    row = connection.execute(
        select(documents.c.head_seq, documents.c.head_commit).where(documents.c.id == document_id).with_for_update()
    ).first()
    return None if row is None else Head(Seq(row[0]), CommitId(row[1]))


def _facts(document_id: DocumentId, connection: Connection) -> LogFacts | None:
    table = documents.c
    row = connection.execute(
        select(
            table.name,
            table.head_seq,
            table.head_commit,
            table.covered_seq,
            table.purged_seq,
            table.derived_seq,
            table.read_only_reason,
        ).where(table.id == document_id)
    ).first()
    if row is None:
        return None
    updates, taken_out = document_updates.c, quarantined_updates.c
    writers = connection.execute(
        select(updates.seq, users.c.name, updates.saved_at)
        .join_from(document_updates, users, users.c.id == updates.user_id, isouter=True)
        .where(updates.document_id == document_id)
        .order_by(updates.seq.desc())
        .limit(_LAST_WRITERS)
    )
    quarantined = connection.execute(
        select(taken_out.seq, func.length(taken_out.payload), taken_out.reason, taken_out.quarantined_at)
        .where(taken_out.document_id == document_id)
        .order_by(taken_out.seq)
    )
    bound = select(func.count(document_clients.c.client_id.distinct())).where(
        document_clients.c.document_id == document_id
    )
    return LogFacts(
        name=row[0],
        head=Head(Seq(row[1]), CommitId(row[2])),
        covered_seq=Seq(row[3]),
        purged_seq=Seq(row[4]),
        derived_seq=Seq(row[5]),
        read_only_reason=row[6],
        clients=connection.scalar(bound) or 0,
        writers=[Writer(Seq(each[0]), each[1], each[2]) for each in writers],
        quarantined=[Quarantined(Seq(each[0]), each[1], each[2], each[3]) for each in quarantined],
    )


def _content(document_id: DocumentId, connection: Connection) -> LogContent | None:
    row = connection.execute(
        select(documents.c.head_seq, documents.c.head_commit, documents.c.covered_seq).where(
            documents.c.id == document_id
        )
    ).first()
    if row is None:
        return None
    segments, updates, taken_out = document_segments.c, document_updates.c, quarantined_updates.c
    stored = connection.execute(
        select(segments.first_seq, segments.last_seq, segments.payload, segments.summary)
        .where(segments.document_id == document_id)
        .order_by(segments.first_seq)
    ).all()
    rows = connection.execute(
        select(updates.seq, updates.payload, updates.commit_id)
        .where(updates.document_id == document_id)
        .order_by(updates.seq)
    ).all()
    quarantined = connection.scalars(select(taken_out.seq).where(taken_out.document_id == document_id))
    return LogContent(
        head=Head(Seq(row[0]), CommitId(row[1])),
        head_row=next((CommitId(each[2]) for each in reversed(rows) if each[0] == row[0]), None),
        covered_seq=Seq(row[2]),
        segments=[StoredSegment(Seq(each[0]), Seq(each[1]), each[2], each[3]) for each in stored],
        updates=[StoredUpdate(Seq(each[0]), each[1]) for each in rows],
        quarantined=frozenset(Seq(each) for each in quarantined),
    )


def _quarantine(document_id: DocumentId, seq: Seq, reason: str, now: float, connection: Connection) -> bool:
    if _lock(document_id, connection) is None or not _keep(document_id, [LeftOut(seq, reason)], now, connection):
        return False
    table = document_updates.c
    connection.execute(
        update(document_updates).where(table.document_id == document_id, table.seq == seq).values(payload=EMPTY_UPDATE)
    )
    connection.execute(
        update(documents)
        .where(documents.c.id == document_id)
        .values(read_only_reason=f"update {seq} is in quarantine", derived_seq=0)
    )
    return True


def _keep(document_id: DocumentId, left_out: Sequence[LeftOut], now: float, connection: Connection) -> int:
    """Copy update rows into quarantine, unless they are there; give how many were copied."""
    table = document_updates.c
    copied = 0
    for each in left_out:
        row = select(table.document_id, table.seq, table.payload, table.user_id, table.commit_id, table.saved_at).where(
            table.document_id == document_id, table.seq == each.seq
        )
        found = connection.execute(row).mappings().first()
        if found is not None:
            values = {**found, "reason": each.reason, "quarantined_at": now}
            adding = insert_or(quarantined_updates, connection).values(values).on_conflict_do_nothing()
            copied += connection.execute(adding).rowcount
    return copied


def _restore(document_id: DocumentId, seq: Seq, now: float, connection: Connection) -> bool:
    head = _lock(document_id, connection)
    taken_out = quarantined_updates.c
    place = (taken_out.document_id == document_id, taken_out.seq == seq)
    query = select(taken_out.payload, taken_out.user_id, taken_out.commit_id).where(*place)
    row = None if head is None else connection.execute(query).mappings().first()
    if head is None or row is None:
        return False
    # Saved anew, in a way: a covered row is purged in time, and this one is to be read by the next rebuild.
    values = {**row, "saved_at": now}
    table = document_updates.c
    there = update(document_updates).where(table.document_id == document_id, table.seq == seq)
    if not connection.execute(there.values(payload=row["payload"], saved_at=now)).rowcount:
        connection.execute(insert(document_updates).values(document_id=document_id, seq=seq, **values))
    connection.execute(delete(quarantined_updates).where(*place))
    left = select(taken_out.seq).where(taken_out.document_id == document_id).exists()
    connection.execute(
        update(documents).where(documents.c.id == document_id, ~left).values(read_only_reason=None, derived_seq=0)
    )
    _rename_head(document_id, head, connection)
    return True


def _replace_segments(
    document_id: DocumentId,
    at: Head,
    segment: StoredSegment,
    left_out: Sequence[LeftOut],
    now: float,
    connection: Connection,
) -> bool:
    if _lock(document_id, connection) != at:
        return False
    _keep(document_id, left_out, now, connection)
    connection.execute(delete(document_segments).where(document_segments.c.document_id == document_id))
    connection.execute(
        insert(document_segments).values(
            document_id=document_id,
            first_seq=segment.first,
            last_seq=segment.last,
            payload=segment.payload,
            summary=segment.summary,
            saved_at=now,
        )
    )
    connection.execute(
        update(documents)
        .where(documents.c.id == document_id)
        .values(covered_seq=segment.last, derived_seq=0, read_only_reason=None)
    )
    _rename_head(document_id, at, connection)
    return True


def _rename_head(document_id: DocumentId, head: Head, connection: Connection) -> None:
    """Give the head another commit id: open rooms then see that this is not the log that they have followed (R9)."""
    commit = secrets.randbelow(2**63 - 1) + 1
    connection.execute(update(documents).where(documents.c.id == document_id).values(head_commit=commit))
    table = document_updates.c
    connection.execute(
        update(document_updates).where(table.document_id == document_id, table.seq == head.seq).values(commit_id=commit)
    )
