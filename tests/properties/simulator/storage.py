"""The memory stores behind a slow and failing line: before the commit, after it, for a while, for ever."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.ids import DocumentId, Seq
from storage.contracts import (
    Append,
    AppendResult,
    Changes,
    Diverged,
    Gone,
    Head,
    StorageUnavailable,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
    StrandedChange,
)
from storage.memory import MemoryStrandedChanges, MemoryUpdateLog

_LATEST = 20.0


class LogWatcher(Protocol):
    """Sees the log after each append, and whenever it is loaded or its rows and segments change.

    epoch: how often the log has been set back. read: an instance has been told what the log held in that epoch.
    """

    epoch: int

    def about_to_append(self) -> None: ...
    def appended(self, batch: Sequence[Append], results: Sequence[AppendResult]) -> None: ...
    def told(self, reader: object, batch: Sequence[Append], results: Sequence[AppendResult]) -> None: ...
    def read(self, reader: object, document_id: DocumentId, epoch: int) -> None: ...
    def is_late(self, change: int) -> None: ...
    def fail(self, rule: str, what: str) -> None: ...
    async def compare(self, document_id: DocumentId) -> None: ...
    async def compare_segments(self, document_id: DocumentId) -> None: ...


@dataclass(slots=True)
class Weather:
    """How the database does just now for one instance. delay: seconds a call takes at most. The others: shares of calls.

    late: the commit happens long after its caller has been told that nothing is known of it, or has died.
    """

    delay: float = 0.002
    is_away: bool = False
    fail_before: float = 0.0
    fail_after: float = 0.0
    hang: float = 0.0
    late: float = 0.0
    locked: DocumentId | None = None
    stranded_is_away: bool = False


class SimulatedLog:
    """An `UpdateLog` as one instance reaches it. A commit happens at one moment in the middle of a call."""

    def __init__(
        self, stored: MemoryUpdateLog, weather: Weather, randomness: random.Random, watcher: LogWatcher, reader: object
    ) -> None:
        self.stored = stored
        self._weather = weather
        self._random = randomness
        self._watcher = watcher
        self._reader = reader
        self._loads: Counter[DocumentId] = Counter()
        self._late: set[asyncio.Task[None]] = set()

    async def _pass(self, batch: Sequence[Append] = ()) -> None:
        """The way to the database: slow, and perhaps the end of it."""
        weather, chance = self._weather, self._random.random
        await asyncio.sleep(weather.delay * chance())
        locked = weather.locked is not None and any(append.document_id == weather.locked for append in batch)
        if weather.is_away or locked or chance() < weather.fail_before:
            raise StorageUnavailable("simulated: nothing was done")
        if chance() < weather.hang:
            await asyncio.sleep(3600.0)

    async def _return(self) -> None:
        """The way back: what was done is done, whether the caller learns of it or not."""
        weather, chance = self._weather, self._random.random
        await asyncio.sleep(weather.delay * chance())
        if chance() < weather.hang:
            await asyncio.sleep(3600.0)
        if weather.is_away or chance() < weather.fail_after:
            raise StorageUnavailable("simulated: the answer was lost")

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        await self._pass(batch)
        if self._random.random() < self._weather.late:
            # Not a task of the instance: it happens even if that dies.
            task = asyncio.get_running_loop().create_task(self._commit_late(batch))
            self._late.add(task)
            task.add_done_callback(self._late.discard)
            raise StorageUnavailable("simulated: nothing is known")
        results = await self._commit(batch)
        await self._return()
        self._watcher.told(self._reader, batch, results)
        return results

    async def _commit(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        self._watcher.about_to_append()
        results = await self.stored.append(batch)
        self._watcher.appended(batch, results)
        return results

    async def _commit_late(self, batch: Sequence[Append]) -> None:
        epoch = self._watcher.epoch
        self._watcher.is_late(1)
        await asyncio.sleep(_LATEST * self._random.random())
        if epoch == self._watcher.epoch:  # the server that had it under way is still there
            await self._commit(batch)
        self._watcher.is_late(-1)

    async def load(self, document_id: DocumentId) -> StoredDocument | None:
        self._loads[document_id] += 1
        if self._loads[document_id] > 1:
            self._watcher.fail("rooms", f"{document_id} is loaded {self._loads[document_id]} times at once")
        try:
            await self._pass()
            await self._watcher.compare(document_id)
            stored, epoch = await self.stored.load(document_id), self._watcher.epoch
            await self._return()
        finally:
            self._loads[document_id] -= 1
        self._watcher.read(self._reader, document_id, epoch)
        return stored

    async def add_segments(
        self,
        document_id: DocumentId,
        segments: Sequence[StoredSegment],
        replaces: Sequence[tuple[Seq, Seq]],
        at: Head,
    ) -> bool:
        await self._pass()
        await self._watcher.compare(document_id)
        is_done = await self.stored.add_segments(document_id, segments, replaces, at)
        await self._watcher.compare(document_id)
        if is_done:
            await self._watcher.compare_segments(document_id)
        await self._return()
        return is_done

    async def purge_covered(self, document_id: DocumentId, saved_before: float, limit: int) -> int:
        await self._pass()
        count = await self.stored.purge_covered(document_id, saved_before, limit)
        await self._watcher.compare(document_id)
        await self._return()
        return count

    async def history(self, document_id: DocumentId, first: Seq, last: Seq) -> Sequence[StoredUpdate]:
        await self._pass()
        return await self.stored.history(document_id, first, last)

    async def heads(self, document_ids: Sequence[DocumentId]) -> Mapping[DocumentId, Head]:
        await self._pass()
        heads = await self.stored.heads(document_ids)
        await self._return()
        return heads

    async def changes(self, document_id: DocumentId, after: Head, limit: int) -> Changes | Diverged | Gone:
        await self._pass()
        changes, epoch = await self.stored.changes(document_id, after, limit), self._watcher.epoch
        await self._return()
        if isinstance(changes, Changes):
            self._watcher.read(self._reader, document_id, epoch)
        return changes

    async def to_sweep(self, after: DocumentId | None, uncovered: int, limit: int) -> Sequence[DocumentId]:
        await self._pass()
        documents = await self.stored.to_sweep(after, uncovered, limit)
        await self._return()
        return documents


class SimulatedStrandedChanges:
    """`StrandedChanges` as one instance reaches them."""

    def __init__(self, stored: MemoryStrandedChanges, weather: Weather, randomness: random.Random) -> None:
        self.stored = stored
        self._weather = weather
        self._random = randomness

    async def keep(self, change: StrandedChange) -> None:
        await asyncio.sleep(self._weather.delay * self._random.random())
        if self._weather.stranded_is_away:
            raise StorageUnavailable("simulated: not kept")
        await self.stored.keep(change)

    async def list_for(self, document_id: DocumentId) -> Sequence[StrandedChange]:
        await asyncio.sleep(self._weather.delay * self._random.random())
        return await self.stored.list_for(document_id)
