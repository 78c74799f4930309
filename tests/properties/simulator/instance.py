"""One running instance: the real rooms, log writer and compactor, put together as `services` does, on simulated ports."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from constructure_sync.bus.contracts import InstanceId
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
from tests.properties.simulator.bus import Line, SimulatedBus, SimulatedHub
from tests.properties.simulator.loop import InstanceLoop, VirtualLoop
from tests.properties.simulator.network import Wire
from tests.properties.simulator.storage import LogWatcher, SimulatedLog, SimulatedStrandedChanges, Weather
from tests.properties.simulator.workers import SimulatedWorkers


@dataclass(frozen=True, slots=True)
class Disk:
    """What all instances share and what survives their crashes."""

    log: MemoryUpdateLog
    stranded: MemoryStrandedChanges


@dataclass(frozen=True, slots=True)
class Limits:
    rooms: RoomLimits
    commits: CommitLimits
    compaction: CompactionLimits


@dataclass(frozen=True, slots=True)
class Machine:
    """Where one instance runs after the other. clock_ahead: seconds by which its time of day is wrong."""

    weather: Weather = field(default_factory=Weather)
    line: Line = field(default_factory=Line)
    clock_ahead: float = 0.0


class Instance:
    """A process of the server, from start to crash or stop."""

    def __init__(
        self,
        loop: VirtualLoop,
        disk: Disk,
        machine: Machine,
        hub: SimulatedHub,
        limits: Limits,
        randomness: random.Random,
        watcher: LogWatcher,
    ) -> None:
        self.loop = InstanceLoop(loop)
        self.machine = machine
        self.id: InstanceId = randomness.getrandbits(53)
        self.workers = SimulatedWorkers(randomness)
        self.compacting = SimulatedWorkers(randomness, randomness.choice((0.05, 2.0, 10.0)))
        log = SimulatedLog(disk.log, machine.weather, randomness, watcher, self.id)
        core_loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.log_writer = LogWriter(log, limits.commits, core_loop, randomness)
        self.budget = Budget(limits.rooms.in_flight_bytes)
        self.bus = SimulatedBus(hub, machine.line, self.loop, self.id)
        services = RoomServices(
            core_loop,
            limits.rooms,
            log,
            self.bus,
            self.log_writer,
            self.workers,
            self.workers,
            SimulatedStrandedChanges(disk.stranded, machine.weather, randomness),
            self.budget,
            randomness,
        )
        self.compactor = Compactor(
            SimulatedLog(disk.log, machine.weather, randomness, watcher, (self.id, "compactor")),
            self.compacting,
            limits.compaction,
            lambda: loop.time() + machine.clock_ahead,
        )
        self.rooms = Rooms(log, services, self.compactor)
        self.wires: dict[Wire, None] = {}
        self.is_stopping = False
        self._random = randomness
        for work in (self.log_writer.run, self.rooms.run, self.rooms.follow_heads, self.bus.run):
            self.loop.create_task(work())

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

    def compact(self, document_id: DocumentId) -> None:
        """Have a document's log compacted now, whoever else does the same."""
        self.loop.create_task(self.compactor.compact_if_worth(document_id))

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
