"""The log and the stranded changes in memory: the reference that the contract tests hold every backend against.

No I/O and no awaits inside: each call is one step of the event loop, as a transaction is one step of a database.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from schemas.ids import CommitId, DocumentId, Seq, UserId
from storage.contracts import (
    Append,
    Appended,
    AppendResult,
    Diverged,
    Gone,
    NewUpdate,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
    StrandedChange,
)
from storage.segments import check_arguments

NO_COMMIT: Final = CommitId(0)


@dataclass(slots=True)
class _Row:
    update: StoredUpdate
    saved_at: float


@dataclass(slots=True)
class _Document:
    head: Seq
    commit: CommitId
    rows: dict[Seq, _Row] = field(default_factory=dict)
    segments: list[StoredSegment] = field(default_factory=list)
    commits: dict[CommitId, tuple[Seq, Seq]] = field(default_factory=dict)
    clients: set[tuple[int, UserId]] = field(default_factory=set)

    @property
    def covered(self) -> Seq:
        return self.segments[-1].last if self.segments else Seq(0)


class MemoryUpdateLog:
    """`UpdateLog` in memory. now: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._documents: dict[DocumentId, _Document] = {}
        self._now = now

    def create(self, document_id: DocumentId, first_update: bytes | None = None, commit: CommitId = NO_COMMIT) -> None:
        """Make a document: empty (head 0, commit 0), or with a first update as a new course has (head 1)."""
        document = self._documents[document_id] = _Document(Seq(0), CommitId(0))
        if first_update is not None:
            self._add(document, commit, [NewUpdate(first_update, None)])

    def remove(self, document_id: DocumentId) -> None:
        """Take a document away: from now on it is Gone."""
        self._documents.pop(document_id, None)

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        """See UL1 to UL4. ValueError: a document named twice in one batch, or an append without updates."""
        if len({each.document_id for each in batch}) != len(batch):
            raise ValueError("a document may appear once in a batch")
        if not all(each.updates for each in batch):
            raise ValueError("an append needs at least one update")
        return [self._append(each) for each in batch]

    def _append(self, append: Append) -> AppendResult:
        document = self._documents.get(append.document_id)
        if document is None:
            return Gone(append.document_id)
        before = document.commits.get(append.commit)
        if before is not None:
            return Appended(append.document_id, *before)
        if document.commit != append.expected:
            return Diverged(append.document_id)
        document.clients.update((each.client_id, each.user_id) for each in append.bindings)
        return Appended(append.document_id, *self._add(document, append.commit, append.updates))

    def _add(self, document: _Document, commit: CommitId, updates: Sequence[NewUpdate]) -> tuple[Seq, Seq]:
        first = Seq(document.head + 1)
        now = self._now()
        for seq, new in enumerate(updates, first):
            document.rows[Seq(seq)] = _Row(StoredUpdate(Seq(seq), new.payload), now)
        document.head = Seq(document.head + len(updates))
        document.commit = commit
        document.commits[commit] = (first, document.head)
        return first, document.head

    async def load(self, document_id: DocumentId) -> StoredDocument | None:
        """See UL5."""
        document = self._documents.get(document_id)
        if document is None:
            return None
        updates = self._updates(document, Seq(document.covered + 1), document.head)
        return StoredDocument(document_id, document.head, document.commit, list(document.segments), updates)

    async def add_segments(
        self, document_id: DocumentId, segments: Sequence[StoredSegment], replaces: Sequence[tuple[Seq, Seq]]
    ) -> bool:
        """See UL6. ValueError: the segments contradict themselves or do not cover what they replace."""
        place = check_arguments(segments, replaces)
        document = self._documents.get(document_id)
        if document is None or not place.fits([(each.first, each.last) for each in document.segments], document.head):
            return False
        kept = [each for each in document.segments if (each.first, each.last) not in place.replaces]
        document.segments = sorted([*kept, *segments], key=lambda each: each.first)
        return True

    async def purge_covered(self, document_id: DocumentId, saved_before: float, limit: int) -> int:
        """See UL7."""
        document = self._documents.get(document_id)
        if document is None:
            return 0
        old = [
            seq for seq, row in sorted(document.rows.items()) if seq <= document.covered and row.saved_at < saved_before
        ][:limit]
        for seq in old:
            del document.rows[seq]
        return len(old)

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]:
        """See UL8."""
        document = self._documents.get(document_id)
        return [] if document is None else self._updates(document, first, last)

    @staticmethod
    def _updates(document: _Document, first: Seq, last: Seq) -> list[StoredUpdate]:
        wanted = range(max(first, 1), min(last, document.head) + 1)
        return [document.rows[Seq(seq)].update for seq in wanted if seq in document.rows]


class MemoryStrandedChanges:
    """`StrandedChanges` in memory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[DocumentId, UserId, int], StrandedChange] = {}

    async def keep(self, change: StrandedChange) -> None:
        """See SC1, SC2."""
        self._kept[change.document_id, change.user_id, change.client_id] = change

    async def list_for(self, document_id: DocumentId) -> Sequence[StrandedChange]:
        """The changes kept for a document, by user and client."""
        keys = sorted(key for key in self._kept if key[0] == document_id)
        return [self._kept[key] for key in keys]
