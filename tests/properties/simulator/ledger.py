"""What the logs have held at every moment, and what of it may be gone after they were set back (R9).

A log that is set back to an earlier state of itself (a failover that lost commits, a restored backup) has lost what came after
that. All of it must come back that anyone still *holds*: a room of a running instance, or a client that may write, online or not.
So an acknowledged edit may be lost only if at some moment after the log was set back nobody held it: the log did not, no room
did, no such client did. Holders go when an instance ends, when a room is let go, when a tab is closed, when a role is lowered.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from constructure_sync.persistence.compactor import decode_pieces
from constructure_sync.persistence.export import stored_updates
from constructure_sync.protocol.known import Known
from schemas.ids import CommitId, DocumentId, Seq, UserId
from storage.contracts import BEGINNING, Append, Appended, AppendResult, Head
from storage.memory import _Document

if TYPE_CHECKING:
    from tests.properties.simulator.world import World


@dataclass(frozen=True, slots=True)
class LoggedUpdate:
    """One update in a log. update: as it was appended."""

    commit: CommitId
    update: bytes


@dataclass(slots=True)
class Book:
    """One document's log. known: what all of it holds together. commits: first Seq of each."""

    lines: list[LoggedUpdate] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    commits: dict[CommitId, int] = field(default_factory=dict)

    @property
    def head(self) -> Head:
        return Head(Seq(len(self.lines)), self.lines[-1].commit) if self.lines else BEGINNING

    def copy(self) -> "Book":
        return Book(list(self.lines), self.known.copy(), dict(self.commits))

    def holds(self, place: Head) -> bool:
        """Whether the log has this place."""
        return place.seq == 0 or (place.seq <= len(self.lines) and self.lines[place.seq - 1].commit == place.commit)


@dataclass(frozen=True, slots=True)
class Backup:
    """All logs as they were at one moment. stored: the documents inside `MemoryUpdateLog`."""

    stored: dict[DocumentId, _Document]
    books: dict[DocumentId, Book]


_BACKUPS = 0.3
_BACKUPS_KEPT = 6


