"""Looking after the logs of documents that nobody has open here: compacting what is worth it, purging raw rows whose time is over.

One pass goes through all documents in id order. It may be cut anywhere and run beside another one of this or another instance:
each compaction is fenced by the log, and a purge removes only what a segment covers.
"""

import time
from collections.abc import AsyncGenerator, Callable
from typing import Final, NamedTuple

from constructure_sync.persistence.compactor import Compactor, Outcome
from schemas.ids import DocumentId
from storage.contracts import Head, UpdateLog

_PAGE: Final = 100
_MOST_REMEMBERED: Final = 100_000
_PURGES_PER_RETENTION: Final = 100


class _Tidied(NamedTuple):
    """Where a document stood when nothing was left to do for it, and when that was (seconds since 1970)."""

    head: Head
    at: float


class Sweeper:
    """A job of `Upkeep`. is_open: whether a document's room is open on this instance, which then sees to it itself."""

    def __init__(
        self,
        log: UpdateLog,
        compactor: Compactor,
        is_open: Callable[[DocumentId], bool],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._stored = log
        self._compactor = compactor
        self._is_open = is_open
        self._now = now
        # Those are neither loaded nor written to again to find the same. Bounded; beyond that the oldest are forgotten, and
        # looked at once more.
        self._tidied: dict[DocumentId, _Tidied] = {}

    async def sweep(self) -> AsyncGenerator[None]:
        """Make one pass, pausing after each step that was work. Raises StorageError."""
        after: DocumentId | None = None
        while page := await self._stored.to_sweep(after, self._compactor.limits.updates_at_close, _PAGE):
            heads = await self._stored.heads(page)
            for document_id in page:
                after = document_id
                if document_id in heads and not self._is_open(document_id):
                    async for _ in self._tidy(document_id, heads[document_id]):
                        yield

    async def _tidy(self, document_id: DocumentId, head: Head) -> AsyncGenerator[None]:
        before, now = self._tidied.get(document_id), self._now()
        outcome = Outcome.NOT_WORTH
        if before is None or before.head != head:
            outcome = await self._compactor.compact_if_worth(document_id)
            yield
        elif now - before.at < self._compactor.retention / _PURGES_PER_RETENTION:
            return
        while await self._compactor.purge(document_id):
            yield
        if outcome in (Outcome.DONE, Outcome.NOT_WORTH):
            self._remember(document_id, _Tidied(head, now))
        yield

    def _remember(self, document_id: DocumentId, tidied: _Tidied) -> None:
        self._tidied.pop(document_id, None)
        if len(self._tidied) >= _MOST_REMEMBERED:
            del self._tidied[next(iter(self._tidied))]
        self._tidied[document_id] = tidied
