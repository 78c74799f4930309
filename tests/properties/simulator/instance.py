"""One running instance: the real rooms, log writer and compactor, put together as `services` does, on simulated ports."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from constructure_sync.persistence.compactor import CompactionLimits, Compactor
from constructure_sync.persistence.log_writer import CommitLimits, LogWriter
from constructure_sync.protocol.closes import RESTART
from constructure_sync.replica.pool import WorkerFailed
from constructure_sync.rooms.connection import Member
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.registry import DocumentNotFound, Rooms
from constructure_sync.rooms.services import Budget, RoomServices
from schemas.ids import DocumentId
from storage.contracts import StorageUnavailable
from storage.memory import MemoryStrandedChanges, MemoryUpdateLog
from tests.properties.simulator.loop import InstanceLoop, VirtualLoop
from tests.properties.simulator.network import Wire
from tests.properties.simulator.storage import LogWatcher, SimulatedLog, SimulatedStrandedChanges, Weather
from tests.properties.simulator.workers import SimulatedWorkers


@dataclass(frozen=True, slots=True)
class Disk:
    """What survives a crash, and how it is reached."""

    log: MemoryUpdateLog
    stranded: MemoryStrandedChanges
    weather: Weather


@dataclass(frozen=True, slots=True)
class Limits:
    rooms: RoomLimits
    commits: CommitLimits
    compaction: CompactionLimits


class Instance:
    """A process of the server, from start to crash or stop."""

    def __init__(
        self, loop: VirtualLoop, disk: Disk, limits: Limits, randomness: random.Random, watcher: LogWatcher
    ) -> None:
        self.loop = InstanceLoop(loop)
        self.weather = disk.weather
        self.workers = SimulatedWorkers(randomness)
        self.log = SimulatedLog(disk.log, disk.weather, randomness, watcher)
        core_loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.log_writer = LogWriter(self.log, limits.commits, core_loop, randomness)
        self.budget = Budget(limits.rooms.in_flight_bytes)
        stranded = SimulatedStrandedChanges(disk.stranded, disk.weather, randomness)
        services = RoomServices(
            core_loop, limits.rooms, self.log_writer, self.workers, stranded, self.budget, randomness
        )
        self.compactor = Compactor(self.log, self.workers, limits.compaction, loop.time)
        self.rooms = Rooms(self.log, services, self.compactor)
        self.wires: dict[Wire, None] = {}
        self.is_stopping = False
        self._random = randomness
        self.running = [self.loop.create_task(self.log_writer.run()), self.loop.create_task(self.rooms.run())]

    def admit(
        self, document_id: DocumentId, member: Callable[[], Member], wire: Wire, refused: Callable[[int], None]
    ) -> None:
        """Let a client in as transport and admission do: open the room, shake hands, join."""
        self.loop.create_task(self._admit(document_id, member, wire, refused))

    async def _admit(
        self, document_id: DocumentId, member: Callable[[], Member], wire: Wire, refused: Callable[[int], None]
    ) -> None:
        if self.is_stopping:
            refused(503)
            return
        try:
            room = await self.rooms.open(document_id)
        except DocumentNotFound:
            refused(404)
            return
        except (StorageUnavailable, TimeoutError, WorkerFailed):
            refused(503)
            return
        shaking = self._random.choice((0.0, 0.001, 0.05, 0.05, 1.0, 45.0 if self._random.random() < 0.1 else 0.0))
        await asyncio.sleep(shaking)
        if wire.is_cut:
            return
        wire.room = room
        self.wires[wire] = None
        connection = self.rooms.join(room, member(), wire, lambda: self.wires.pop(wire, None))
        wire.opened(room, connection)
        self.loop.call_soon(wire.client.opened, wire)

    def crash(self) -> None:
        """End between two steps; whoever was connected notices."""
        self.loop.die()
        for wire in list(self.wires):
            wire.cut(server_notices=0.0, client_notices=self._random.choice((0.0, 0.1, 1.0)))

    async def stop(self) -> None:
        """Stop as SIGTERM does: no newcomers, everybody sent away, everything saved."""
        self.is_stopping = True
        for wire in list(self.wires):
            self.loop.call_later(self._random.random(), wire.close, RESTART, "restart")
        await asyncio.sleep(1.5)
        await self.rooms.drain(90.0)
        self.crash()
