"""Keeping what is refused: nothing that a member wrote is thrown away (R10)."""

import asyncio
from collections.abc import Sequence

from constructure_sync.observability import LIMIT_REACHED, STRANDED_CHANGES, get_logger
from constructure_sync.replica.jobs import merge_updates
from constructure_sync.replica.pool import WorkerFailed, Workers
from constructure_sync.rooms.limits import RoomLimits
from schemas.ids import DocumentId, UserId
from storage.contracts import StorageUnavailable, StrandedChange, StrandedChanges

_log = get_logger()


class Stranding:
    """The refused writes of one document: one change per user and client, which grows as more is refused."""

    def __init__(
        self, document_id: DocumentId, stranded: StrandedChanges, workers: Workers, limits: RoomLimits
    ) -> None:
        self._document_id = document_id
        self._stranded = stranded
        self._workers = workers
        self._limits = limits
        self._one_at_a_time = asyncio.Lock()  # each looks at what is kept before it adds to it

    async def keep(self, user_id: UserId, client_id: int, updates: Sequence[bytes], reason: str) -> bool:
        """Keep refused updates together with what was kept before; False when that cannot be done now.

        client_id: the lowest whose structs they hold. What was kept already may come again: merging takes it once.
        """
        async with self._one_at_a_time:
            try:
                kept = await self._kept(user_id, client_id)
                payload = await self._merge([*kept, *updates], updates)
                await self._stranded.keep(StrandedChange(self._document_id, user_id, client_id, payload, reason))
            except (StorageUnavailable, WorkerFailed) as error:
                _log.error("stranded_change_not_kept", document=str(self._document_id), error=repr(error))
                return False
        STRANDED_CHANGES.labels(reason).inc()
        return True

    async def _kept(self, user_id: UserId, client_id: int) -> list[bytes]:
        changes = await self._stranded.list_for(self._document_id)
        return [each.payload for each in changes if each.user_id == user_id and each.client_id == client_id]

    async def _merge(self, everything: Sequence[bytes], newest: Sequence[bytes]) -> bytes:
        """Return one update of everything, or of the newest alone where everything is too large or cannot be merged."""
        for updates in (everything, newest):
            if len(updates) == 1:
                return updates[0]
            try:
                merged = await self._workers.run(merge_updates, list(updates), timeout=self._limits.worker_timeout)
            except ValueError as error:
                _log.error("stranded_changes_not_merged", document=str(self._document_id), error=repr(error))
                continue
            if len(merged) <= self._limits.max_document_bytes:
                return merged
            LIMIT_REACHED.labels("stranded_bytes").inc()
        return newest[-1]
