"""Compaction: a document's log as few, collected pieces, so that it opens quickly and stops growing with every key stroke.

The new is written before the old may go (R7): pieces are computed outside, verified against what went in, and put over the rows
in a transaction that is fenced on the segments it replaces. Raw rows stay for `raw_rows_seconds`, for history and repair.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from constructure_sync.errors import ConstructureError, ProtocolViolation
from constructure_sync.observability import COMPACTIONS, get_logger
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
from constructure_sync.replica.jobs import compact
from constructure_sync.replica.pool import Workers
from schemas.ids import DocumentId, Seq
from storage.contracts import StorageUnavailable, StoredDocument, StoredSegment, UpdateLog

_log = get_logger()


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """When compaction pays. Bytes, seconds, counts.

    updates_at_close: uncovered updates from which a closing document is compacted. share: it is rewritten only when the
    uncovered updates hold at least this share of what the segments hold, so that all rewriting adds up to a few times the whole.
    """

    updates_at_close: int = 64
    updates_while_open: int = 20_000
    many_updates: int = 4_096
    share: float = 0.25
    segment_bytes: int = 256 * 1024
    raw_rows_seconds: float = 90 * 86_400.0
    purge_rows: int = 10_000
    timeout: float = 600.0


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

    async def compact_if_worth(self, document_id: DocumentId) -> bool:
        """Compact a document if enough has come since the last time; True when it was done. Failures leave the log as it is."""
        try:
            async with self._one_at_a_time, asyncio.timeout(self.limits.timeout):
                stored = await self._stored.load(document_id)
                if stored is None:
                    return False
                is_worth = self._is_worth(stored)
                is_done = is_worth and await self._compact(stored)
                if is_done or stored.segments:
                    before = self._now() - self.limits.raw_rows_seconds
                    await self._stored.purge_covered(document_id, before, self.limits.purge_rows)
        except (StorageUnavailable, ConstructureError, TimeoutError) as error:
            COMPACTIONS.labels("failed").inc()
            _log.error("compaction_failed", document=str(document_id), error=repr(error))
            return False
        if is_worth:
            COMPACTIONS.labels("done" if is_done else "overtaken").inc()
        return is_done

    def _is_worth(self, stored: StoredDocument) -> bool:
        uncovered = sum(len(update.payload) for update in stored.updates)
        covered = sum(len(segment.payload) for segment in stored.segments)
        count = len(stored.updates)
        return count >= self.limits.many_updates or (
            count >= self.limits.updates_at_close and uncovered >= self.limits.share * covered
        )

    async def _compact(self, stored: StoredDocument) -> bool:
        history = [piece for segment in stored.segments for piece in decode_pieces(segment.payload)]
        history += [update.payload for update in stored.updates]
        pieces = await self._workers.run(compact, history, self.limits.segment_bytes, timeout=self.limits.timeout)
        segment = StoredSegment(
            Seq(1),
            stored.head,
            encode_pieces([update for update, _ in pieces]),
            encode_pieces([summary for _, summary in pieces]),
        )
        replaces = [(old.first, old.last) for old in stored.segments]
        return await self._stored.add_segments(stored.document_id, [segment], replaces)


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
