"""A room with sockets that note what they are told, under a virtual clock."""

import random
from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from pycrdt import Doc, Map, TransactionEvent

from constructure_sync.bus.contracts import ControlMessage, ControlSubscriber, DocumentMessage, Subscriber
from constructure_sync.bus.local import LocalBus, LocalHub
from constructure_sync.persistence.compactor import CompactionLimits, Compactor
from constructure_sync.persistence.export import stored_updates
from constructure_sync.persistence.log_writer import CommitLimits, LogWriter
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.messages import sync_step1, sync_step2, update_message
from constructure_sync.rooms.connection import Connection, Member
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.registry import Rooms
from constructure_sync.rooms.room import Room
from constructure_sync.rooms.services import Budget, RoomServices
from schemas.ids import DocumentId, UserId
from storage.memory import MemoryStrandedChanges, MemoryUpdateLog
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.properties.simulator.network import unframe
from tests.properties.simulator.storage import SimulatedLog, SimulatedStrandedChanges, Weather
from tests.properties.simulator.workers import SimulatedWorkers

DOCUMENT = DocumentId(UUID(int=1))
STEP1, STEP2, UPDATE = b"\x00\x00", b"\x00\x01", b"\x00\x02"
RECEIPT, PRESENCE, DENIED = b"\x78", b"\x01", b"\x02\x00"


