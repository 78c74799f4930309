"""The log and the stranded changes in memory: the reference that the contract tests hold every backend against.

No I/O and no awaits inside: each call is one step of the event loop, as a transaction is one step of a database.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.ids import CommitId, DocumentId, Seq, UserId
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
    NewUpdate,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
    StrandedChange,
)
from storage.segments import check_arguments


@dataclass(slots=True)
class _Row:
    update: StoredUpdate
    commit: CommitId
    saved_at: float


@dataclass(slots=True)
class _Document:
    head: Head = BEGINNING
    rows: dict[Seq, _Row] = field(default_factory=dict)
    segments: list[StoredSegment] = field(default_factory=list)
    commits: dict[CommitId, tuple[Seq, Seq]] = field(default_factory=dict)
    clients: set[tuple[int, UserId]] = field(default_factory=set)

    @property
    def covered(self) -> Seq:
        return self.segments[-1].last if self.segments else Seq(0)

    def holds(self, place: Head) -> bool:
        """Whether `place` is the beginning, the head, or a stored row that its commit wrote."""
        row = self.rows.get(place.seq)
        return place in (BEGINNING, self.head) or (row is not None and row.commit == place.commit)

    def commit_at(self, seq: int) -> CommitId | None:
        """The commit that wrote the update `seq`; None when its row is gone."""
        row = self.rows.get(Seq(seq))
        return NO_COMMIT if seq == 0 else None if row is None else row.commit

    def follows_on(self, seq: Seq) -> bool:
        """Whether the updates behind `seq` are still stored as rows."""
        return seq == self.head.seq or Seq(seq + 1) in self.rows


class MemoryUpdateLog:
    """`UpdateLog` in memory. now: seconds since 1970."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._documents: dict[DocumentId, _Document] = {}
        self._now = now

    def create(self, document_id: DocumentId, first_update: bytes | None = None, commit: CommitId = NO_COMMIT) -> None:
        """Make a document: empty (head 0, commit 0), or with a first update as a new course has (head 1)."""
        document = self._documents[document_id] = _Document()
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
            return Appended(append.document_id, *before, document.commit_at(before[0] - 1))
        if not document.holds(append.after):
            return Diverged(append.document_id)
        document.clients.update((each.client_id, each.user_id) for each in append.bindings)
        previous = document.head.commit
        return Appended(append.document_id, *self._add(document, append.commit, append.updates), previous)

    def _add(self, document: _Document, commit: CommitId, updates: Sequence[NewUpdate]) -> tuple[Seq, Seq]:
        first = Seq(document.head.seq + 1)
        last = Seq(document.head.seq + len(updates))
        now = self._now()
        for seq, new in enumerate(updates, first):
            document.rows[Seq(seq)] = _Row(StoredUpdate(Seq(seq), new.payload), commit, now)
        document.head = Head(last, commit)
        document.commits[commit] = (first, last)
        return first, last

    async def load(self, document_id: DocumentId) -> StoredDocument | None:
        """See UL5."""
        document = self._documents.get(document_id)
        if document is None:
            return None
        updates = self._updates(document, Seq(document.covered + 1), document.head.seq)
        return StoredDocument(document_id, document.head, list(document.segments), updates)

    async def add_segments(
        self,
        document_id: DocumentId,
        segments: Sequence[StoredSegment],
        replaces: Sequence[tuple[Seq, Seq]],
        at: Head,
    ) -> bool:
        """See UL6. ValueError: the segments contradict themselves or do not cover what they replace."""
        place = check_arguments(segments, replaces)
        document = self._documents.get(document_id)
        if document is None or not document.holds(at):
            return False
        if not place.fits([(each.first, each.last) for each in document.segments], document.head.seq):
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

    async def heads(self, document_ids: Sequence[DocumentId]) -> Mapping[DocumentId, Head]:
        """See UL9."""
        return {each: self._documents[each].head for each in document_ids if each in self._documents}

    async def changes(self, document_id: DocumentId, after: Head, limit: int) -> Changes | Diverged | Gone:
        """See UL10."""
        document = self._documents.get(document_id)
        if document is None:
            return Gone(document_id)
        if not document.holds(after) or not document.follows_on(after.seq):
            return Diverged(document_id)
        last = min(document.head.seq, after.seq + limit)
        updates = self._updates(document, Seq(after.seq + 1), Seq(last))
        head = Head(updates[-1].seq, document.rows[updates[-1].seq].commit) if updates else after
        return Changes(head, updates)

    async def to_sweep(self, after: DocumentId | None, uncovered: int, limit: int) -> Sequence[DocumentId]:
        """See UL11."""
        wanted = [
            document_id
            for document_id, document in sorted(self._documents.items())
            if (after is None or document_id > after)
            and (
                document.head.seq - document.covered >= uncovered
                or Seq(1) <= min(document.rows, default=Seq(0)) <= document.covered
            )
        ]
        return wanted[:limit]

    @staticmethod
    def _updates(document: _Document, first: Seq, last: Seq) -> list[StoredUpdate]:
        wanted = range(max(first, 1), min(last, document.head.seq) + 1)
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
