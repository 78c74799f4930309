"""The contracts of the stores that the sync path depends on. One suite in tests/contracts runs over every backend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from schemas.ids import CommitId, DocumentId, Seq, UserId


class StorageError(Exception):
    """Root of what a store raises."""


class StorageUnavailable(StorageError):
    """The database cannot be reached, is full, locked or failing: nothing was decided, try again later."""


class NewUpdate(NamedTuple):
    """One accepted update on its way into the log. user_id: who sent it; None: the server itself."""

    payload: bytes
    user_id: UserId | None


@dataclass(frozen=True, slots=True)
class ClientBinding:
    """`client_id` (a Yjs client id, up to 2^53-1) was seen writing for `user_id` (R15)."""

    client_id: int
    user_id: UserId


@dataclass(frozen=True, slots=True)
class Head:
    """A place in a document's log: the update `seq`, which the commit with the random id `commit` wrote.

    Seqs alone do not tell whether a log is the one that was seen before: after a failover or from a restored backup the same
    numbers are given again, to other updates (R9). The place before the first update is Seq 0 of commit NO_COMMIT.
    """

    seq: Seq
    commit: CommitId


NO_COMMIT: Final = CommitId(0)
BEGINNING: Final = Head(Seq(0), NO_COMMIT)


@dataclass(frozen=True, slots=True)
class Append:
    """Updates of one document, in order, to be given the next Seqs.

    after: the newest place in the log that the appender knows. commit: a fresh random id, never NO_COMMIT; appending it twice
    is the same as once (UL4).
    """

    document_id: DocumentId
    after: Head
    commit: CommitId
    updates: Sequence[NewUpdate]
    bindings: Sequence[ClientBinding] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """The updates are on disk: the first has Seq `first`, the last `last`.

    Others may have appended between the appender's `after` and `first`. previous: the id of the commit that wrote update
    `first` - 1, NO_COMMIT when there is none; None: that is no longer known.
    """

    document_id: DocumentId
    first: Seq
    last: Seq
    previous: CommitId | None


@dataclass(frozen=True, slots=True)
class Diverged:
    """The log does not hold the place that was named, or no longer knows it (R9): nothing of this document was changed."""

    document_id: DocumentId


@dataclass(frozen=True, slots=True)
class Gone:
    """The document does not exist (any more): nothing was appended, and nothing ever will be."""

    document_id: DocumentId


AppendResult = Appended | Diverged | Gone


class StoredUpdate(NamedTuple):
    """One update of a log, as it was taken."""

    seq: Seq
    payload: bytes


@dataclass(frozen=True, slots=True)
class Changes:
    """Updates that follow a place in a log, in order. head: the place of the last of them, else the place that was named."""

    head: Head
    updates: Sequence[StoredUpdate]


@dataclass(frozen=True, slots=True)
class StoredSegment:
    """The updates first..last merged into one update. summary: what a room must know of it, versioned bytes."""

    first: Seq
    last: Seq
    payload: bytes
    summary: bytes


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """All there is to open a document: segments in order of `first`, then the updates after the last of them."""

    document_id: DocumentId
    head: Head
    segments: Sequence[StoredSegment]
    updates: Sequence[StoredUpdate]


class UpdateLog(Protocol):
    """The log of client updates: the truth (R2).

    UL1  Seqs of a document are 1, 2, 3 … without gaps, in commit order; the first append gets 1.
    UL2  `append` is one transaction over all documents of the batch, locked in id order: when it returns, every
         Appended is committed and synced to disk; when it raises StorageUnavailable, each document's part is either
         wholly there or wholly absent, and calling again with the same commit ids is safe.
    UL3  An append whose `after` the log does not hold appends nothing and gives Diverged; a document that does not exist
         gives Gone; neither disturbs the other documents of the batch. A log *holds* a place when it is the BEGINNING or the
         head, or when the update row of its Seq is stored and was written by its commit. Others may have appended behind it:
         that is no harm.
    UL4  An append whose `commit` is already in the document's log appends nothing and gives Appended with the Seqs
         it got the first time.
    UL5  `load` sees one moment: segments are disjoint, ordered and followed by exactly the updates that they do not
         cover; together they cover 1..head. None: no such document.
    UL6  `add_segments` puts segments over updates or older segments that are exactly covered by them. It never
         removes an update row. It is fenced on the head row: when the stored segments at that place are not the ones named in
         `replaces`, or the log does not hold `at` (the head that the segments were computed from), nothing changes and it
         gives False.
    UL7  `purge_covered` removes raw update rows that a segment covers and that were saved before the given moment,
         at most `limit` at a time; it gives how many. A load before and after it holds the same content.
    UL8  `history` gives raw updates first..last that are still stored, in order: for repair and inspection.
    UL9  `heads` gives the heads of all documents that are named and exist, in one query, each as of some moment after the call.
    UL10 `changes` gives at most `limit` updates after a place that the log holds, all of one moment; Diverged when the log
         does not hold the place or the next updates are no longer stored as rows; Gone when there is no such document.
    UL11 `to_sweep` gives at most `limit` ids, in order and after `after`, of documents that have at least `uncovered` updates
         behind their segments, or rows that a segment covers.
    """

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]: ...

    async def load(self, document_id: DocumentId) -> StoredDocument | None: ...

    async def add_segments(
        self,
        document_id: DocumentId,
        segments: Sequence[StoredSegment],
        replaces: Sequence[tuple[Seq, Seq]],
        at: Head,
    ) -> bool: ...

    async def purge_covered(self, document_id: DocumentId, saved_before: float, limit: int) -> int: ...

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]: ...

    async def heads(self, document_ids: Sequence[DocumentId]) -> Mapping[DocumentId, Head]: ...

    async def changes(self, document_id: DocumentId, after: Head, limit: int) -> Changes | Diverged | Gone: ...

    async def to_sweep(self, after: DocumentId | None, uncovered: int, limit: int) -> Sequence[DocumentId]: ...


@dataclass(frozen=True, slots=True)
class StrandedChange:
    """A write that was refused and kept aside (R10). reason: a word of the close table, such as "forbidden"."""

    document_id: DocumentId
    user_id: UserId
    client_id: int
    payload: bytes
    reason: str


class StrandedChanges(Protocol):
    """Refused writes.

    SC1  One per (document, user, client); a newer one replaces the older.
    SC2  `keep` is durable on return.
    """

    async def keep(self, change: StrandedChange) -> None: ...

    async def list_for(self, document_id: DocumentId) -> Sequence[StrandedChange]: ...