class FakeSocket:
    """Notes what it is told. messages: what was written and not taken with `take` yet."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.writes = 0
        self._closed: int | None = None
        self._is_paused = False
        self.buffered = 0

    def write(self, framed: bytes) -> None:
        self.writes += 1
        self.messages += unframe(framed)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False

    def is_paused(self) -> bool:
        return self._is_paused

    def close(self, code: int, reason: str) -> None:
        self._closed = self._closed or code

    def close_code(self) -> int | None:
        """Return the code that the room closed it with; None while it is open."""
        return self._closed

    def ping(self) -> None:
        raise AssertionError("rooms do not ping")

    def take(self, kind: bytes = b"") -> list[bytes]:
        """Return the messages of this kind so far and forget all."""
        messages, self.messages = self.messages, []
        return [message for message in messages if message.startswith(kind)]

    def updates(self) -> list[bytes]:
        """Return the updates written so far and forget all messages."""
        return [Reader(message, 2).read_var_bytes() for message in self.take(UPDATE)]

    def receipts(self) -> list[int]:
        """Return the numbers of the receipts so far and forget all messages."""
        return [Reader(message, 1).read_var_uint() for message in self.take(RECEIPT)]


class Quiet:
    """A watcher of the log that has nothing against anything."""

    epoch = 0

    def __init__(self) -> None:
        self.reads = 0  # answers of the log that told what it holds

    def about_to_append(self) -> None: ...
    async def compare_segments(self, document_id: DocumentId) -> None: ...
    def appended(self, batch: object, results: object) -> None: ...
    def told(self, reader: object, batch: object, results: object) -> None: ...
    def is_late(self, change: int) -> None: ...
    def fail(self, rule: str, what: str) -> None: ...
    async def compare(self, document_id: DocumentId) -> None: ...

    def read(self, reader: object, document_id: DocumentId, epoch: int) -> None:
        self.reads += 1


class LossyLink:
    """A bus of which a test can lose, hold back and repeat what is published. filter: which messages go through."""

    def __init__(self, bus: LocalBus) -> None:
        self._bus = bus
        self.instance = bus.instance
        self.is_away = False
        self.held: list[DocumentMessage] = []
        self.filter: Callable[[DocumentMessage], bool] = lambda message: True
        self.published: list[DocumentMessage] = []

    def publish(self, document_id: DocumentId, message: DocumentMessage) -> None:
        self.published.append(message)
        if self.filter(message):
            self._bus.publish(document_id, message)
        else:
            self.held.append(message)

    def release(self, messages: Iterable[DocumentMessage]) -> None:
        """Have what was held back heard after all."""
        for message in messages:
            self._bus.publish(DOCUMENT, message)

    def tell_all(self, message: ControlMessage) -> None:
        self._bus.tell_all(message)

    def listen(self, subscriber: ControlSubscriber) -> None:
        self._bus.listen(subscriber)

    async def subscribe(self, document_id: DocumentId, subscriber: Subscriber, timeout: float) -> bool:
        return await self._bus.subscribe(document_id, subscriber, timeout)

    def unsubscribe(self, document_id: DocumentId) -> None:
        self._bus.unsubscribe(document_id)

    async def run(self) -> None:
        await self._bus.run()


class Bench:
    """One instance's rooms over a memory log. `weather` and `workers` make its stores and workers slow or fail.

    beside: another instance, whose log and bus this one shares.
    """

    def __init__(
        self, loop: VirtualLoop, limits: RoomLimits, commits: CommitLimits, beside: "Bench | None" = None
    ) -> None:
        self.instance: int = 1 if beside is None else beside.instance + 1
        randomness = random.Random(self.instance)
        self.loop = loop
        self.weather = Weather(delay=0.0)
        self.hub: LocalHub = LocalHub() if beside is None else beside.hub
        self.bus = LossyLink(LocalBus(self.hub, self.instance, loop))
        self.stored: MemoryUpdateLog = MemoryUpdateLog(loop.time) if beside is None else beside.stored
        if beside is None:
            self.stored.create(DOCUMENT)
        self.stranded = MemoryStrandedChanges()
        self.watcher = Quiet()
        self.log = SimulatedLog(self.stored, self.weather, randomness, self.watcher, self)
        self.workers = SimulatedWorkers(randomness)
        self.log_writer = LogWriter(self.log, commits, loop, randomness)
        self.budget = Budget(limits.in_flight_bytes)
        stranded = SimulatedStrandedChanges(self.stranded, self.weather, randomness)
        services = RoomServices(
            loop=loop,
            limits=limits,
            log=self.log,
            bus=self.bus,
            log_writer=self.log_writer,
            workers=self.workers,
            background=self.workers,
            stranded=stranded,
            budget=self.budget,
            randomness=randomness,
        )
        self.compactor = Compactor(self.log, self.workers, CompactionLimits(updates_at_close=2), loop.time)
        self.rooms = Rooms(self.log, services, self.compactor)
        running = (self.log_writer.run(), self.bus.run(), self.rooms.run(), self.rooms.follow_heads())
        self.tasks = [loop.create_task(task) for task in running]

    async def room(self, document_id: DocumentId = DOCUMENT) -> Room:
        return await self.rooms.open(document_id)

    def join(
        self, room: Room, user: int = 1, *, can_write: bool = True, ack: bool = True
    ) -> tuple[Connection, FakeSocket]:
        """Let a client in, and have it ask for everything."""
        socket = FakeSocket()
        member = Member(UserId(UUID(int=user)), f"user {user}", can_write, ack)
        connection = self.rooms.join(room, member, socket, lambda: None)
        connection.receive(sync_step1(b"\x00"))
        return connection, socket

    async def payloads(self) -> list[bytes]:
        """Return everything that the log holds, in its order."""
        stored = await self.stored.load(DOCUMENT)
        return [] if stored is None else stored_updates(stored)


def on_bench(
    body: Callable[[Bench], Awaitable[None]], limits: RoomLimits | None = None, commits: CommitLimits | None = None
) -> None:
    """Run a test body on a bench."""

    async def main(loop: VirtualLoop) -> None:
        await body(Bench(loop, limits or RoomLimits(), commits or CommitLimits()))

    run_virtually(main)


def edits(count: int, client: int = 7, size: int = 5) -> list[bytes]:
    """Return the updates of a client that sets keys of its own, each once; each needs the one before."""
    keys: Map[object] = Map()
    doc: Doc[Map[object]] = Doc({"map": keys}, client_id=client)
    updates: list[bytes] = []

    def keep(event: TransactionEvent) -> None:
        updates.append(event.update)

    subscription = doc.observe(keep)
    for number in range(count):
        keys[f"{client}.{number}"] = "x" * size
    doc.unobserve(subscription)
    return updates


def whole(updates: list[bytes]) -> bytes:
    """Return one update of all of these."""
    doc: Doc[Map[object]] = Doc()
    for update in updates:
        doc.apply_update(update)
    return doc.get_update()


def live(connection: Connection, *updates: bytes) -> None:
    """Have a client send live updates."""
    for update in updates:
        connection.receive(update_message(update))


def answer(connection: Connection, update: bytes) -> None:
    """Have a client answer our SyncStep1."""
    connection.receive(sync_step2(update))
