"""Group commit: everything pending of all rooms in one transaction; the next batch gathers while one is being committed.

Between rooms (which hold what is unsaved) and the store (which makes it durable). A later batch of a document never commits before
an earlier one: while an append of a document is undecided, it is asked for no other. What fails is tried again with the same commit
id, so a commit whose result is unknown is not made twice (storage contract UL4).

New batches go down one lane, one at a time. A batch that failed goes down others, document by document: one that is locked waits
there by itself, while the rest is saved and new batches go on. When nothing succeeds any more, all that is late is offered
together, at growing intervals, so that a log that comes back is not met by a crowd.
"""

import asyncio
import random
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from constructure_sync.observability import (
    COMMIT_DURATION,
    COMMIT_FAILURES,
    COMMIT_UPDATES,
    UNSAVED_BYTES,
    get_logger,
)
from schemas.ids import DocumentId
from storage.contracts import Append, Appended, AppendResult, Diverged, Gone, UpdateLog

_log = get_logger()


class Journal(Protocol):
    """What the log writer needs of a room: its unsaved updates, and an ear for what became of them."""

    @property
    def document_id(self) -> DocumentId: ...

    def next_append(self, max_updates: int, max_bytes: int) -> Append | None:
        """Return the oldest unsaved updates; None when all is saved, or none can be offered before the next `wake`.

        Asked again only after `saved` or `cannot_save`.
        """
        ...

    def saved(self, append: Append, result: Appended) -> None:
        """These are on disk. What is still unsaved is asked for after another `wake`."""
        ...

    def cannot_save(self, append: Append, result: Diverged | Gone) -> None:
        """The store will never take these as they are. They count as unsaved until `restate` or `forget`."""
        ...

    def failed(self, error: Exception) -> None:
        """A method above has raised `error`: the log writer has forgotten this journal, which is to be discarded."""
        ...


@dataclass(frozen=True, slots=True)
class CommitLimits:
    """Bounds of the log writer. Seconds and bytes.

    interval: the least time between the starts of two new batches; the first after a pause starts at once.
    unsaved_bytes: what may wait for the disk on this instance; beyond it writers are sent away with 1013.
    late_lanes: appends of late documents that may be under way at once.
    """

    interval: float = 0.010
    max_updates: int = 5_000
    max_bytes: int = 16 * 1024 * 1024
    unsaved_bytes: int = 64 * 1024 * 1024
    append_timeout: float = 30.0
    retry_delay: float = 0.05
    max_retry_delay: float = 5.0
    late_lanes: int = 4


_FAILURES_TOLD: Final = 3
"""So many failures in a row with no success between them: the log is away, not a document locked."""


@dataclass(slots=True)
class _Late:
    """An append that has failed. alone: how often by itself; due: when it is tried again; delay: its last wait."""

    append: Append
    alone: int
    due: float
    delay: float


