"""Group commit: everything pending of all rooms in one transaction; the next batch gathers while one is being committed.

Between rooms (which hold what is unsaved) and the store (which makes it durable). A later batch of a document never commits before
an earlier one, because there is one batch at a time. What fails is tried again with the same commit ids, so a commit whose result
is unknown is not made twice (storage contract UL4).
"""

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from constructure_sync.observability import (
    COMMIT_DURATION,
    COMMIT_FAILURES,
    COMMIT_UPDATES,
    UNSAVED_BYTES,
    get_logger,
)
from schemas.ids import DocumentId
from storage.contracts import Append, Appended, AppendResult, Diverged, Gone, StorageUnavailable, UpdateLog

_log = get_logger()


class Journal(Protocol):
    """What the log writer needs of a room: its unsaved updates, and an ear for what became of them."""

    @property
    def document_id(self) -> DocumentId: ...

    def next_append(self, max_updates: int, max_bytes: int) -> Append | None:
        """Return the oldest unsaved updates; None when all is saved. Asked again only after `saved` or `cannot_save`."""
        ...

    def saved(self, append: Append, result: Appended) -> None: ...

    def cannot_save(self, append: Append, result: Diverged | Gone) -> None:
        """The store will never take these: the room is to be discarded."""
        ...


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """Bounds of the log writer. Seconds and bytes.

    interval: the least time between the starts of two commits; the first after a pause starts at once.
    unsaved_bytes: what may wait for the disk on this instance; beyond it writers are sent away with 1013.
    """

    interval: float = 0.005
    max_updates: int = 5_000
    max_bytes: int = 16 * 1024 * 1024
    unsaved_bytes: int = 64 * 1024 * 1024
    append_timeout: float = 30.0
    retry_delay: float = 0.05
    max_retry_delay: float = 5.0


class LogWriter:
    """The one task of an instance that appends to the log."""

    def __init__(
        self, log: UpdateLog, limits: CommitLimits, loop: asyncio.AbstractEventLoop, randomness: random.Random
    ) -> None:
        self._log = log
        self._limits = limits
        self._loop = loop
        self._random = randomness
        self._dirty: dict[Journal, None] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._unsaved: dict[Journal, int] = {}
        self._unsaved_bytes = 0
        self.is_failing = False

    @property
    def is_full(self) -> bool:
        """Whether no more may be taken until the disk has caught up."""
        return self._unsaved_bytes >= self._limits.unsaved_bytes

    @property
    def unsaved_bytes(self) -> int:
        return self._unsaved_bytes

    def wake(self, journal: Journal, new_bytes: int) -> None:
        """A room has taken an update of so many bytes: commit it with the next batch."""
        self._unsaved_bytes += new_bytes
        self._unsaved[journal] = self._unsaved.get(journal, 0) + new_bytes
        self._dirty[journal] = None
        if not self._work.is_set():
            self._work.set()
            self._idle.clear()

    def forget(self, journal: Journal) -> None:
        """A room is discarded: what it has not saved and not handed over will not be saved."""
        self._dirty.pop(journal, None)
        self._unsaved_bytes -= self._unsaved.pop(journal, 0)

    def _account(self, journal: Journal, size: int) -> None:
        left = self._unsaved.get(journal)
        if left is not None:
            self._unsaved_bytes -= size
            if left > size:
                self._unsaved[journal] = left - size
            else:
                del self._unsaved[journal]

    async def flushed(self) -> None:
        """Wait until nothing is unsaved."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit for ever; cancelled by its owner once `flushed`."""
        while True:
            await self._work.wait()
            started = self._loop.time()
            await self._commit(self._gather())
            UNSAVED_BYTES.set(self._unsaved_bytes)
            if not self._dirty:
                self._work.clear()
                self._idle.set()
            pause = self._limits.interval - (self._loop.time() - started)
            if pause > 0:
                await asyncio.sleep(pause)

    def _gather(self) -> dict[Journal, Append]:
        """Take what is pending out first; what comes during the commit belongs to the next batch."""
        updates, size = self._limits.max_updates, self._limits.max_bytes
        batch: dict[Journal, Append] = {}
        for journal in list(self._dirty):
            if updates <= 0 or size <= 0:
                break
            del self._dirty[journal]
            append = journal.next_append(updates, size)
            if append is not None:
                batch[journal] = append
                updates -= len(append.updates)
                size -= _size(append)
        return batch

    async def _commit(self, batch: dict[Journal, Append]) -> None:
        delay = self._limits.retry_delay
        while batch:
            await self._append(batch)
            if batch and len(batch) > 1:
                # One document that cannot be locked must not hold back the receipts of all the others.
                for journal, append in list(batch.items()):
                    alone = {journal: append}
                    await self._append(alone)
                    if not alone:
                        del batch[journal]
            if batch:
                await asyncio.sleep(delay * self._random.uniform(0.5, 1.0))
                delay = min(delay * 2, self._limits.max_retry_delay)

    async def _append(self, batch: dict[Journal, Append]) -> None:
        """Append the batch and take from it what is decided; on failure it stays as it is, for another try."""
        started = self._loop.time()
        appends = sorted(batch.values(), key=lambda append: append.document_id)
        try:
            async with asyncio.timeout(self._limits.append_timeout):
                results = await self._log.append(appends)
        except (StorageUnavailable, TimeoutError) as error:
            COMMIT_FAILURES.inc()
            if not self.is_failing:
                _log.error("log_unavailable", error=repr(error), documents=len(batch))
            self.is_failing = True
            return
        if self.is_failing:
            _log.info("log_available")
        self.is_failing = False
        COMMIT_DURATION.observe(self._loop.time() - started)
        COMMIT_UPDATES.observe(sum(len(append.updates) for append in appends))
        self._tell(batch, results)

    def _tell(self, batch: dict[Journal, Append], results: Iterable[AppendResult]) -> None:
        decided = {result.document_id: result for result in results}
        for journal, append in list(batch.items()):
            result = decided[append.document_id]
            del batch[journal]
            self._account(journal, _size(append))
            if isinstance(result, Appended):
                journal.saved(append, result)
            else:
                journal.cannot_save(append, result)


def _size(append: Append) -> int:
    return sum(len(update.payload) for update in append.updates)
