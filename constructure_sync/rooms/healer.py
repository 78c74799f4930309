"""Heals a room whose log is not the one that it has followed: after a failover, from a restored backup (R9).

The log is loaded, the room takes what it lacks, and everything that the log lacks of the room's history is saved again, cut to
exactly that by our own reader. Meanwhile the room takes and relays, and saves and acknowledges nothing.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from constructure_sync.observability import LOGS_HEALED, get_logger
from constructure_sync.persistence.export import stored_updates
from constructure_sync.replica.pool import WorkerFailed
from constructure_sync.replica.reconcile import Reconciled, reconcile
from constructure_sync.rooms.log_place import LogPlace
from constructure_sync.rooms.services import RoomServices
from storage.contracts import StorageUnavailable

if TYPE_CHECKING:
    from constructure_sync.rooms.room import Room

_log = get_logger()
_DELAYS: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
_INTERVAL: Final = 5.0
_LATELY: Final = 60.0
_NEVER: Final = -1e9


class Healer:
    """One room's healing. begun: how many heals have begun; healed: called after each."""

    def __init__(self, room: "Room", place: LogPlace, services: RoomServices, healed: Callable[[], None]) -> None:
        self.is_healing = False
        self.begun = 0
        self._room = room
        self._place = place
        self._services = services
        self._healed = healed
        self._ended_at = _NEVER

    @property
    def was_lately(self) -> bool:
        """Whether the room was healed a short while ago, so that another heal would find the same."""
        return self._room.now() - self._ended_at < _LATELY

    def heal(self) -> None:
        """Begin, unless it is being done. One heal costs a load of the document, so they keep a distance."""
        room = self._room
        if not self.is_healing and not room.is_discarded:
            self.is_healing = True
            self.begun += 1
            _log.warning("log_diverged", document=str(room.document_id), seq=self._place.newest.seq)
            room.doubt_what_is_saved()
            room.own("heal", self._heal)

    async def _heal(self) -> None:
        """Try until it is done."""
        await asyncio.sleep(max(0.0, self._ended_at + _INTERVAL - self._room.now()))
        attempt = 0
        while not self._room.is_discarded:
            try:
                # After a failover every room wants this at once, and people want their documents opened.
                async with self._services.heals:
                    await self._reconcile()
                return
            except (StorageUnavailable, WorkerFailed, TimeoutError) as error:
                _log.warning("not_healed", document=str(self._room.document_id), error=repr(error))
            delay = _DELAYS[min(attempt, len(_DELAYS) - 1)]
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
            timeout=limits.heal_timeout,
        )
        if room.is_discarded:
            return
        for part in reconciled.theirs:
            room.take_saved(room.unless_known(part))
        room.take_saved(reconciled.deletes)
        self._place.start_at(stored.head)
        self.is_healing = False
        self._ended_at = room.now()
        LOGS_HEALED.inc()
        room.offer_again(mark, [(*pieces[index], part) for index, part in reconciled.ours])
        self._healed()
