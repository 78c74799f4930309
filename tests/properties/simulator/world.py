"""One schedule: some instances, their clients and their misfortunes, all of one seed; then peace, and everything must be equal."""

import asyncio
import random
from collections import Counter
from uuid import UUID

from pycrdt import Doc, Map, Text

from constructure_sync.bus.contracts import InstanceId
from constructure_sync.persistence.compactor import CompactionLimits
from constructure_sync.persistence.export import stored_updates
from constructure_sync.persistence.log_writer import CommitLimits
from constructure_sync.protocol.id_ranges import IdRanges, Range
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.update_reader import read_update
from constructure_sync.rooms.limits import RoomLimits
from constructure_sync.rooms.presence import Attendee
from constructure_sync.rooms.room import Room
from schemas.ids import DocumentId, UserId
from storage.contracts import Head
from storage.memory import MemoryStrandedChanges, MemoryUpdateLog
from tests.properties.simulator.bus import SimulatedHub
from tests.properties.simulator.client import Client
from tests.properties.simulator.instance import Disk, Instance, Limits, Machine
from tests.properties.simulator.ledger import Ledger
from tests.properties.simulator.loop import VirtualLoop
from tests.properties.simulator.network import Wire
from tests.properties.simulator.storage import Weather
from tests.properties.simulator.witness import Witness

Ranges = list[Range]


