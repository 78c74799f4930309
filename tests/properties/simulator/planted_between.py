"""Faults between instances: in the log that they share, on the bus, in how a room follows and in compaction by several at once."""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from unittest.mock import patch
from weakref import WeakKeyDictionary

from constructure_sync.protocol.known import ClosedPart
from constructure_sync.rooms.follower import Follower
from constructure_sync.rooms.history import Piece
from constructure_sync.rooms.log_place import LogPlace, Next
from constructure_sync.rooms.registry import Rooms
from constructure_sync.rooms.room import Room
from schemas.ids import CommitId, DocumentId, Seq
from storage import memory
from storage.contracts import Append, Appended, AppendResult, Diverged, Head, StoredSegment, StoredUpdate
from storage.memory import MemoryUpdateLog
from tests.properties.simulator.storage import SimulatedLog


def an_identity_column_as_seq() -> AbstractContextManager[object]:
    """Seqs are given outside the row lock: they come in another order than the commits, and what fails leaves gaps."""
    given: WeakKeyDictionary[MemoryUpdateLog, dict[DocumentId, int]] = WeakKeyDictionary()

    def commit(log: MemoryUpdateLog, append: Append, first: int) -> AppendResult:
        document = log._documents[append.document_id]
        before = document.commits.get(append.commit)
        if before is not None:
            return Appended(append.document_id, *before, document.commit_at(before[0] - 1))
        if not document.holds(append.after):
            return Diverged(append.document_id)
        last = Seq(first + len(append.updates) - 1)
        for seq, new in enumerate(append.updates, first):
            document.rows[Seq(seq)] = memory._Row(StoredUpdate(Seq(seq), new.payload), append.commit, log._now())
        document.commits[append.commit] = (Seq(first), last)
        document.head = max(document.head, Head(last, append.commit), key=lambda head: head.seq)
        return Appended(append.document_id, Seq(first), last, None)

    async def append(self: SimulatedLog, batch: Sequence[Append]) -> Sequence[AppendResult]:
        columns = given.setdefault(self.stored, {})
        first = {each.document_id: columns.get(each.document_id, 0) + 1 for each in batch}
        for each in batch:
            columns[each.document_id] = first[each.document_id] + len(each.updates) - 1
        await self._pass(batch)
        results = [commit(self.stored, each, first[each.document_id]) for each in batch]
        self._watcher.appended(batch, results)
        await self._return()
        return results

    return patch.object(SimulatedLog, "append", append)


class _Indifferent(int):
    """A number that counts as equal to every other."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int)

    def __ne__(self, other: object) -> bool:
        return not self == other


def commit_ids_not_compared() -> AbstractContextManager[object]:
    next_append = Room.next_append

    def indifferent(self: Room, max_updates: int, max_bytes: int) -> Append | None:
        append = next_append(self, max_updates, max_bytes)
        if append is not None:
            self._in_flight = append = replace(append, commit=CommitId(_Indifferent(append.commit)))
        return append

    return patch.object(Room, "next_append", indifferent)


def a_bus_message_taken_out_of_order() -> AbstractContextManager[object]:
    def first_that_came(self: LogPlace) -> Next | None:
        for saved in self._waiting.values():
            if saved.updates is not None:
                return Next(Head(saved.last, saved.commit), saved.updates)
        return None

    return patch.object(LogPlace, "next", first_that_came)


def segments_put_without_a_fence() -> AbstractContextManager[object]:
    async def put(
        self: MemoryUpdateLog,
        document_id: DocumentId,
        segments: Sequence[StoredSegment],
        replaces: Sequence[tuple[Seq, Seq]],
        at: Head,
    ) -> bool:
        document = self._documents[document_id]
        first, last = segments[0].first, segments[-1].last
        kept = [each for each in document.segments if each.last < first or each.first > last]
        document.segments = sorted([*kept, *segments], key=lambda each: each.first)
        return True

    return patch.object(MemoryUpdateLog, "add_segments", put)


def segments_fenced_on_seqs_alone() -> AbstractContextManager[object]:
    """A log that was set back meanwhile has other updates at these Seqs."""
    add_segments = MemoryUpdateLog.add_segments

    async def put(
        self: MemoryUpdateLog,
        document_id: DocumentId,
        segments: Sequence[StoredSegment],
        replaces: Sequence[tuple[Seq, Seq]],
        at: Head,
    ) -> bool:
        return await add_segments(self, document_id, segments, replaces, self._documents[document_id].head)

    return patch.object(MemoryUpdateLog, "add_segments", put)


def what_was_heard_told_again() -> AbstractContextManager[object]:
    """Two instances play ping-pong."""
    take = Room.take_saved

    def take_and_save(self: Room, part: ClosedPart) -> None:
        position = self.history.head
        take(self, part)
        if not part.is_empty:
            self._outbox.add(position, self.history.tail[-1])
            self._services.log_writer.wake(self, len(part.update))

    return patch.object(Room, "take_saved", take_and_save)


def heads_not_looked_at() -> AbstractContextManager[object]:
    async def never(self: Rooms) -> None:
        await asyncio.Event().wait()

    return patch.object(Rooms, "follow_heads", never)


def nothing_offered_to_a_log_that_was_set_back() -> AbstractContextManager[object]:
    offer = Room.offer_again

    def offer_nothing(self: Room, mark: int, offers: list[tuple[int, Piece, ClosedPart]]) -> None:
        offer(self, mark, [])

    return patch.object(Room, "offer_again", offer_nothing)


def a_log_that_was_set_back_not_noticed() -> AbstractContextManager[object]:
    def heal(self: Follower) -> None:
        pass

    return patch.object(Follower, "heal", heal)


def a_document_loaded_by_each_who_waits() -> AbstractContextManager[object]:
    async def load(self: Rooms, document_id: DocumentId) -> Room:
        room = self._rooms.get(document_id)
        return await self._load(document_id) if room is None else room

    return patch.object(Rooms, "open", load)


def a_commit_told_before_it_is_made() -> AbstractContextManager[object]:
    next_append = Room.next_append

    def tell(self: Room, max_updates: int, max_bytes: int) -> Append | None:
        append = next_append(self, max_updates, max_bytes)
        if append is not None:
            first = Seq(append.after.seq + 1)
            last = Seq(append.after.seq + len(append.updates))
            self._publish(append, Appended(append.document_id, first, last, append.after.commit))
        return append

    return patch.object(Room, "next_append", tell)


FAULTS = (
    an_identity_column_as_seq,
    commit_ids_not_compared,
    a_bus_message_taken_out_of_order,
    segments_put_without_a_fence,
    segments_fenced_on_seqs_alone,
    what_was_heard_told_again,
    heads_not_looked_at,
    nothing_offered_to_a_log_that_was_set_back,
    a_log_that_was_set_back_not_noticed,
    a_document_loaded_by_each_who_waits,
    a_commit_told_before_it_is_made,
)
