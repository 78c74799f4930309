"""The import: each document of a source becomes a course, by the same rules as an update that a client sends.

Every update passes the strict reader, and only what integrates is stored, cut to small updates. What is left is kept aside and
told; other documents go on.
"""

import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from auth.sign_in import new_id
from constructure_sync.errors import ConstructureError
from constructure_sync.persistence.export import stored_updates
from constructure_sync.persistence.import_from.records import DocumentReport, Mapping, Outcome, Report
from constructure_sync.persistence.import_from.sources import Source, SourceError, SourceUpdate
from constructure_sync.protocol.update_writer import EMPTY_UPDATE
from constructure_sync.replica.intake import Intake, LeftOut, take_in
from constructure_sync.replica.pool import Workers
from constructure_sync.replica.projection import project_course
from schemas.course import COURSE_SCHEMA_VERSION
from schemas.ids import CommitId, CourseId, DocumentId, Seq, UserId
from storage.contracts import Append, Appended, Head, NewUpdate, StoredDocument
from storage.courses import NewCourse
from storage.open import Database

PIECE_BYTES: Final = 32 * 1024
"""Size of the updates that an imported document is stored as; small enough that none reaches a limit of counts."""

_INTAKE_SECONDS: Final = 900.0
_TITLE_SECONDS: Final = 120.0
_MAX_TITLE: Final = 300


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """owner: of every new course. merges: documents imported before are read again, and what is new of them is added.

    batch_updates, batch_bytes: most that one transaction saves. max_document_bytes: above it a course cannot be edited.
    """

    owner: UserId
    merges: bool
    is_dry_run: bool
    batch_updates: int
    batch_bytes: int
    max_document_bytes: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """A document as it was read, the course that it is to be or is, and what of it can be taken.

    stored: None when there is no such course yet.
    """

    name: str
    course_id: CourseId
    updates: Sequence[SourceUpdate]
    stored: StoredDocument | None
    intake: Intake