class LogWriter:
    """The one place of an instance that appends to the log."""

    def __init__(
        self, log: UpdateLog, limits: CommitLimits, loop: asyncio.AbstractEventLoop, randomness: random.Random
    ) -> None:
        self._log = log
        self._limits = limits
        self._loop = loop
        self._random = randomness
        self._dirty: dict[Journal, None] = {}
        self._trying: dict[Journal, Append | None] = {}  # None: restated meanwhile
        self._late: dict[Journal, _Late] = {}
        self._news = asyncio.Event()
        self._late_news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._unsaved: dict[Journal, int] = {}
        self._unsaved_bytes = 0
        self._failures = 0
        self._offers_together = False
        self._is_back = False

    @property
    def is_failing(self) -> bool:
        """Whether nothing can be saved just now. One document that is locked is no such failure while others are saved."""
        return self._failures >= _FAILURES_TOLD

    @property
    def is_full(self) -> bool:
        """Whether no more may be taken until the disk has caught up."""
        return self._unsaved_bytes >= self._limits.unsaved_bytes

    @property
    def unsaved_bytes(self) -> int:
        return self._unsaved_bytes

    # ------------------------------------------------------------------ from rooms

    def wake(self, journal: Journal, new_bytes: int) -> None:
        """A room has taken an update of so many bytes: commit it with the next batch. 0: ask it again for what it has."""
        if new_bytes:  # as `_set_unsaved` does, which costs too much for each edit
            self._unsaved[journal] = self._unsaved.get(journal, 0) + new_bytes
            self._unsaved_bytes += new_bytes
            self._idle.clear()
        self._dirty[journal] = None
        self._news.set()

    def restate(self, journal: Journal, unsaved_bytes: int) -> None:
        """Set what a room has unsaved, all told, and ask it afresh: what it gave before is not tried again.

        If an append is just under way the room is still told what became of it, and is asked after that.
        """
        self._late.pop(journal, None)
        if journal in self._trying:
            self._trying[journal] = None
        self._set_unsaved(journal, unsaved_bytes)
        if unsaved_bytes:
            self._dirty[journal] = None
            self._news.set()

    def forget(self, journal: Journal) -> None:
        """A room is discarded: nothing more of it is saved, unless that is just being done; then it is still told."""
        self._dirty.pop(journal, None)
        self._trying.pop(journal, None)
        self._late.pop(journal, None)
        self._set_unsaved(journal, 0)

    def _set_unsaved(self, journal: Journal, size: int) -> None:
        self._unsaved_bytes += size - self._unsaved.pop(journal, 0)
        if size > 0:
            self._unsaved[journal] = size
        if self._unsaved:
            self._idle.clear()
        else:
            self._idle.set()

    async def flushed(self) -> None:
        """Wait until nothing is unsaved."""
        await self._idle.wait()

    # ------------------------------------------------------------------ lanes

    async def run(self) -> None:
        """Commit for ever; cancelled by its owner once `flushed`."""
        lanes = [self._loop.create_task(self._commit_new(), name="log writer: new")]
        for number in range(self._limits.late_lanes):
            lanes.append(self._loop.create_task(self._commit_late(), name=f"log writer: late {number}"))
        try:
            await asyncio.gather(*lanes)
        finally:
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _commit_new(self) -> None:
        earliest = self._loop.time()
        while True:
            await self._news.wait()
            pause = earliest - self._loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            self._news.clear()
            earliest = self._loop.time() + self._limits.interval
            await self._commit(self._gather())
            if any(journal not in self._late and journal not in self._trying for journal in self._dirty):
                self._news.set()

    def _gather(self) -> dict[Journal, Append]:
        """Take what is pending out first; what comes during the commit belongs to the next batch."""
        updates, size = self._limits.max_updates, self._limits.max_bytes
        batch: dict[Journal, Append] = {}
        for journal in [each for each in self._dirty if each not in self._late and each not in self._trying]:
            if updates <= 0 or size <= 0:
                break
            self._dirty.pop(journal, None)
            append = self._ask(journal, updates, size)
            if append is not None:
                batch[journal] = append
                updates -= len(append.updates)
                size -= _size(append)
        return batch

    def _ask(self, journal: Journal, max_updates: int, max_bytes: int) -> Append | None:
        try:
            return journal.next_append(max_updates, max_bytes)
        except Exception as error:
            self._give_up(journal, error)
            return None

    async def _commit_late(self) -> None:
        while True:
            batch = self._take_due()
            if batch:
                await self._commit(batch)
            else:
                await self._until_due()

    def _take_due(self) -> dict[Journal, Append]:
        """Take the one that was tried alone least often.

        While nothing can be saved, it is any, due or not, and every other time all of them; as when the log has just come back.
        """
        now = self._loop.time()
        waiting = [journal for journal in self._late if journal not in self._trying]
        due = [journal for journal in waiting if self._late[journal].due <= now]
        if self._is_back:
            batch = self._together(waiting)
            self._is_back = len(batch) < len(waiting)
            return batch
        if not due:
            return {}
        self._offers_together = self.is_failing and not self._offers_together
        if self._offers_together:
            return self._together(waiting)
        journal = min(waiting if self.is_failing else due, key=lambda each: self._late[each].alone)
        return {journal: self._late[journal].append}

    def _together(self, journals: Iterable[Journal]) -> dict[Journal, Append]:
        """Return the appends of the first of these, as many as a batch may hold, at least one if there is any."""
        updates, size = self._limits.max_updates, self._limits.max_bytes
        batch: dict[Journal, Append] = {}
        for journal in journals:
            append = self._late[journal].append
            updates -= len(append.updates)
            size -= _size(append)
            if batch and (updates < 0 or size < 0):
                break
            batch[journal] = append
        return batch

    async def _until_due(self) -> None:
        waiting = [late.due for journal, late in self._late.items() if journal not in self._trying]
        self._late_news.clear()
        try:
            async with asyncio.timeout_at(min(waiting, default=None)):
                await self._late_news.wait()
        except TimeoutError:
            pass

    # ------------------------------------------------------------------ one append

    async def _commit(self, batch: dict[Journal, Append]) -> None:
        """Append a batch, and put off what stays undecided."""
        if not batch:
            return
        self._trying.update(batch)
        outcome = await self._append(sorted(batch.values(), key=lambda append: append.document_id))
        own = {journal: append for journal, append in batch.items() if self._trying.pop(journal, None) is append}
        if isinstance(outcome, Exception):
            for journal, append in own.items():
                self._put_off(journal, append, outcome, is_alone=len(batch) == 1)
            self._late_news.set()
        else:
            for journal in own:
                self._late.pop(journal, None)
            self._tell(batch, own.keys(), outcome)
        if any(journal in self._dirty for journal in batch):
            self._news.set()  # who has more, or was restated meanwhile, can be asked now
        UNSAVED_BYTES.set(self._unsaved_bytes)

    async def _append(self, appends: list[Append]) -> Iterable[AppendResult] | Exception:
        """Return what the log says, or why it said nothing."""
        started = self._loop.time()
        try:
            async with asyncio.timeout(self._limits.append_timeout):
                results = await self._log.append(appends)
        except Exception as error:
            # Whatever it was: nothing is known to be decided, and what was taken is not given up for a fault of the store.
            COMMIT_FAILURES.inc()
            self._failures += 1
            if self._failures == _FAILURES_TOLD:
                _log.error("log_unavailable", error=repr(error), documents=len(appends))
            return error
        if self.is_failing:
            _log.info("log_available")
            self._is_back = True
            self._late_news.set()
        self._failures = 0
        COMMIT_DURATION.observe(self._loop.time() - started)
        COMMIT_UPDATES.observe(sum(len(append.updates) for append in appends))
        return results

    def _put_off(self, journal: Journal, append: Append, error: Exception, *, is_alone: bool) -> None:
        """Try again later: the first time soon, since it may be others of the batch that cannot be saved, then ever later."""
        late, limits = self._late.get(journal), self._limits
        delay = limits.retry_delay if late is None else min(late.delay * 2, limits.max_retry_delay)
        due = self._loop.time() + delay * self._random.uniform(0.5, 1.0)
        self._late[journal] = _Late(append, (late.alone if late else 0) + is_alone, due, delay)
        if late is not None and late.delay == limits.retry_delay and not self.is_failing:
            _log.warning("document_not_saved_yet", document=str(journal.document_id), error=repr(error))

    def _tell(self, batch: dict[Journal, Append], own: Container[Journal], results: Iterable[AppendResult]) -> None:
        """Tell every room what became of its append. own: those whose append still counts."""
        decided = {result.document_id: result for result in results}
        for journal, append in batch.items():
            result = decided[append.document_id]
            try:
                if isinstance(result, Appended):
                    if journal in own:
                        self._set_unsaved(journal, max(0, self._unsaved.get(journal, 0) - _size(append)))
                    journal.saved(append, result)
                else:
                    journal.cannot_save(append, result)
            except Exception as error:
                self._give_up(journal, error)

    def _give_up(self, journal: Journal, error: Exception) -> None:
        """A room's fault is that room's end, and nobody else's."""
        _log.error("journal_failed", document=str(journal.document_id), exc_info=error)
        self.forget(journal)
        try:
            journal.failed(error)
        except Exception:
            _log.exception("journal_not_discarded", document=str(journal.document_id))


def _size(append: Append) -> int:
    return sum(len(update.payload) for update in append.updates)
