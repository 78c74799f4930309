"""Making a damaged log whole again: one segment of everything in it that integrates, in the place of what stood there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from constructure_sync.errors import ConstructureError
from constructure_sync.persistence.compactor import encode_pieces
from constructure_sync.persistence.doctor.history import sources
from constructure_sync.replica.examination import Finding, Rebuilt, rebuild
from constructure_sync.replica.pool import Workers
from schemas.ids import DocumentId, Seq
from storage.contracts import StoredSegment
from storage.repair import LeftOut, LogContent, Repair

_ATTEMPTS = 5


class NotRebuilt(ConstructureError):
    """The log is as it was; the message says why."""


@dataclass(frozen=True, slots=True)
class Treated:
    """A rebuilt log. last: the Seq up to which. left_out: updates that are not, or not wholly, in it; they are kept."""

    last: Seq
    pieces: int
    size: int
    left_out: Sequence[Finding]


class Treatment:
    """Rebuilds logs. timeout: seconds that a worker may take over one. copies: see `rebuild`."""

    def __init__(
        self, repair: Repair, workers: Workers, timeout: float, segment_bytes: int, copies: Path | None
    ) -> None:
        self._repair = repair
        self._workers = workers
        self._timeout = timeout
        self._segment_bytes = segment_bytes
        self._copies = copies

    async def rebuild(self, document_id: DocumentId) -> Treated:
        """Rebuild a document's log and let it be written again.

        What segments hold and rows do not, and that cannot be taken, is written to `copies`; without that nothing is done.
        Raises NotRebuilt, WorkerFailed (bisect it), CompactionMismatch, StorageError, OSError.
        """
        for _ in range(_ATTEMPTS):
            content = await self._repair.content(document_id)
            if content is None:
                raise NotRebuilt("there is no such document")
            treated = await self._rebuild(document_id, content)
            if treated is not None:
                return treated
        raise NotRebuilt("people are writing to it all the time; try again")

    async def _rebuild(self, document_id: DocumentId, content: LogContent) -> Treated | None:
        """Rebuild what was read. None: the log has grown meanwhile."""
        found = sources(content)
        rebuilt: Rebuilt = await self._workers.run(
            rebuild, [each.payload for each in found.updates], self._segment_bytes, timeout=self._timeout
        )
        left_out = [(found.updates[place], reason) for place, reason in rebuilt.left_out]
        lost = {each.place: each.payload for each, _ in left_out if each.seq is None}
        lost |= {f"segment {each.first}-{each.last}": each.payload for each in found.unreadable}
        self._copy(document_id, lost)
        head = content.head
        segment = StoredSegment(
            Seq(1),
            head.seq,
            encode_pieces([piece for piece, _ in rebuilt.pieces]),
            encode_pieces([summary for _, summary in rebuilt.pieces]),
        )
        kept = [
            LeftOut(each.seq, f"left out by a rebuild: {reason}") for each, reason in left_out if each.seq is not None
        ]
        if not await self._repair.replace_segments(document_id, head, segment, kept):
            return None
        findings = [Finding(each.place, reason) for each, reason in left_out]
        findings += [Finding(f"segment {each.first}-{each.last}", "malformed") for each in found.unreadable]
        return Treated(head.seq, len(rebuilt.pieces), len(segment.payload), findings)

    def _copy(self, document_id: DocumentId, lost: dict[str, bytes]) -> None:
        if lost and self._copies is None:
            raise NotRebuilt(f"{', '.join(lost)} would be lost; name a folder to keep the bytes in with --copies")
        for place, payload in lost.items():
            assert self._copies is not None
            self._copies.mkdir(parents=True, exist_ok=True)
            name = place.replace(", ", ".").replace(" ", "-")
            (self._copies / f"{document_id}.{name}.bin").write_bytes(payload)
