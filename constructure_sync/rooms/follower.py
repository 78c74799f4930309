"""Keeps a room at the head of its document's log, which other instances write too (R6), and heals it when that has gone back (R9).

The bus tells quickly, the log tells truly. Commits are taken strictly in Seq order. Own commits routinely look like holes, because
another's of a moment ago is still on its way (interleavings 18), so a hole is given a moment before the log is read.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from constructure_sync.bus.contracts import Saved
from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import LOG_READS, LOGS_HEALED, get_logger
from constructure_sync.persistence.export import stored_updates
from constructure_sync.protocol.known import ClosedPart
from constructure_sync.protocol.update_reader import STORED_LIMITS
from constructure_sync.replica.jobs import close_update
from constructure_sync.replica.pool import WorkerFailed
from constructure_sync.replica.reconcile import Reconciled, reconcile
from constructure_sync.rooms.log_place import LogPlace
from constructure_sync.rooms.services import RoomServices
from schemas.ids import CommitId
from storage.contracts import Appended, Diverged, Gone, Head, StorageUnavailable

if TYPE_CHECKING:
    from constructure_sync.rooms.room import Room

_log = get_logger()
_UPDATES_AT_ONCE: Final = 1_000
_UPDATES_PER_TURN: Final = 50  # of the loop
_HEALING_DELAYS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)


class Follower:
    """One room's way along its log. `place` tells where it stands; the room is told what to take."""

    def __init__(self, room: "Room", head: Head, services: RoomServices) -> None:
        self.place = LogPlace(head)
        self.is_healing = False
        self._room = room
        self._services = services
        self._is_taking = False
        self._heals = 0  # begun; what was read before one is of another log
        self._hole: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ what is heard

    def own(self, appended: Appended, commit: CommitId) -> None:
        """A commit of this room has been made."""
        self.place.own(appended, commit)
        self._proceed()

    def heard(self, saved: Saved) -> None:
        """Another instance says that it has saved something."""
        self.place.heard(saved)
        self._proceed()

    def seen(self, head: Head, before: Head) -> None:
        """The log's head has been looked at. before: the newest commit that the room knew when the look began."""
        newest = self.place.newest
        if head.seq < before.seq or (head.seq == before.seq and head.commit != before.commit):
            self.heal()
        elif head.seq > newest.seq or self.place.must_look or self.place.has_hole:
            self._read_log()

    def stop(self) -> None:
        """The room is gone."""
        if self._hole is not None:
            self._hole.cancel()

    # ------------------------------------------------------------------ taking what is next

    def _proceed(self) -> None:
        """Take every commit that follows on the head; a large update is read in a worker, and the rest waits for it."""
        place, limit = self.place, self._room.limits.worker_frame_bytes
        while self._may_take and (following := place.next()) is not None:
            if any(len(update) > limit for update in following.updates):
                self._begin("take a large update of another instance", following.updates, following.head)
                return
            if not self._take(following.updates):
                return
            place.move(following.head)
        if (place.has_hole or place.must_look) and self._may_take and self._hole is None:
            self._hole = self._services.loop.call_later(self._room.limits.hole_grace, self._hole_has_lasted)

    @property
    def _may_take(self) -> bool:
        return not self._is_taking and not self.is_healing and not self._room.is_discarded

    def _hole_has_lasted(self) -> None:
        self._hole = None
        if self.place.has_hole or self.place.must_look:
            self._read_log()

    def _take(self, updates: Sequence[bytes]) -> bool:
        """Take others' updates; False when they do not fit what the room has, which only another log explains."""
        for update in updates:
            try:
                part = self._room.history.known.close(update, STORED_LIMITS)
            except ProtocolViolation as violation:
                return self._does_not_fit(violation.reason)
            if not self._take_part(part):
                return False
        return True

    def _take_part(self, part: ClosedPart) -> bool:
        if part.missing:
            return self._does_not_fit("something before it is missing")
        self._room.take_saved(part)
        return True

    def _does_not_fit(self, reason: str) -> bool:
        _log.error("saved_update_does_not_fit", document=str(self._room.document_id), reason=reason)
        self.heal()
        return False

    def _begin(self, name: str, updates: Sequence[bytes], head: Head) -> None:
        self._is_taking = True
        self._room.own(name, self._take_slowly, updates, head, self._heals)

    async def _take_slowly(self, updates: Sequence[bytes], head: Head, heals: int) -> None:
        try:
            if await self._take_each(updates, heals):
                self.place.move(head)
        except (WorkerFailed, TimeoutError) as error:
            _log.error("saved_update_not_read", document=str(self._room.document_id), error=repr(error))
            self.place.must_look = True
        finally:
            self._is_taking = False
        self._proceed()

    async def _take_each(self, updates: Sequence[bytes], heals: int) -> bool:
        """Take updates in order; False when they do not fit. Others have their turns of the loop meanwhile.

        heals: how many had begun when the updates were given. Once another begins they are of a log that is no more, and what
        was taken of them behind its back would be offered to no log.
        """
        room = self._room
        for number, update in enumerate(updates, 1):
            if self._heals != heals:
                return False
            if len(update) <= room.limits.worker_frame_bytes:
                if not self._take([update]):
                    return False
                if not number % _UPDATES_PER_TURN:
                    await asyncio.sleep(0)
                continue
            try:
                part = await self._services.workers.run(
                    close_update, room.history.known.copy(), update, STORED_LIMITS, timeout=room.limits.worker_timeout
                )
            except ProtocolViolation as violation:
                return self._heals == heals and self._does_not_fit(violation.reason)
            if room.is_discarded or self._heals != heals or not self._take_part(room.unless_known(part)):
                return False
        return not room.is_discarded and self._heals == heals

    # ------------------------------------------------------------------ reading the log

    def _read_log(self) -> None:
        if self._may_take:
            self._is_taking = True
            self._room.own("read the log", self._catch_up)

    async def _catch_up(self) -> None:
        """Read what the log holds behind the head. When it is away, the next look at the heads comes back to it."""
        LOG_READS.inc()
        try:
            async with asyncio.timeout(self._room.limits.load_timeout):
                while await self._read_on():
                    pass
        except (StorageUnavailable, WorkerFailed, TimeoutError) as error:
            _log.warning("log_not_read", document=str(self._room.document_id), error=repr(error))
            return
        finally:
            self._is_taking = False
        self._proceed()

    async def _read_on(self) -> bool:
        """Take a stretch of the log; True when there may be more."""
        place, room = self.place, self._room
        after, newest, heals = place.head, place.newest, self._heals
        # Not beyond the newest commit that is known, so that it can be seen whether the log still holds it.
        is_known = newest.seq > after.seq
        limit = min(_UPDATES_AT_ONCE, newest.seq - after.seq) if is_known else _UPDATES_AT_ONCE
        changes = await self._services.log.changes(room.document_id, after, limit)
        if room.is_discarded or self._heals != heals:
            return False
        if isinstance(changes, Gone):
            room.document_is_gone()
            return False
        if isinstance(changes, Diverged):
            self.heal()
            return False
        place.must_look = False
        head = changes.head
        if is_known and (
            (len(changes.updates) < limit and head.seq < newest.seq)
            or (head.seq == newest.seq and head.commit != newest.commit)
        ):
            self.heal()
            return False
        if not await self._take_each([update.payload for update in changes.updates], heals):
            return False
        place.move(head)
        return bool(changes.updates) and (len(changes.updates) == limit or place.newest.seq > head.seq)

    # ------------------------------------------------------------------ healing

    def heal(self) -> None:
        """The log is not the one that the room has followed: load it, and offer again everything that it lacks (R9)."""
        if not self.is_healing and not self._room.is_discarded:
            self.is_healing = True
            self._heals += 1
            _log.warning("log_diverged", document=str(self._room.document_id), seq=self.place.newest.seq)
            self._room.own("heal", self._heal)

    async def _heal(self) -> None:
        """Try until it is done: meanwhile the room takes and relays, and saves nothing."""
        attempt = 0
        while not self._room.is_discarded:
            try:
                await self._reconcile()
                return
            except (StorageUnavailable, WorkerFailed, TimeoutError) as error:
                _log.warning("not_healed", document=str(self._room.document_id), error=repr(error))
            delay = _HEALING_DELAYS[min(attempt, len(_HEALING_DELAYS) - 1)]
            attempt += 1
            await asyncio.sleep(delay * self._services.randomness.uniform(0.5, 1.0))

    async def _reconcile(self) -> None:
        room, limits = self._room, self._room.limits
        async with asyncio.timeout(limits.load_timeout):
            stored = await self._services.log.load(room.document_id)
        if stored is None:
            room.document_is_gone()
            return
        mark = room.history.head
        pieces = room.history.pieces()
        reconciled: Reconciled = await self._services.workers.run(
            reconcile,
            room.history.known.copy(),
            [piece.update for _, piece in pieces],
            stored_updates(stored),
            timeout=limits.worker_timeout,
        )
        if room.is_discarded:
            return
        for part in reconciled.theirs:
            room.take_saved(room.unless_known(part))
        self.place.start_at(stored.head)
        self.is_healing = False
        LOGS_HEALED.inc()
        room.offer_again(mark, [(*pieces[index], part) for index, part in reconciled.ours])
        self._read_log()  # others may have committed since
