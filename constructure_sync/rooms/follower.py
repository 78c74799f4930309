"""Keeps a room at the head of its document's log, which other instances write too (R6).

The bus tells quickly, the log tells truly. Commits are taken strictly in Seq order. Own commits routinely look like holes, because
another's of a moment ago is still on its way (interleavings 18), so a hole is given a moment before the log is read. What the bus
says and the log does not bear out costs a look at the log, at growing intervals, and nothing else.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from constructure_sync.bus.contracts import Saved
from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import LOG_READS, get_logger
from constructure_sync.protocol.known import ClosedPart
from constructure_sync.protocol.update_reader import STORED_LIMITS
from constructure_sync.replica.jobs import close_update
from constructure_sync.replica.pool import WorkerFailed
from constructure_sync.rooms.healer import Healer
from constructure_sync.rooms.log_place import LogPlace
from constructure_sync.rooms.services import RoomServices
from schemas.ids import CommitId, Seq
from storage.contracts import Appended, Changes, Diverged, Gone, Head, StorageUnavailable

if TYPE_CHECKING:
    from constructure_sync.rooms.room import Room

_log = get_logger()
_UPDATES_AT_ONCE: Final = 1_000
_UPDATES_PER_TURN: Final = 50  # of the loop
_LONGEST_DELAY: Final = 5.0
_LONGEST_OWN_GRACE: Final = 1.0


class Follower:
    """One room's way along its log. `place` tells where it stands; the room is told what to take."""

    def __init__(self, room: "Room", head: Head, services: RoomServices) -> None:
        self.place = LogPlace(head)
        self._room = room
        self._services = services
        self._healer = Healer(room, self.place, services, self._healed)
        self._is_taking = False
        self._is_reading = False
        self._must_pause = False
        self._timer: asyncio.TimerHandle | None = None
        self._fruitless = 0  # looks at the log in a row that brought nothing or failed
        self._read_to = Seq(0)
        self._own_grace = room.limits.hole_grace

    @property
    def is_healing(self) -> bool:
        return self._healer.is_healing

    # ------------------------------------------------------------------ what is heard

    def own(self, appended: Appended, commit: CommitId) -> None:
        """A commit of this room has been made."""
        self.place.own(appended, commit)
        self._proceed()

    def heard(self, saved: Saved) -> None:
        """Another instance says that it has saved something."""
        if saved.last <= self._read_to:
            # It was read from the log before the bus had brought it: more patience with the holes that own commits make.
            self._own_grace = min(self._own_grace * 2, _LONGEST_OWN_GRACE)
        self.place.heard(saved)
        self._proceed()

    def seen(self, head: Head, before: Head) -> None:
        """The log's head has been looked at. before: the newest commit that the room knew when the look began."""
        if head.seq < before.seq or (head.seq == before.seq and head.commit != before.commit):
            self.heal()
        elif head.seq > self.place.newest.seq or self.place.must_look or self.place.has_hole:
            self._read_log()

    def heal(self) -> None:
        """The log is not the one that the room has followed (R9)."""
        self._healer.heal()

    def _healed(self) -> None:
        self._read_log()  # others may have committed since

    def stop(self) -> None:
        """The room is gone."""
        if self._timer is not None:
            self._timer.cancel()

    # ------------------------------------------------------------------ taking what is next

    @property
    def _may_take(self) -> bool:
        return not (self._is_taking or self._must_pause or self.is_healing or self._room.is_discarded)

    def _proceed(self) -> None:
        """Take every commit that follows on the head; a large update is read in a worker, and the rest waits for it."""
        place, limit = self.place, self._room.limits.worker_frame_bytes
        while self._may_take and (following := place.next()) is not None:
            if any(len(update) > limit for update in following.updates):
                self._is_taking = True
                self._room.own("take large updates", self._take_slowly, following.updates, following.head)
                return
            if not self._take(following.updates):
                break
            place.move(following.head)
            if following.updates:
                self._fruitless = 0
        self._watch()

    def _watch(self) -> None:
        """Look at the log after a while, unless the bus brings what is missing before."""
        place = self.place
        if not (place.has_hole or place.must_look):
            self._own_grace = max(self._own_grace * 0.995, self._room.limits.hole_grace)
        elif self._timer is None and not (self._is_reading or self.is_healing or self._room.is_discarded):
            delay = self._own_grace if place.waits_for_own else self._room.limits.hole_grace
            if self._fruitless:
                delay = min(delay * 2.0 ** min(self._fruitless, 16), _LONGEST_DELAY)
                delay *= self._services.randomness.uniform(0.5, 1.0)
            self._timer = self._services.loop.call_later(delay, self._look)

    def _look(self) -> None:
        self._timer = None
        self._must_pause = False
        if self.place.has_hole or self.place.must_look:
            self._read_log()

    def _take(self, updates: Sequence[bytes]) -> bool:
        """Take what the bus has brought; False when it does not fit what the room has: the log is to be asked."""
        for update in updates:
            try:
                part = self._room.history.known.close(update, STORED_LIMITS)
            except ProtocolViolation as violation:
                return self._refuse_next(violation.reason)
            if part.missing:
                return self._refuse_next("something before it is missing")
            self._room.take_saved(part)
        return True

    def _refuse_next(self, reason: str) -> bool:
        _log.error("saved_update_does_not_fit", document=str(self._room.document_id), reason=reason)
        self.place.refuse_next()
        self._fruitless += 1
        return False

    async def _take_slowly(self, updates: Sequence[bytes], head: Head) -> None:
        heals = self._healer.begun
        try:
            parts = [await self._closed(update) for update in updates[:1]]
            for update in updates[1:]:
                if not self._take_closed(parts.pop(), heals):
                    return
                parts.append(await self._closed(update))
            if self._take_closed(parts.pop(), heals):
                self.place.move(head)
                self._fruitless = 0
        except ProtocolViolation as violation:
            self._refuse_next(violation.reason)
        except (WorkerFailed, TimeoutError) as error:
            self._fail("saved_update_not_read", error)
        finally:
            self._is_taking = False
            self._proceed()

    def _take_closed(self, part: ClosedPart, heals: int) -> bool:
        """Take a part that was closed meanwhile; False when it does not fit, or is of a log that is no more."""
        if self._is_overtaken(heals):
            return False
        part = self._room.unless_known(part)
        if part.missing:
            return self._refuse_next("something before it is missing")
        self._room.take_saved(part)
        return True

    async def _closed(self, update: bytes) -> ClosedPart:
        """Return the part of an update that integrates now; of a large one, what a worker found. Raises ProtocolViolation."""
        room = self._room
        if len(update) <= room.limits.worker_frame_bytes:
            return room.history.known.close(update, STORED_LIMITS)
        known, timeout = room.history.known.copy(), room.limits.worker_timeout
        return await self._services.workers.run(close_update, known, update, STORED_LIMITS, timeout=timeout)

    def _is_overtaken(self, heals: int) -> bool:
        """Whether a heal has begun since: what was read before is of another log, and taking it now would offer it to none."""
        return self._room.is_discarded or self._healer.begun != heals

    def _fail(self, event: str, error: BaseException) -> None:
        _log.warning(event, document=str(self._room.document_id), error=repr(error))
        self._fruitless += 1
        self._must_pause = self.place.must_look = True

    # ------------------------------------------------------------------ reading the log

    def _read_log(self) -> None:
        if not (self._is_reading or self.is_healing or self._room.is_discarded):
            self._is_reading = True
            self._room.own("read the log", self._catch_up)

    async def _catch_up(self) -> None:
        """Read what the log holds behind the head. What the bus brings in order is taken meanwhile."""
        LOG_READS.inc()
        try:
            async with asyncio.timeout(self._room.limits.load_timeout):
                while await self._read_on():
                    pass
        except (StorageUnavailable, WorkerFailed, TimeoutError) as error:
            self._fail("log_not_read", error)
            self._must_pause = isinstance(error, WorkerFailed)
        finally:
            self._is_reading = False
            self._proceed()

    async def _read_on(self) -> bool:
        """Take a stretch of the log; True when there may be more."""
        place, heals = self.place, self._healer.begun
        after, newest, waiting = place.head, place.newest, place.waiting
        # Not beyond the newest commit that is known, so that it can be seen whether the log still holds it.
        is_known = newest.seq > after.seq
        limit = min(_UPDATES_AT_ONCE, newest.seq - after.seq) if is_known else _UPDATES_AT_ONCE
        changes = await self._services.log.changes(self._room.document_id, after, limit)
        if self._is_overtaken(heals):
            return False
        if isinstance(changes, Gone):
            self._room.document_is_gone()
            return False
        if isinstance(changes, Diverged) or (is_known and not _reaches(changes, newest, limit)):
            self.heal()
            return False
        if self._is_taking or place.head != after:
            return not self._is_taking and (place.has_hole or place.must_look)
        place.must_look = False
        if not await self._take_logged(changes, heals):
            return False
        if len(changes.updates) < limit:
            # Whoever publishes has committed before: what was heard before the log was read, and is not in it, never was.
            place.forget(waiting, beyond=changes.head.seq)
        return bool(changes.updates) and (len(changes.updates) == limit or place.newest.seq > changes.head.seq)

    async def _take_logged(self, changes: Changes, heals: int) -> bool:
        """Take what the log holds; False when it does not fit, which a heal has to explain."""
        self._is_taking = True
        try:
            for number, logged in enumerate(changes.updates, 1):
                try:
                    part = await self._closed(logged.payload)
                except ProtocolViolation:
                    part = None
                if self._is_overtaken(heals):
                    return False
                if part is None or part.missing:
                    # A damaged log is healed once in a while, and otherwise taken as far as it goes.
                    if not self._healer.was_lately:
                        self.heal()
                        return False
                    _log.warning("logged_update_does_not_fit", document=str(self._room.document_id), seq=logged.seq)
                if part is not None:
                    self._room.take_saved(self._room.unless_known(part))
                if not number % _UPDATES_PER_TURN:
                    await asyncio.sleep(0)
                    if self._is_overtaken(heals):
                        return False
        finally:
            self._is_taking = False
        self.place.move(changes.head)
        self._read_to = changes.head.seq
        self._fruitless = 0 if changes.updates else self._fruitless + 1
        return True


def _reaches(changes: Changes, newest: Head, limit: int) -> bool:
    """Whether a stretch of the log, asked for up to the newest known commit at most, is of a log that holds it."""
    head = changes.head
    return head.commit == newest.commit if head.seq == newest.seq else len(changes.updates) == limit
