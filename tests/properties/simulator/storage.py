"""The memory stores behind a slow and failing line: before the commit, after it, for a while, for ever."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.ids import DocumentId, Seq
from storage.contracts import (
    Append,
    AppendResult,
    StorageUnavailable,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
    StrandedChange,
)
from storage.memory import MemoryStrandedChanges, MemoryUpdateLog


class LogWatcher(Protocol):
    """Sees the log after each append, and whenever it is loaded or its rows and segments change."""

    def appended(self, batch: Sequence[Append], results: Sequence[AppendResult]) -> None: ...
    async def compare(self, document_id: DocumentId) -> None: ...


@dataclass(slots=True)
class Weather:
    """How the database does just now. delay: seconds a call takes at most. fail_*: shares of calls."""

    delay: float = 0.002
    is_away: bool = False
    fail_before: float = 0.0
    fail_after: float = 0.0
    hang: float = 0.0
    locked: DocumentId | None = None
    stranded_is_away: bool = False


class SimulatedLog:
    """An `UpdateLog` as one instance reaches it. A commit happens at one moment in the middle of a call."""

    def __init__(
        self, stored: MemoryUpdateLog, weather: Weather, randomness: random.Random, watcher: LogWatcher
    ) -> None:
        self.stored = stored
        self._weather = weather
        self._random = randomness
        self._watcher = watcher

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
        results = await self.stored.append(batch)
        self._watcher.appended(batch, results)
        await self._return()
        return results

    async def load(self, document_id: DocumentId) -> StoredDocument | None:
        await self._pass()
        await self._watcher.compare(document_id)
        stored = await self.stored.load(document_id)
        await self._return()
        return stored

    async def add_segments(
        self, document_id: DocumentId, segments: Sequence[StoredSegment], replaces: Sequence[tuple[Seq, Seq]]
    ) -> bool:
        await self._pass()
        await self._watcher.compare(document_id)
        is_done = await self.stored.add_segments(document_id, segments, replaces)
        await self._watcher.compare(document_id)
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
