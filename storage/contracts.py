"""The contracts of the stores that the sync path depends on. One suite in tests/contracts runs over every backend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.ids import CommitId, DocumentId, Seq, UserId


class StorageError(Exception):
    """Root of what a store raises."""


class StorageUnavailable(StorageError):
    """The database cannot be reached, is full, locked or failing: nothing was decided, try again later."""


@dataclass(frozen=True, slots=True)
class NewUpdate:
    """One accepted update on its way into the log. user_id: who sent it; None: the server itself."""

    payload: bytes
    user_id: UserId | None


@dataclass(frozen=True, slots=True)
class ClientBinding:
    """`client_id` (a Yjs client id, up to 2^53-1) was seen writing for `user_id` (R15)."""

    client_id: int
    user_id: UserId


@dataclass(frozen=True, slots=True)
class Append:
    """Updates of one document, in order, to be given the next Seqs.

    expected: the commit id the appender last saw at the head of this document.
    commit: a fresh random commit id; appending it twice is the same as once (UL4).
    """

    document_id: DocumentId
    expected: CommitId
    commit: CommitId
    updates: Sequence[NewUpdate]
    bindings: Sequence[ClientBinding] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """The updates are on disk: the first has Seq `first`, the last `last`."""

    document_id: DocumentId
    first: Seq
    last: Seq


@dataclass(frozen=True, slots=True)
class Diverged:
    """The head is not what the appender expected (R9): nothing of this document was appended."""

    document_id: DocumentId


@dataclass(frozen=True, slots=True)
class Gone:
    """The document does not exist (any more): nothing was appended, and nothing ever will be."""

    document_id: DocumentId


AppendResult = Appended | Diverged | Gone


@dataclass(frozen=True, slots=True)
class StoredUpdate:
    seq: Seq
    payload: bytes


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
    head: Seq
    commit: CommitId
    segments: Sequence[StoredSegment]
    updates: Sequence[StoredUpdate]


class UpdateLog(Protocol):
    """The log of client updates: the truth (R2).

    UL1  Seqs of a document are 1, 2, 3 … without gaps, in commit order; the first append gets 1.
    UL2  `append` is one transaction over all documents of the batch, locked in id order: when it returns, every
         Appended is committed and synced to disk; when it raises StorageUnavailable, each document's part is either
         wholly there or wholly absent, and calling again with the same commit ids is safe.
    UL3  An append whose `expected` is not the head's commit id appends nothing and gives Diverged; a document that
         does not exist gives Gone; neither disturbs the other documents of the batch.
    UL4  An append whose `commit` is already in the document's log appends nothing and gives Appended with the Seqs
         it got the first time.
    UL5  `load` sees one moment: segments are disjoint, ordered and followed by exactly the updates that they do not
         cover; together they cover 1..head. None: no such document.
    UL6  `add_segments` puts segments over updates or older segments that are exactly covered by them. It never
         removes an update row. It is fenced: when the stored segments at that place are not the ones named in
         `replaces`, nothing changes and it gives False.
    UL7  `purge_covered` removes raw update rows that a segment covers and that were saved before the given moment,
         at most `limit` at a time; it gives how many. A load before and after it holds the same content.
    UL8  `history` gives raw updates first..last that are still stored, in order: for repair and inspection.
    """

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]: ...

    async def load(self, document_id: DocumentId) -> StoredDocument | None: ...

    async def add_segments(
        self, document_id: DocumentId, segments: Sequence[StoredSegment], replaces: Sequence[tuple[Seq, Seq]]
    ) -> bool: ...

    async def purge_covered(self, document_id: DocumentId, saved_before: float, limit: int) -> int: ...

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]: ...


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
