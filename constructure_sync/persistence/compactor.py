"""Compaction: a document's log as few, collected pieces, so that it opens quickly and stops growing with every key stroke.

The new is written before the old may go (R7): pieces are computed outside, verified against what went in, and put over the rows
in a transaction that is fenced on the segments it replaces and on the place in the log that they were computed from: of two
that compact at once, on whatever instances, one does it. Raw rows stay for `raw_rows_seconds`, for history and repair.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from constructure_sync.errors import ConstructureError, ProtocolViolation
from constructure_sync.observability import COMPACTIONS, get_logger
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
from constructure_sync.replica.jobs import Compacted, StoredPieces, compact_tail
from constructure_sync.replica.pool import Workers
from schemas.ids import DocumentId
from storage.contracts import StorageError, StoredDocument, StoredSegment, UpdateLog

_log = get_logger()

RAW_ROWS_FLOOR_SECONDS: Final = 600.0
"""Younger raw rows stay whatever the setting: their commit ids tell an instance whether the log is the one it knows (R9), a
commit that is tried again finds itself by them, and instances that are late read them instead of the whole document."""


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """When compaction pays. Bytes, seconds, counts.

    updates_at_close: uncovered updates from which a document at rest is compacted. share: a stored segment is rewritten only
    when what came after it weighs at least this share of it, so that all rewriting adds up to a few times the whole.
    """

    updates_at_close: int = 64
    updates_while_open: int = 20_000
    share: float = 0.25
    segment_bytes: int = 256 * 1024
    raw_rows_seconds: float = 90 * 86_400.0
    purge_rows: int = 10_000
    timeout: float = 600.0


class Outcome(StrEnum):
    """What became of looking at a document. OVERTAKEN: somebody else has compacted it meanwhile, or its log is another one."""

    DONE = "done"
    OVERTAKEN = "overtaken"
    FAILED = "failed"
    NOT_WORTH = "not_worth"


class Compactor:
    """Compacts one document at a time, whenever somebody says that it may be worth it: each is wholly in memory meanwhile."""

    def __init__(
        self, log: UpdateLog, workers: Workers, limits: CompactionLimits, now: Callable[[], float] = time.time
    ) -> None:
        self.limits = limits
        self._stored = log
        self._workers = workers
        self._now = now
        self._one_at_a_time = asyncio.Lock()

    @property
    def retention(self) -> float:
        """Seconds for which raw rows stay."""
        return max(self.limits.raw_rows_seconds, RAW_ROWS_FLOOR_SECONDS)

    async def compact_if_worth(self, document_id: DocumentId) -> Outcome:
        """Compact a document if enough has come since the last time. Failures are told and leave the log as it is."""
        outcome = Outcome.NOT_WORTH
        try:
            async with self._one_at_a_time, asyncio.timeout(self.limits.timeout):
                stored = await self._stored.load(document_id)
                if stored is None:
                    return outcome
                if len(stored.updates) >= self.limits.updates_at_close:
                    outcome = Outcome.DONE if await self._compact(stored) else Outcome.OVERTAKEN
                if stored.segments or outcome is Outcome.DONE:
                    await self.purge(document_id)
        except (StorageError, ConstructureError, TimeoutError) as error:
            outcome = Outcome.FAILED
            _log.error("compaction_failed", document=str(document_id), error=repr(error))
        if outcome is not Outcome.NOT_WORTH:
            COMPACTIONS.labels(outcome).inc()
        return outcome

    async def purge(self, document_id: DocumentId) -> bool:
        """Remove some raw rows that a segment covers and whose time is over; tell whether there may be more.

        Raises StorageError.
        """
        purged = await self._stored.purge_covered(document_id, self._now() - self.retention, self.limits.purge_rows)
        return purged >= self.limits.purge_rows

    async def _compact(self, stored: StoredDocument) -> bool:
        segments = [StoredPieces(decode_pieces(old.payload), decode_pieces(old.summary)) for old in stored.segments]
        compacted: Compacted = await self._workers.run(
            compact_tail,
            segments,
            [update.payload for update in stored.updates],
            self.limits.share,
            self.limits.segment_bytes,
            timeout=self.limits.timeout,
        )
        replaced = stored.segments[compacted.kept :]
        segment = StoredSegment(
            replaced[0].first if replaced else stored.updates[0].seq,
            stored.head.seq,
            encode_pieces([update for update, _ in compacted.pieces]),
            encode_pieces([summary for _, summary in compacted.pieces]),
        )
        replaces = [(old.first, old.last) for old in replaced]
        return await self._stored.add_segments(stored.document_id, [segment], replaces, at=stored.head)


_VERSION = 1


def encode_pieces(pieces: Sequence[bytes]) -> bytes:
    """Return the stored form of a segment's pieces: version, count, then each with its length (lib0 numbers)."""
    return b"".join((bytes((_VERSION,)), write_var_uint(len(pieces)), *map(var_bytes, pieces)))


def decode_pieces(stored: bytes) -> list[bytes]:
    """Return the pieces that `encode_pieces` stored. Raises ProtocolViolation for anything else."""
    reader = Reader(stored)
    if reader.read_byte() != _VERSION:
        raise ProtocolViolation("unknown version of a stored segment")
    pieces = [reader.read_var_bytes() for _ in range(reader.read_var_uint())]
    reader.expect_end()
    return pieces