class Ledger:
    """See the module. epoch: how often the logs were set back. ever: what has been in each log at any time."""

    def __init__(self, world: "World") -> None:
        self.epoch = 0
        self.books: dict[DocumentId, Book] = {}
        self.ever: dict[DocumentId, Known] = {}
        self.writers: set[UserId] = set()  # who ever had the right to write
        self.authors: set[UserId] = set()  # whose updates are in a log
        self.written = (
            0  # updates with structs in all logs: deletes that clients derive may be written at any time (R12)
        )
        self.late = 0  # commits that nobody waits for any more and that are still to happen
        self._world = world
        self._backups: list[Backup] = []
        self._heard: dict[tuple[object, DocumentId], int] = {}
        self._vanished: dict[DocumentId, dict[int, int]] = {}
        self._made: dict[DocumentId, set[CommitId]] = {}

    def create(self, document_id: DocumentId) -> None:
        """A document has been made."""
        self.books[document_id] = Book()
        self.ever[document_id] = Known()
        self._vanished[document_id] = {}
        self._made[document_id] = set()

    def fail(self, rule: str, what: str) -> None:
        self._world.fail(rule, what)

    def is_late(self, change: int) -> None:
        self.late += change

    # ------------------------------------------------------------------ appending

    def about_to_append(self) -> None:
        """A transaction is about to be committed: now and then the one before it is the last that a standby has."""
        if self._world.may_be_set_back and self._world.random.random() < _BACKUPS:
            self.back_up()

    def appended(self, batch: Sequence[Append], results: Sequence[AppendResult]) -> None:
        """A transaction has just been committed: every prefix of the log is closed, and readers have no part in it."""
        for append, result in zip(batch, results, strict=True):
            if isinstance(result, Appended):
                self._appended(append, result)
        if not self.authors <= self.writers:
            self.fail("R10", "a reader's write is in the log")

    def _appended(self, append: Append, result: Appended) -> None:
        book = self.books[append.document_id]
        if append.commit in book.commits:
            if book.commits[append.commit] != result.first:
                self.fail(
                    "R9", f"commit {append.commit} is told as {result.first} and was {book.commits[append.commit]}"
                )
            return
        place = Head(result.first, append.commit)
        if (result.first, result.last) != (len(book.lines) + 1, len(book.lines) + len(append.updates)):
            self.fail("R9", f"{place} to {result.last} is the commit behind {len(book.lines)}")
        if result.previous not in (None, book.lines[-1].commit if book.lines else 0):
            self.fail("R9", f"{place} names a wrong commit before it")
        book.commits[append.commit] = result.first
        self._made[append.document_id].add(append.commit)
        for update in append.updates:
            part = book.known.close(update.payload)
            if part.missing:
                self.fail("R2", f"the log has a gap: {part.missing}")
            book.known.add(part)
            self.ever[append.document_id].add(part)
            self.written += bool(self._world.read(update.payload)[0])
            book.lines.append(LoggedUpdate(append.commit, update.payload))
            if update.user_id is not None:
                self.authors.add(update.user_id)

    def was_made(self, document_id: DocumentId, commit: CommitId) -> bool:
        """Whether a commit was in the log at any time."""
        return commit in self._made[document_id]

    async def compare(self, document_id: DocumentId) -> None:
        """Whatever segments were put over rows and whatever rows were purged: the log holds all it held (R7)."""
        stored = await self._world.disk.log.load(document_id)
        if stored is None:
            return
        again, book = Known(), self.books[document_id]
        for update in stored_updates(stored):
            part = again.close(update)
            if part.missing:
                self.fail("R7", f"the compacted log has a gap: {part.missing}")
            again.add(part)
        if again.clocks != book.known.clocks or again.deletes != book.known.deletes:
            self.fail("R7", "the log holds something else than before")
        if stored.head.seq != len(book.lines) or not book.holds(stored.head):
            self.fail("R9", f"{stored.head} is the head of a log of {len(book.lines)} updates")

    async def compare_segments(self, document_id: DocumentId) -> None:
        """Each segment holds just what the updates hold that it says to cover."""
        stored = await self._world.disk.log.load(document_id)
        lines, seq = self.books[document_id].lines, 0
        segments, updates = Known(), Known()
        for segment in stored.segments if stored is not None else []:
            for piece in decode_pieces(segment.payload):
                segments.add(segments.close(piece))
            for logged in lines[seq : segment.last]:
                updates.add(updates.close(logged.update))
            seq = segment.last
            if segments.clocks != updates.clocks or segments.deletes != updates.deletes:
                self.fail("R7", f"the segment {segment.first} to {seq} holds something else than these updates")

    # ------------------------------------------------------------------ what instances know of it

    def told(self, reader: object, batch: Sequence[Append], results: Sequence[AppendResult]) -> None:
        """An instance is being told what became of its appends; the log may have been set back since."""
        for append, result in zip(batch, results, strict=True):
            if isinstance(result, Appended):
                is_there = append.commit in self.books[append.document_id].commits
                self._heard[reader, append.document_id] = self.epoch if is_there else -1

    def heard(self, reader: object, document_id: DocumentId, commit: CommitId) -> None:
        """An instance hears on the bus of a commit, which may be gone again. One that is there tells it nothing of the others."""
        if commit not in self.books[document_id].commits:
            self._heard[reader, document_id] = -1

    def read(self, reader: object, document_id: DocumentId, epoch: int) -> None:
        """An instance has read the log, in this epoch."""
        self._heard[reader, document_id] = epoch

    def saved_for(self, reader: object, document_id: DocumentId) -> Known:
        """Return what an instance may take for saved: what the log holds, or held when the instance last heard of it."""
        if self._heard.get((reader, document_id), -1) == self.epoch:
            return self.books[document_id].known
        return self.ever[document_id]

    # ------------------------------------------------------------------ setting back

    def back_up(self) -> None:
        """Keep a copy of all logs."""
        stored = {document_id: _copy(document) for document_id, document in self._world.disk.log._documents.items()}
        self._backups.append(Backup(stored, {document_id: book.copy() for document_id, book in self.books.items()}))
        del self._backups[:-_BACKUPS_KEPT]

    def set_back(self, backup: int) -> None:
        """Have all logs as they were when the backup of this number was made; those made later are of no log any more."""
        del self._backups[backup + 1 :]
        kept = self._backups[backup]
        log = self._world.disk.log
        for document_id, document in kept.stored.items():
            log._documents[document_id] = _copy(document)
            self.books[document_id] = kept.books[document_id].copy()
        self.epoch += 1
        self.holders_changed()

    @property
    def backups(self) -> int:
        """How many there are."""
        return len(self._backups)

    def holders_changed(self) -> None:
        """Someone who held something is gone: what nobody else holds, and no log, need not come back."""
        if not self.epoch:
            return  # the logs hold all they ever held
        for document_id, ever in self.ever.items():
            held = self._held(document_id)
            vanished = self._vanished[document_id]
            for client, clock in ever.clocks.items():
                if held.get(client, 0) < clock:
                    vanished[client] = min(vanished.get(client, clock), held.get(client, 0))

    def _held(self, document_id: DocumentId) -> dict[int, int]:
        world = self._world
        holders = [self.books[document_id].known.clocks]
        holders += [room.history.known.clocks for room in world.rooms(document_id)]
        holders += [
            client.has()
            for client in world.clients
            if client.document_id == document_id and client.can_write and not client.is_gone
        ]
        held: dict[int, int] = {}
        for clocks in holders:
            for client, clock in clocks.items():
                held[client] = max(held.get(client, 0), clock)
        return held

    def may_be_lost(self, document_id: DocumentId, client: int, clock: int) -> bool:
        """Whether there was a moment at which nobody held this struct."""
        first = self._vanished[document_id].get(client)
        return first is not None and clock >= first


def _copy(document: _Document) -> _Document:
    """Return an independent copy; what a document consists of is never changed in place."""
    rows, commits, clients = dict(document.rows), dict(document.commits), set(document.clients)
    return replace(document, rows=rows, segments=list(document.segments), commits=commits, clients=clients)
