"""`constructure-sync doctor`, command by command: from settings and a course's id to what is told."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from constructure_sync.errors import ConstructureError
from constructure_sync.persistence.doctor.diagnosis import Diagnosis, Inspection
from constructure_sync.persistence.doctor.treatment import Treated, Treatment
from constructure_sync.replica.examination import Finding
from constructure_sync.replica.pool import WorkerPool
from constructure_sync.settings import Settings
from schemas.ids import DocumentId, Seq
from storage.open import Database, open_database
from storage.repair import LogContent, Repair

_PAGE: Final = 100


class NoSuchCourse(ConstructureError):
    """No course has this id."""


class NothingDone(ConstructureError):
    """What was asked for cannot be done; the message says why."""


@dataclass(frozen=True, slots=True)
class Doctor:
    """The commands over an open database. timeout: seconds that a worker process may take over one document."""

    database: Database
    repair: Repair
    workers: WorkerPool
    timeout: float

    @property
    def diagnosis(self) -> Diagnosis:
        return Diagnosis(self.repair, self.workers, self.timeout)

    async def inspect(self, course: str) -> Sequence[str]:
        """Return what a course's log holds, line by line. Raises NoSuchCourse."""
        inspection = await self.diagnosis.inspect(await self._document(course))
        if inspection is None:
            raise NoSuchCourse(f"there is no course {course}")
        return _lines(inspection)

    async def verify(self, courses: Sequence[str]) -> AsyncIterator[tuple[str, Sequence[Finding]]]:
        """Give for each of these courses, or for all documents when none is named, what is wrong with it. Raises NoSuchCourse."""
        if courses:
            for course in courses:
                yield course, await self.diagnosis.verify(await self._content(course))
            return
        after: DocumentId | None = None
        while page := await self.repair.documents(after, _PAGE):
            for document in page:
                after = document.id
                content = await self.repair.content(document.id)
                if content is not None:  # else it is gone meanwhile
                    yield document.name, await self.diagnosis.verify(content)

    async def bisect(self, course: str) -> Finding | None:
        """Return the first bad update of a course's log. None: there is none. Raises NoSuchCourse."""
        return await self.diagnosis.bisect(await self._content(course))

    async def quarantine(self, course: str, seq: int, reason: str) -> None:
        """Take an update out of a course's log. Raises NoSuchCourse, NothingDone."""
        if not await self.repair.quarantine(await self._document(course), Seq(seq), reason):
            raise NothingDone(f"update {seq} is not stored, or in quarantine already")

    async def restore(self, course: str, seq: int) -> None:
        """Put an update back. Raises NoSuchCourse, NothingDone."""
        if not await self.repair.restore(await self._document(course), Seq(seq)):
            raise NothingDone(f"update {seq} is not in quarantine")

    async def rebuild(self, course: str, segment_bytes: int, copies: Path | None) -> Treated:
        """Make a course's log whole again. Raises NoSuchCourse, NotRebuilt and what `Treatment.rebuild` names."""
        treatment = Treatment(self.repair, self.workers, self.timeout, segment_bytes, copies)
        return await treatment.rebuild(await self._document(course))

    async def _document(self, course: str) -> DocumentId:
        document_id = await self.database.courses.document_id(course)
        if document_id is None:
            raise NoSuchCourse(f"there is no course {course}")
        return document_id

    async def _content(self, course: str) -> LogContent:
        content = await self.repair.content(await self._document(course))
        if content is None:
            raise NoSuchCourse(f"there is no course {course}")
        return content


@asynccontextmanager
async def open_doctor(settings: Settings, timeout: float) -> AsyncIterator[Doctor]:
    """Open the database and a worker. Raises StorageError."""
    # A damaged document may be a large one, and is read as a whole: the database has as long as a worker.
    options = settings.database_options
    options = replace(options, time_limit=max(timeout, options.time_limit))
    async with (
        await open_database(settings.database_address, options) as database,
        WorkerPool(1) as workers,
    ):
        yield Doctor(database, Repair(database.connections), workers, timeout)


def _lines(found: Inspection) -> Sequence[str]:
    facts, census = found.facts, found.census
    lines = [
        f"document    {facts.name}",
        f"head        update {facts.head.seq}, commit {facts.head.commit}",
        f"places      covered to {facts.covered_seq}, purged to {facts.purged_seq}, derived to {facts.derived_seq}",
        f"rows        {found.rows}, {found.row_bytes} bytes",
        f"segments    {found.segments}, {found.segment_bytes} bytes",
        f"read-only   {facts.read_only_reason or 'no'}",
    ]
    if census is None:
        lines.append("content     counting it killed its worker: bisect it")
    else:
        lines.append(
            f"content     {census.structs} structs of {census.clients} client ids, {facts.clients} of them bound"
        )
        lines.append(f"pending     {census.pending} updates cannot be read, or wait for what is not there")
    lines += [
        f"written     update {writer.seq} by {writer.name or 'nobody known'}, {_moment(writer.saved_at)}"
        for writer in facts.writers
    ]
    lines += [
        f"quarantine  update {each.seq}, {each.size} bytes, {_moment(each.quarantined_at)}: {each.reason}"
        for each in facts.quarantined
    ]
    return lines


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
