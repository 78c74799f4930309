"""What the rooms of an instance share; all of it replaceable by a simulator (R14)."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from constructure_sync.bus.contracts import Bus
from constructure_sync.persistence.log_writer import LogWriter
from constructure_sync.replica.pool import Workers
from constructure_sync.rooms.limits import RoomLimits
from schemas.ids import DocumentId, Seq
from storage.contracts import StrandedChanges, UpdateLog

_HEALS_AT_ONCE = 2


@dataclass(slots=True)
class Budget:
    """Bytes of large messages that are being read in workers, over all rooms of the instance."""

    limit: int
    used: int = 0

    def take(self, size: int) -> bool:
        """Take so many bytes out of the budget if they are there. What is larger than all of it is read when nothing else is."""
        if self.used and self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        self.used -= size


@dataclass(frozen=True, slots=True)
class RoomServices:
    """The collaborators of every room.

    workers: for what a client waits for; background: for what nobody does. on_saved: told of all that is saved, with its first Seq;
    heals: how many heal at once.
    """

    loop: asyncio.AbstractEventLoop
    limits: RoomLimits
    log: UpdateLog
    bus: Bus
    log_writer: LogWriter
    workers: Workers
    background: Workers
    stranded: StrandedChanges
    budget: Budget
    randomness: random.Random
    on_saved: Callable[[DocumentId, Seq, Sequence[bytes]], None] = lambda document_id, first, updates: None
    heals: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_HEALS_AT_ONCE))
