"""A stock client: a document and a y-websocket provider that connects, edits, goes offline and comes back by itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from pycrdt import Doc, Map, Text, TransactionEvent

from constructure_sync.protocol import messages
from constructure_sync.protocol.lib0 import Reader
from constructure_sync.protocol.state_vector import decode_state_vector
from constructure_sync.rooms.connection import Member
from schemas.ids import DocumentId, UserId
from tests.properties.simulator.awareness import Awareness
from tests.properties.simulator.network import Wire

if TYPE_CHECKING:
    from tests.properties.simulator.world import World

_WATCHDOG = 30.0
_CHECK_EVERY = 3.0


@dataclass(frozen=True, slots=True)
class Write:
    """A write message of a connection, and what is on the server once it is saved.

    keys: how many of the client's own keys. clocks: a state vector; whole for a SyncStep2, which is all that the server lacks.
    """

    payload: bytes
    keys: int
    clocks: dict[int, int]


class Client:
    """One browser tab or desktop client. `number` is its Yjs client id."""

    def __init__(self, world: "World", number: int, user: int, document_id: DocumentId, *, can_write: bool) -> None:
        self.world = world
        self.number = number
        self.user_id = UserId(UUID(int=user))
        self.document_id = document_id
        self.can_write = can_write
        self.map: Map[object] = Map()
        self.text = Text()
        self.doc: Doc[Map[object] | Text] = Doc({"map": self.map, "text": self.text}, client_id=number)
        self.awareness = Awareness(number, world.loop.time())
        self.wants_receipts = world.random.random() < 0.9
        self.is_shy = world.random.random() < 0.1  # has no presence, as a program has none
        self.wire: Wire | None = None
        self.led_to = world.random.randrange(len(world.machines))  # where it was connected last
        self.is_online = True
        self.is_gone = False
        self.is_synced = False
        self.is_open = False
        self.keys = 0  # how many unique keys it has set: "number.0", "number.1" …
        self.key_clocks: list[int] = []  # the clock of each
        self.acknowledged = 0  # the first so many of them are acknowledged
        self.writes: list[Write] = []  # of this connection
        self.acknowledged_writes = 0
        self.last_close = 0
        self._clocks: dict[int, int] = {}
        self._updates: list[bytes] = []
        self._subscription = self.doc.observe(self._changed)
        self._failures = 0
        self._heard_at = 0.0
        self._random = world.random
        world.loop.call_later(self._random.uniform(0.0, _CHECK_EVERY), self._check)

    # ------------------------------------------------------------------ connecting

    def connect(self) -> None:
        if self.is_gone or not self.is_online or self.wire is not None:
            return
        self.wire = wire = self.world.wire(self)
        self.is_open = self.is_synced = False
        self._heard_at = self.world.loop.time()
        self.world.admit(self, wire)

    def member(self) -> Member:
        """Who the server takes this client for when it joins."""
        return Member(self.user_id, f"user {self.user_id.int}", self.can_write, self.wants_receipts)

    def refused(self, status: int) -> None:
        """The upgrade was answered with this HTTP status."""
        self.world.refusals[status] += 1
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.is_cut = True
            self._come_back()

    def _come_back(self) -> None:
        self._failures += 1
        delay = min(0.1 * 2**self._failures, 2.5) * self._random.uniform(0.9, 1.1)
        self.world.loop.call_later(delay, self.connect)

    def opened(self, wire: Wire) -> None:
        if wire is not self.wire or wire.is_cut:
            return
        self.is_open = True
        self._failures = 0
        self._heard_at = self.world.loop.time()
        self.writes = []
        self.acknowledged_writes = 0
        wire.send(messages.sync_step1(self.doc.get_state()))
        self._tell_presence(self.awareness.encode((self.number,)))

    def lost(self, wire: Wire, code: int) -> None:
        if wire is not self.wire:
            return
        self.wire = None
        self.is_open = self.is_synced = False
        self.last_close = code
        self.awareness.forget_others()
        if 4400 <= code < 4500:
            self.world.sent_away(self, wire)
        elif self.is_online:
            self._come_back()

    def go_offline(self) -> None:
        self.is_online = False
        if self.wire is not None:
            wire, self.wire = self.wire, None
            wire.leave()
            self.is_open = self.is_synced = False
            self.awareness.forget_others()

    def come_online(self) -> None:
        self.is_online = True
        self.connect()

    def leave_for_ever(self) -> None:
        """The tab is closed: what it has not given to others is lost, and may be."""
        self.go_offline()
        self.is_gone = True
        self.world.ledger.holders_changed()

    def forget(self) -> None:
        """Let go of the document, which knows this client in a way that no garbage collector sees."""
        self.doc.unobserve(self._subscription)

    def _check(self) -> None:
        now = self.world.loop.time()
        if self.is_gone:
            return
        self.world.loop.call_later(_CHECK_EVERY, self._check)
        payload = self.awareness.check(now)
        if payload is not None:
            self._tell_presence(payload)
        if self.wire is not None and now - self._heard_at > _WATCHDOG:
            self.world.watchdog(self)
            self.wire.cut(server_notices=0.0, client_notices=0.0)

    # ------------------------------------------------------------------ hearing

    def hear(self, wire: Wire, message: bytes) -> None:
        if wire is not self.wire:
            return
        self._heard_at = self.world.loop.time()
        kind, step = message[0], message[1]
        if kind == 0:
            payload = Reader(message, 2).read_var_bytes()
            if step == 0:
                self.write(self.doc.get_update(payload), is_answer=True)
            else:
                self._apply(wire, payload, is_step2=step == 1)
        elif kind == 1:
            answer = self.awareness.apply(Reader(message, 1).read_var_bytes(), self.world.loop.time())
            if answer is not None:
                self._tell_presence(answer)
        elif kind == 120:
            reader = Reader(message, 1)
            self._acknowledged(reader.read_var_uint())

    def _apply(self, wire: Wire, update: bytes, *, is_step2: bool) -> None:
        clocks = self._clocks
        for client, start, end in self.world.read(update)[0]:
            known = clocks.get(client, 0)
            if start > known:
                self.world.fail("R5", f"{self.number} is sent {client}:{start} and has {known}")
            if end > known:
                clocks[client] = end
        self.doc.apply_update(update)
        self._updates.clear()
        if is_step2:
            self.is_synced = True
            self.world.synced(self, wire)

    def has(self) -> dict[int, int]:
        """Return the client's integrated state vector."""
        return decode_state_vector(self.doc.get_state())

    def _acknowledged(self, number: int) -> None:
        if not self.acknowledged_writes < number <= len(self.writes):
            self.world.fail("R1", f"{self.number} is told of {number} of {len(self.writes)} writes")
            return
        self.acknowledged_writes = number
        self.acknowledged = max(self.acknowledged, self.writes[number - 1].keys)

    # ------------------------------------------------------------------ writing

    def edit(self) -> None:
        """Change something: always a key of its own, which the oracle knows, and mostly more."""
        random_, size = self._random, len(self.text)
        self.key_clocks.append(self.has().get(self.number, 0))
        with self.doc.transaction():
            self.map[f"{self.number}.{self.keys}"] = self.keys
            kind = random_.randrange(5)
            if kind == 0:
                self.map[f"shared {random_.randrange(4)}"] = float(self.number)
            elif kind == 1 and size > 2:
                begin = random_.randrange(size - 1)
                del self.text[begin : min(size, begin + random_.randrange(1, 6))]
            elif kind == 2:
                self.text.insert(random_.randint(0, size), "abcdefghij"[: random_.randint(1, 10)])
            elif kind == 3:
                self.text.insert(size, "x" * self.world.large if random_.random() < 0.3 else "yz")
            else:
                self.map.pop(f"shared {random_.randrange(4)}", None)
        self.keys += 1
        self._clocks[self.number] = max(self._clocks.get(self.number, 0), self.has()[self.number])
        updates, self._updates = self._updates, []
        for update in updates:
            self.write(update, is_answer=False)

    def _changed(self, event: TransactionEvent) -> None:
        self._updates.append(event.update)

    def write(self, update: bytes, *, is_answer: bool) -> None:
        """Send a write message if there is a socket."""
        if self.wire is None or not self.is_open:
            return
        clocks = self.has() if is_answer else {self.number: self._clocks[self.number]}
        self.writes.append(Write(update, self.keys, clocks))
        self.wire.send((messages.sync_step2 if is_answer else messages.update_message)(update))

    def ask(self) -> None:
        """Ask for everything that it lacks once more, as `resyncInterval` does."""
        if self.wire is not None and self.is_open:
            self.wire.send(messages.sync_step1(self.doc.get_state()))

    def move_cursor(self) -> None:
        state = b'{"cursor":%d}' % self._random.randrange(1000)
        self._tell_presence(self.awareness.set_local(state, self.world.loop.time()))

    def _tell_presence(self, payload: bytes) -> None:
        if self.wire is not None and self.is_open and not self.is_shy:
            self.wire.send(messages.awareness_message(payload))
