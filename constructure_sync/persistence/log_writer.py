"""Group commit: everything pending of all rooms in one transaction; the next batch gathers while one is being committed.

Between rooms (which hold what is unsaved) and the store (which makes it durable). A later batch of a document never commits before
an earlier one: there is one batch at a time, and a document whose append has failed gives no other until that one is decided. What
fails is tried again with the same commit id, so a commit whose result is unknown is not made twice (storage contract UL4).
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


_FAILURES_TOLD = 3
"""So many documents failing one after the other, and no other succeeding: the log is away, not a document locked."""


@dataclass(slots=True)
class _Late:
    """An append that has failed. due: when it is tried again; delay: how long it waited for that."""

    append: Append
    due: float
    delay: float


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
        self._late: dict[Journal, _Late] = {}
        self._news = asyncio.Event()
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
        self._news.set()
        if not self._work.is_set():
            self._work.set()
            self._idle.clear()

    def forget(self, journal: Journal) -> None:
        """A room is discarded: what it has not saved will not be saved, unless that is just being done."""
        self._dirty.pop(journal, None)
        self._late.pop(journal, None)
        self._news.set()
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
            self._news.clear()
            started = self._loop.time()
            for batch in (self._gather(), self._gather_late()):
                await self._commit(batch)
            UNSAVED_BYTES.set(self._unsaved_bytes)
            if not self._dirty and not self._late:
                self._work.clear()
                self._idle.set()
            pause = self._limits.interval - (self._loop.time() - started)
            if pause > 0:
                await asyncio.sleep(pause)
            if self._late and self._dirty.keys() <= self._late.keys():
                await self._until_due()

    async def _until_due(self) -> None:
        """Only documents that have failed are left: wait until one is due, or another has something new."""
        try:
            async with asyncio.timeout_at(min(late.due for late in self._late.values())):
                await self._news.wait()
        except TimeoutError:
            pass

    def _gather(self) -> dict[Journal, Append]:
        """Take what is pending out first; what comes during the commit belongs to the next batch."""
        updates, size = self._limits.max_updates, self._limits.max_bytes
        batch: dict[Journal, Append] = {}
        for journal in list(self._dirty):
            if updates <= 0 or size <= 0:
                break
            if journal in self._late:
                continue
            del self._dirty[journal]
            append = journal.next_append(updates, size)
            if append is not None:
                batch[journal] = append
                updates -= len(append.updates)
                size -= _size(append)
        return batch

    def _gather_late(self) -> dict[Journal, Append]:
        """Take out those that have failed and are due: never together with others, whose commit they would spoil."""
        now = self._loop.time()
        return {journal: late.append for journal, late in self._late.items() if late.due <= now}

    async def _commit(self, batch: dict[Journal, Append]) -> None:
        """Append a batch; document by document when that fails, since one that cannot be locked must not hold back the others."""
        if not batch:
            return
        await self._append(batch)
        failed, is_any_saved = 0, False
        for journal, append in list(batch.items()) if len(batch) > 1 else []:
            alone = {journal: append}
            await self._append(alone)
            if alone:
                failed += 1
            else:
                is_any_saved = True
                del batch[journal]
            if failed >= _FAILURES_TOLD and not is_any_saved:
                break
        for journal, append in batch.items():
            self._put_off(journal, append)

    def _put_off(self, journal: Journal, append: Append) -> None:
        if journal not in self._unsaved:
            return  # forgotten meanwhile
        late = self._late.get(journal)
        delay = self._limits.retry_delay if late is None else min(late.delay * 2, self._limits.max_retry_delay)
        due = self._loop.time() + delay * self._random.uniform(0.5, 1.0)
        self._late[journal] = _Late(append, due, delay)

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
            self._late.pop(journal, None)
            self._account(journal, _size(append))
            if isinstance(result, Appended):
                journal.saved(append, result)
            else:
                journal.cannot_save(append, result)


def _size(append: Append) -> int:
    return sum(len(update.payload) for update in append.updates)
