"""Derives what SQL shows of a course from its saved updates: for now the title (design §3 step 7).

Debounced, one document at a time, in a sticky worker process that holds the projection documents. What it writes is guarded by
`derived_seq`, so an older result never replaces a newer one, and a crash only means that it is derived again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from constructure_sync.errors import ConstructureError
from constructure_sync.observability import get_logger
from constructure_sync.persistence.export import stored_updates
from constructure_sync.replica.pool import Workers
from constructure_sync.replica.projection import CourseFacts, project_course
from schemas.ids import DocumentId, Seq
from storage.contracts import StorageError, UpdateLog
from storage.courses import Courses

_log = get_logger()
_DEBOUNCE_SECONDS = 0.3
_JOB_SECONDS = 60.0
_REMEMBERED_PLACES = 1024
_AT_START = 1_000
_NO_END = Seq(2**62)
_FRESH_BYTES = 8 * 1024 * 1024


@dataclass(slots=True)
class _Fresh:
    """Updates of one document that were just saved, without a gap between them. first: Seq of the first."""

    first: Seq
    updates: list[bytes]
    size: int

    @property
    def last(self) -> Seq:
        return Seq(self.first + len(self.updates) - 1)


class Deriver:
    """One task of the instance. `saved` is told by rooms, `run` does the work.

    What was just saved here is kept for it, so that the log need not be read back: at most 8 MiB, beyond which it is read.
    """

    def __init__(self, log: UpdateLog, courses: Courses, worker: Workers) -> None:
        self._stored = log
        self._courses = courses
        self._worker = worker
        self._changed: dict[DocumentId, None] = {}
        self._work = asyncio.Event()
        self._places: OrderedDict[DocumentId, Seq] = OrderedDict()
        self._fresh: dict[DocumentId, _Fresh] = {}
        self._fresh_bytes = 0

    def saved(self, document_id: DocumentId, first: Seq, updates: Sequence[bytes]) -> None:
        """More of this document is saved. first: Seq of the first of these updates."""
        self._changed[document_id] = None
        self._work.set()
        fresh = self._fresh.get(document_id)
        if fresh is None or fresh.last + 1 != first:
            self._take_fresh(document_id)
            fresh = self._fresh[document_id] = _Fresh(first, [], 0)
        size = sum(map(len, updates))
        fresh.updates += updates
        fresh.size += size
        self._fresh_bytes += size
        if self._fresh_bytes > _FRESH_BYTES:
            self._take_fresh(document_id)

    def _take_fresh(self, document_id: DocumentId) -> _Fresh | None:
        fresh = self._fresh.pop(document_id, None)
        if fresh is not None:
            self._fresh_bytes -= fresh.size
        return fresh

    async def run(self) -> None:
        """Derive for ever; first what was saved before the last stop and not derived any more."""
        try:
            for document_id in await self._courses.underived(_AT_START):
                self._changed[document_id] = None
                self._work.set()
        except StorageError as error:
            _log.error("underived_documents_unknown", error=repr(error))
        while True:
            await self._work.wait()
            await asyncio.sleep(_DEBOUNCE_SECONDS)
            self._work.clear()
            taken, self._changed = self._changed, {}
            for document_id in taken:
                try:
                    await self._derive(document_id)
                except (StorageError, ConstructureError) as error:
                    self._places.pop(document_id, None)
                    _log.error("not_derived", document=str(document_id), error=repr(error))

    async def _derive(self, document_id: DocumentId) -> None:
        place = self._places.pop(document_id, Seq(0))
        head, facts = place, None
        fresh = self._take_fresh(document_id)
        if place:
            head, recent = await self._recent(document_id, place, fresh)
            if recent:
                facts = await self._project(document_id, place, head, recent)
        if facts is None:
            stored = await self._stored.load(document_id)
            if stored is None:
                return
            head = stored.head.seq
            facts = await self._project(document_id, Seq(0), head, stored_updates(stored))
        self._places[document_id] = head
        if len(self._places) > _REMEMBERED_PLACES:
            self._places.popitem(last=False)
        await self._courses.set_derived(document_id, head, facts.title if facts else None)

    async def _recent(self, document_id: DocumentId, place: Seq, fresh: _Fresh | None) -> tuple[Seq, list[bytes]]:
        """Return what was saved behind a place, and the Seq of the last of it; nothing: it is not there one by one any more."""
        if fresh is not None and fresh.first <= place + 1 and fresh.last > place:
            return fresh.last, fresh.updates[place + 1 - fresh.first :]
        recent = await self._stored.history(document_id, Seq(place + 1), _NO_END)
        if recent and recent[0].seq == place + 1:
            return recent[-1].seq, [update.payload for update in recent]
        return place, []

    async def _project(
        self, document_id: DocumentId, after: Seq, upto: Seq, updates: list[bytes]
    ) -> CourseFacts | None:
        return await self._worker.run(project_course, str(document_id), after, upto, updates, timeout=_JOB_SECONDS)
