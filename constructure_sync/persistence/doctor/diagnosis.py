"""What is in a log, what is wrong with it, and since which update. Reading is done by worker processes: a log may kill them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from constructure_sync.persistence.doctor.history import decode, sources
from constructure_sync.replica.examination import Census, Finding, count, examine, first_fault, project
from constructure_sync.replica.pool import WorkerFailed, Workers
from constructure_sync.replica.projection import NotProjected
from schemas.ids import DocumentId
from storage.repair import LogContent, LogFacts, Repair


@dataclass(frozen=True, slots=True)
class Inspection:
    """A log in figures. rows, segments: stored ones, and their bytes. census: None when counting killed its worker."""

    facts: LogFacts
    rows: int
    row_bytes: int
    segments: int
    segment_bytes: int
    census: Census | None


class Diagnosis:
    """Looks and changes nothing. timeout: seconds that a worker may take over one document."""

    def __init__(self, repair: Repair, workers: Workers, timeout: float) -> None:
        self._repair = repair
        self._workers = workers
        self._timeout = timeout

    async def inspect(self, document_id: DocumentId) -> Inspection | None:
        """Return a log in figures. None: no such document."""
        facts, content = await self._repair.facts(document_id), await self._repair.content(document_id)
        if facts is None or content is None:
            return None
        updates = [update.payload for update in sources(content).updates]
        try:
            census = await self._workers.run(count, updates, timeout=self._timeout)
        except WorkerFailed:
            census = None
        return Inspection(
            facts=facts,
            rows=len(content.updates),
            row_bytes=sum(len(update.payload) for update in content.updates),
            segments=len(content.segments),
            segment_bytes=sum(len(segment.payload) for segment in content.segments),
            census=census,
        )

    async def verify(self, content: LogContent) -> Sequence[Finding]:
        """Return everything that is wrong with a log."""
        decoded = decode(content)
        findings = decoded.findings
        try:
            findings += await self._workers.run(
                examine, decoded.segments, decoded.tail, content.quarantined, timeout=self._timeout
            )
        except WorkerFailed:
            return [*findings, Finding("document", "reading it kills its worker, or takes too long: bisect it")]
        if not findings:
            served = [piece for segment in decoded.segments for piece in segment.pieces]
            if not await self._is_projected([*served, *decoded.tail.values()]):
                findings.append(Finding("document", "pycrdt refuses it, or does not survive it: bisect it"))
        return findings

    async def bisect(self, content: LogContent) -> Finding | None:
        """Return the first update that is malformed, unclosed, or that a worker or pycrdt does not survive. None: there is none.

        Updates that are in quarantine, and what a rebuild left out, are passed over.
        """
        updates = [each for each in sources(content).updates if each.seq not in content.quarantined]
        payloads = [each.payload for each in updates]
        try:
            fault = await self._workers.run(first_fault, payloads, timeout=self._timeout)
        except WorkerFailed:
            place = await _first_failing(len(payloads), lambda end: self._is_read(payloads[:end]))
            fault = (place, "its reader does not survive it, or takes too long")
        readable = payloads[: fault[0]] if fault else payloads
        if not await self._is_projected(readable):
            place = await _first_failing(len(readable), lambda end: self._is_projected(readable[:end]))
            fault = (place, "pycrdt refuses it, or does not survive it")
        return Finding(updates[fault[0]].place, fault[1]) if fault else None

    async def _is_read(self, updates: Sequence[bytes]) -> bool:
        try:
            await self._workers.run(first_fault, updates, timeout=self._timeout)
        except WorkerFailed:
            return False
        return True

    async def _is_projected(self, updates: Sequence[bytes]) -> bool:
        try:
            await self._workers.run(project, updates, timeout=self._timeout)
        except (WorkerFailed, NotProjected):
            return False
        return True


async def _first_failing(count: int, is_good: Callable[[int], Awaitable[bool]]) -> int:
    """Return the place of the update with which `is_good` of the first so many turns false; with all `count` it is false."""
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        if await is_good(middle):
            good = middle
        else:
            bad = middle
    return bad - 1