class Importer:
    """One run over a source."""

    def __init__(
        self,
        database: Database,
        workers: Workers,
        source: Source,
        mapping: Mapping,
        report: Report,
        options: ImportOptions,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._workers = workers
        self._source = source
        self._mapping = mapping
        self._report = report
        self._options = options
        self._now = now

    async def run(self, names: Sequence[str]) -> AsyncIterator[DocumentReport]:
        """Import these documents one after the other; what becomes of each is given, and stands in the report.

        Raises StorageUnavailable: the database is away; run it again to go on.
        """
        for name in names:
            document = await self._import(name)
            self._report.add(document)
            yield document

    async def _import(self, name: str) -> DocumentReport:
        entry = self._mapping.get(name)
        if entry is not None and entry.is_complete and not self._options.merges:
            return DocumentReport(name, Outcome.SKIPPED, str(entry.course_id))
        course_id = CourseId(new_id()) if entry is None else entry.course_id
        stored = None if entry is None else await self._stored(course_id)
        if stored is None and entry is not None and entry.is_complete:
            note = "its course is gone; take its lines out of the mapping to import it anew"
            return DocumentReport(name, Outcome.LEFT_OUT, str(course_id), notes=(note,))
        try:
            updates = self._source.read(name)
        except SourceError as error:
            return DocumentReport(name, Outcome.LEFT_OUT, notes=(str(error),))
        try:
            intake = await self._take_in([] if stored is None else stored_updates(stored), updates)
        except ConstructureError as error:  # the worker died or hung, or what was made of it is not what went in
            reason = f"the document could not be read: {error!r}"
            intake = Intake((), tuple(LeftOut(place, reason) for place in range(len(updates))))
            return self._told(_Reading(name, course_id, updates, stored, intake), Outcome.LEFT_OUT)
        reading = _Reading(name, course_id, updates, stored, intake)
        if stored is not None:
            return await self._merge(reading, stored)
        if intake.left_out and not intake.pieces:
            return self._told(reading, Outcome.LEFT_OUT)
        return await self._make(reading)

    async def _stored(self, course_id: CourseId) -> StoredDocument | None:
        document_id = await self._database.courses.document_id(str(course_id))
        return None if document_id is None else await self._database.log.load(document_id)

    async def _take_in(self, stored: Sequence[bytes], updates: Sequence[SourceUpdate]) -> Intake:
        payloads = [update.payload for update in updates]
        return await self._workers.run(take_in, stored, payloads, PIECE_BYTES, timeout=_INTAKE_SECONDS)

    async def _make(self, reading: _Reading) -> DocumentReport:
        """Make a course of a document that was never imported, or of which an earlier run only noted that it would."""
        pieces = reading.intake.pieces or (EMPTY_UPDATE,)
        title, notes = await self._title(reading.name, pieces)
        document = self._told(reading, Outcome.IMPORTED, title, notes)
        if self._options.is_dry_run:
            return document
        self._mapping.begin(reading.name, reading.course_id)
        document_id, commit = DocumentId(new_id()), _new_commit()
        course = NewCourse(
            id=reading.course_id,
            title=title,
            owner=self._options.owner,
            document_id=document_id,
            lineage=new_id(),
            schema_version=COURSE_SCHEMA_VERSION,
            first_update=pieces[0],
            commit=commit,
            created_at=self._now(),
        )
        await self._database.courses.create(course)
        await self._append(document_id, Head(Seq(1), commit), pieces[1:])
        self._mapping.complete(reading.name, reading.course_id)
        return document

    async def _merge(self, reading: _Reading, stored: StoredDocument) -> DocumentReport:
        """Add to a course what the source holds beyond it; also how an import that was cut off is completed."""
        document = self._told(reading, Outcome.MERGED)
        if self._options.is_dry_run:
            return document
        await self._append(stored.document_id, stored.head, reading.intake.pieces)
        self._mapping.complete(reading.name, reading.course_id)
        return document

    async def _append(self, document_id: DocumentId, after: Head, pieces: Sequence[bytes]) -> None:
        for batch in _batches(pieces, self._options.batch_updates, self._options.batch_bytes):
            commit = _new_commit()
            updates = [NewUpdate(piece, self._options.owner) for piece in batch]
            (result,) = await self._database.log.append([Append(document_id, after, commit, updates)])
            if not isinstance(result, Appended):
                raise LogChanged(f"the log of document {document_id} was changed meanwhile: {type(result).__name__}")
            after = Head(result.last, commit)

    async def _title(self, name: str, pieces: Sequence[bytes]) -> tuple[str, tuple[str, ...]]:
        """Return the document's title, else its name in one line; and what is to be noted about that."""
        notes: tuple[str, ...] = ()
        found = None
        try:
            # Always under the same name: the worker then holds no more than one document.
            facts = await self._workers.run(project_course, "imported", 0, 1, pieces, timeout=_TITLE_SECONDS)
            found = facts.title if facts else None
        except ConstructureError:
            notes = ("pycrdt cannot read it: clients are served, but lists and searches know no more than its name",)
        return found or " ".join(name.split())[:_MAX_TITLE] or "Untitled", notes

    def _told(
        self, reading: _Reading, outcome: Outcome, title: str | None = None, notes: tuple[str, ...] = ()
    ) -> DocumentReport:
        """Return the line of the report; what is left out is kept aside."""
        stored_bytes = sum(map(len, reading.intake.pieces))
        held = 0 if reading.stored is None else sum(map(len, stored_updates(reading.stored)))
        if held + stored_bytes > self._options.max_document_bytes:
            notes += (
                f"{held + stored_bytes} bytes: readable, but above CONSTRUCTURE_MAX_DOCUMENT_BYTES nobody can edit",
            )
        return DocumentReport(
            name=reading.name,
            outcome=outcome,
            course_id=None if outcome is Outcome.LEFT_OUT or self._options.is_dry_run else str(reading.course_id),
            title=title,
            read_updates=len(reading.updates),
            read_bytes=sum(len(update.payload) for update in reading.updates),
            stored_updates=len(reading.intake.pieces),
            stored_bytes=stored_bytes,
            left_out=tuple(
                self._report.left_out(reading.name, reading.updates[each.place], each.reason)
                for each in reading.intake.left_out
            ),
            notes=notes,
        )


class LogChanged(ConstructureError):
    """The log of a course that is being imported into was set back or removed meanwhile."""


def _new_commit() -> CommitId:
    return CommitId(secrets.randbelow(2**63 - 1) + 1)


def _batches(pieces: Sequence[bytes], max_updates: int, max_bytes: int) -> Iterator[Sequence[bytes]]:
    """Give the pieces in runs of at most so many updates and bytes; a larger piece goes alone."""
    batch: list[bytes] = []
    size = 0
    for piece in pieces:
        if batch and (len(batch) >= max_updates or size + len(piece) > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(piece)
        size += len(piece)
    if batch:
        yield batch