class World:
    """Everything there is in one schedule. `fail` notes a broken rule; the schedule then ends."""

    def __init__(self, loop: VirtualLoop, seed: int) -> None:
        self.loop = loop
        self.random = random.Random(seed)
        choice = self.random.choice
        self.violations: list[str] = []
        self.refusals: Counter[int] = Counter()
        self.closes: Counter[int] = Counter()
        self.disk = Disk(MemoryUpdateLog(loop.time), MemoryStrandedChanges())
        self.documents = [DocumentId(UUID(int=n + 1)) for n in range(choice((1, 1, 1, 2)))]
        self.ledger = Ledger(self)
        self.witness = Witness(self)
        for document_id in self.documents:
            self.disk.log.create(document_id)
            self.ledger.create(document_id)
        self.large = choice((50, 300, 1500))
        self.may_repeat = self.random.random() < 0.6  # whether rooms fold, which moves cursors back
        self.may_be_set_back = self.random.random() < 0.5
        self.limits = self._limits()
        self.hub = SimulatedHub(loop, self.random, self.witness, largest=choice((100, 2**20)))
        self.clients: list[Client] = []
        self._read: dict[bytes, tuple[Ranges, Ranges]] = {}
        self._next_client = 100
        self.acknowledged = 0
        self.lost = 0
        self.vanished = 0
        self._stops: set[asyncio.Task[None]] = set()
        # A clock that is far ahead has rows purged early.
        self.machines = [Machine(clock_ahead=choice((0.0, 650.0))) for _ in range(choice((1, 2, 2, 3, 3)))]
        self.instances = [self._start(machine) for machine in self.machines]
        for number in range(self.random.randint(2, 5)):
            self.new_client(number + 1, can_write=number == 0 or self.random.random() < 0.8)

    def _limits(self) -> Limits:
        choice = self.random.choice
        return Limits(
            RoomLimits(
                worker_frame_bytes=choice((120, 1000, 65536)),
                segment_bytes=choice((200, 2000)) if self.may_repeat else 2**40,
                fold_entries=choice((4, 20)) if self.may_repeat else 2**40,
                in_flight_bytes=choice((2000, 2**27)),
            ),
            CommitLimits(
                max_updates=choice((2, 5000)), max_bytes=choice((100, 2**24)), unsaved_bytes=choice((400, 2**26))
            ),
            CompactionLimits(
                updates_at_close=choice((1, 1, 2, 20)),
                updates_while_open=choice((8, 20_000)),
                segment_bytes=choice((100, 2**18)),
                raw_rows_seconds=choice((0.0, 90 * 86_400.0)),
                timeout=20.0,
            ),
        )

    # ------------------------------------------------------------------ making and unmaking

    def fail(self, rule: str, what: str) -> None:
        """Note a broken rule."""
        self.violations.append(f"{rule} at {self.loop.time():.4f}: {what}")

    def _start(self, machine: Machine) -> Instance:
        return Instance(self.loop, self.disk, machine, self.hub, self.limits, self.random, self.ledger)

    def new_client(self, user: int, *, can_write: bool) -> Client:
        """Open a new tab of this user and connect it."""
        self._next_client += 1
        document_id = self.random.choice(self.documents)
        client = Client(self, self._next_client, user, document_id, can_write=can_write)
        if can_write:
            self.ledger.writers.add(client.user_id)
        self.clients.append(client)
        client.connect()
        return client

    def wire(self, client: Client) -> Wire:
        """Return a new socket of this client, to whatever instance it is led to."""
        running = [instance for instance in self.instances if not instance.loop.is_dead and not instance.is_stopping]
        instance = self.instances[client.led_to]
        if instance not in running or self.random.random() < 0.4:
            instance = self.random.choice(running if running and self.random.random() < 0.9 else self.instances)
        client.led_to = self.instances.index(instance)
        return Wire(self.loop, instance, self.random, self.witness, client)

    def admit(self, client: Client, wire: Wire) -> None:
        """Have the instance let a client in; one that is down refuses the connection."""

        def refused(status: int) -> None:
            if client.wire is wire:
                client.refused(status)

        if wire.instance.loop.is_dead:
            self.loop.call_later(0.05, refused, 0)
        else:
            wire.instance.admit(client.document_id, client.member, wire, refused)

    def restart(self, number: int) -> None:
        """Start an instance where none runs."""
        if self.instances[number].loop.is_dead:
            self.instances[number] = self._start(self.machines[number])

    def crash(self, number: int, seconds: float) -> None:
        """Kill an instance; another starts in its place so many seconds later."""
        instance = self.instances[number]
        if not instance.loop.is_dead:
            instance.crash()
            self.ledger.holders_changed()
            self._restart_later(number, seconds)

    def _restart_later(self, number: int, seconds: float) -> None:
        if seconds:
            self.loop.call_later(seconds, self.restart, number)
        else:
            self.restart(number)

    def stop(self, number: int, seconds: float) -> None:
        """Have an instance stop in good order; another starts in its place so many seconds after that."""
        instance = self.instances[number]
        if not instance.loop.is_dead and not instance.is_stopping:
            instance.is_stopping = True
            task = self.loop.create_task(self._stop(instance, number, seconds))
            self._stops.add(task)
            task.add_done_callback(self._stops.discard)

    async def _stop(self, instance: Instance, number: int, seconds: float) -> None:
        weather, epoch = instance.machine.weather, self.ledger.epoch
        is_healthy = weather == Weather()
        await instance.stop()
        if self.instances[number] is not instance:
            return  # killed meanwhile, and another runs there
        is_healthy = is_healthy and weather == Weather() and epoch == self.ledger.epoch
        if is_healthy and instance.log_writer.unsaved_bytes:
            self.fail("R1", "an instance has stopped with unsaved updates")
        self.ledger.holders_changed()
        self._restart_later(number, seconds)

    async def stopped(self) -> None:
        """Wait until no instance is stopping any more."""
        while self._stops:
            await asyncio.wait(self._stops)

    def set_back(self) -> None:
        """Have the database as it was at an earlier moment."""
        if self.ledger.backups and self.may_be_set_back:
            self.ledger.set_back(self.random.randrange(self.ledger.backups))

    # ------------------------------------------------------------------ what client and witness ask

    @property
    def running(self) -> list[Instance]:
        return [instance for instance in self.instances if not instance.loop.is_dead]

    def rooms(self, document_id: DocumentId) -> list[Room]:
        """Return the open rooms of a document on all running instances."""
        rooms = [instance.rooms.room(document_id) for instance in self.running]
        return [room for room in rooms if room is not None]

    @property
    def is_purged_early(self) -> bool:
        """Whether rows may go that someone still has to read."""
        return any(machine.clock_ahead for machine in self.machines)

    @staticmethod
    def place(room: Room) -> Head:
        """Return the place in its log up to which a room has everything."""
        return room._follower.place.head

    def room(self, instance_id: InstanceId, document_id: DocumentId) -> Room | None:
        """Return the open room of a document on one instance."""
        for instance in self.running:
            if instance.id == instance_id:
                return instance.rooms.room(document_id)
        return None

    def read(self, update: bytes) -> tuple[Ranges, Ranges]:
        """Return the (client, start, end) of an update's structs and deletes; read once for all who are sent it."""
        read = self._read.get(update)
        if read is None:
            parsed = read_update(update)
            structs = [(s.client, s.structs[0].clock, s.structs[-1].end) for s in parsed.sections]
            read = self._read[update] = (structs, list(parsed.deletes))
        return read

    def lacks(self, known: Known, update: bytes) -> str:
        """Say what of an update is not known; empty when all of it is."""
        structs, deletes = self.read(update)
        clocks, deleted = known.clocks, known.deletes
        lacking = [each for each in structs if clocks.get(each[0], 0) < each[2]]
        lacking += [each for each in deletes if not deleted.covers(*each)]
        return f"{lacking}" if lacking else ""

    def can_write(self, wire: Wire) -> bool:
        """Whether the client behind a wire writes."""
        return isinstance(wire.client, Client) and wire.client.can_write

    def claim(self, wire: Wire, number: int) -> dict[int, int]:
        """Return the state vector that a client takes for saved when the first `number` writes on this wire are."""
        client = wire.client
        if isinstance(client, Client) and client.wire is wire and client.is_open:
            return client.writes[number - 1].clocks
        return {}

    def present(self, room: Room) -> set[int]:
        """Return whose presence a room has from its own connections."""
        return {client for client, seen in room.presence._present.items() if isinstance(seen.owner, Attendee)}

    def synced(self, client: Client, wire: Wire) -> None:
        """A client has read a SyncStep2: it must have all that the room had when it was written (R5)."""
        must = self.witness.must_have(wire)
        has = client.has()
        if any(has.get(number, 0) < clock for number, clock in must.items()):
            self.fail("R5", f"{client.number} counts as synced with {has} of {must}")

    def closed_by_server(self, wire: Wire, code: int) -> None:
        """The server closes a socket: a well-behaved client gives no reason for 44xx."""
        self.closes[code] += 1
        if 4400 <= code < 4500 and (code != 4403 or self.can_write(wire)):
            self.fail("protocol", f"a stock client is closed with {code}")

    def sent_away(self, client: Client, wire: Wire) -> None:
        """A client's provider has stopped for good: what was refused is kept (R10), and the user opens a fresh tab."""
        kept = [change.payload for change in self.disk.stranded._kept.values() if change.user_id == client.user_id]
        ends = [end for payload in kept for number, _, end in self.read(payload)[0] if number == client.number]
        safe = max(ends, default=self.ledger.books[client.document_id].known.clocks.get(client.number, 0))
        for payload in self.witness.refused(wire):
            if any(number == client.number and end > safe for number, _, end in self.read(payload)[0]):
                self.fail("R10", f"{client.number} was refused {self.read(payload)[0]} and {safe} is kept")
        client.leave_for_ever()
        self.new_client(client.user_id.int, can_write=client.can_write)

    def lower_role(self, user_id: UserId) -> None:
        """Take the right to write from a user, on open sockets too."""
        for client in self.clients:
            if client.user_id == user_id:
                client.can_write = False
                if client.wire is not None and client.wire.connection is not None:
                    client.wire.connection.set_right_to_write(False)
        self.ledger.holders_changed()

    def has_unsaved(self, client: Client) -> bool:
        """Whether a client holds what is in no log."""
        committed = self.ledger.books[client.document_id].known.clocks
        return any(committed.get(number, 0) < clock for number, clock in client.has().items())

    def watchdog(self, client: Client) -> None:
        """A client has heard nothing for 30 s while its line was good and nothing was under way on it."""
        wire = client.wire
        if (
            wire is not None
            and wire.is_idle
            and not wire.is_stalled
            and not wire.is_cut
            and client.is_open
            and not wire.has_ended
        ):
            self.fail("keepalive", f"{client.number} was told nothing for 30 s")

    # ------------------------------------------------------------------ the end

    async def load(self, document_id: DocumentId) -> "View":
        """Return what a fresh load of the log holds."""
        stored = await self.disk.log.load(document_id)
        doc: Doc[Map[object] | Text] = Doc()
        for update in [] if stored is None else stored_updates(stored):
            doc.apply_update(update)
        return View(doc)


class View:
    """What a document holds, in a form that can be compared."""

    def __init__(self, doc: Doc[Map[object] | Text]) -> None:
        self.map = doc.get("map", type=Map).to_py() or {}
        self.text = str(doc.get("text", type=Text))
        parsed = read_update(doc.get_update())
        self.clocks = {section.client: section.structs[-1].end for section in parsed.sections}
        self.deletes = IdRanges(parsed.deletes)

    def difference(self, other: "View") -> str:
        """Say what differs; empty when nothing does."""
        differing = [
            name for name in ("clocks", "deletes", "map", "text") if getattr(self, name) != getattr(other, name)
        ]
        return ", ".join(f"{name}: {getattr(self, name)} / {getattr(other, name)}" for name in differing)
