"""A bus between simulated instances: late, lossy, repeating, reordering, cut off, deaf; what it promises is BU1 to BU5."""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, replace
from typing import Final, Protocol

from constructure_sync.bus.contracts import (
    ControlMessage,
    ControlSubscriber,
    DocumentMessage,
    InstanceId,
    PresenceAsked,
    PresenceChanged,
    RollCalled,
    Saved,
    Subscriber,
)
from constructure_sync.bus.listeners import Listeners
from constructure_sync.bus.messages import Lost, decode, encode
from schemas.ids import DocumentId
from tests.properties.simulator.loop import InstanceLoop, VirtualLoop

_BUFFERED: Final = 8  # messages that wait for a bus that is away; beyond it the oldest is lost
_GAP: Final = 1e-6  # timers of one moment have no order


@dataclass(slots=True)
class Line:
    """How one instance reaches the bus just now; it outlives the instance, as a machine's network does."""

    is_away: bool = False
    loss: float = 0.0


class Watcher(Protocol):
    """Sees what instances publish, and what they hear before it has an effect."""

    def published(self, document_id: DocumentId, message: DocumentMessage) -> None: ...
    def arrived(self, instance: InstanceId, document_id: DocumentId, message: DocumentMessage) -> None: ...
    def unsubscribed(self) -> None: ...


class SimulatedHub:
    """The bus itself. delay: seconds at most. loss, repeats: shares of messages. is_deaf: it loses all there is, for ever."""

    def __init__(self, loop: VirtualLoop, randomness: random.Random, watcher: Watcher, largest: int) -> None:
        self.watcher = watcher
        self.delay = 0.002
        self.loss = 0.0
        self.repeats = 0.0
        self.is_ordered = True
        self.is_deaf = False
        self._loop = loop
        self._random = randomness
        self._largest = largest  # bytes of updates that travel with their commit
        self._ends: list[SimulatedBus] = []

    def attach(self, end: "SimulatedBus") -> None:
        self._ends = [other for other in self._ends if not other.loop.is_dead] + [end]

    def carry(self, sender: "SimulatedBus", document_id: DocumentId, message: DocumentMessage | Lost) -> None:
        """Bring a message to all others that are subscribed now."""
        if (
            isinstance(message, Saved)
            and message.updates is not None
            and sum(map(len, message.updates)) > self._largest
        ):
            message = replace(message, updates=None)
        letter = encode(sender.instance, 0, message)
        for end in self._ends:
            if end is not sender and end.hears(document_id):
                for _ in range(2 if self._random.random() < self.repeats else 1):
                    self._send(end, document_id, letter)

    def _send(self, end: "SimulatedBus", document_id: DocumentId, letter: bytes) -> None:
        if self.is_deaf or self._random.random() < max(self.loss, end.line.loss):
            return
        at = self._loop.time() + self.delay * self._random.random()
        if self.is_ordered:
            at = end.next_at = max(at, end.next_at + _GAP)
        self._loop.call_at(at, end.arrive, end.connected, document_id, letter)


class SimulatedBus:
    """`Bus` of one instance."""

    def __init__(self, hub: SimulatedHub, line: Line, loop: InstanceLoop, instance: InstanceId) -> None:
        self.line = line
        self.loop = loop
        self.connected = 0  # how often a connection was made
        self.next_at = 0.0
        self._instance = instance
        self._hub = hub
        self._listeners = Listeners()
        self._established: set[DocumentId] = set()
        self._outbox: deque[tuple[DocumentId, DocumentMessage]] = deque()
        self._lost: dict[DocumentId, None] = {}
        self._waiting: dict[DocumentId, asyncio.Event] = {}
        hub.attach(self)

    @property
    def instance(self) -> InstanceId:
        return self._instance

    @property
    def is_away(self) -> bool:
        return self.line.is_away

    # ------------------------------------------------------------------ what the instance does

    def publish(self, document_id: DocumentId, message: DocumentMessage) -> None:
        """See BU1."""
        self._hub.watcher.published(document_id, message)
        if self.line.is_away:
            self._outbox.append((document_id, message))
            if len(self._outbox) > _BUFFERED:
                self._lost[self._outbox.popleft()[0]] = None
        else:
            self._hub.carry(self, document_id, message)

    def tell_all(self, message: ControlMessage) -> None:
        raise AssertionError("nothing in a simulated instance has rights or caches")

    def listen(self, subscriber: ControlSubscriber) -> None:
        self._listeners.listen(subscriber)

    async def subscribe(self, document_id: DocumentId, subscriber: Subscriber, timeout: float) -> bool:
        """See BU3."""
        self._listeners.add(document_id, subscriber)
        waiting = self._waiting[document_id] = asyncio.Event()
        self.loop.call_later(self._hub.delay, self._establish, self.connected, document_id)
        try:
            async with asyncio.timeout(timeout):
                await waiting.wait()
        except TimeoutError:
            return False
        finally:
            if self._waiting.get(document_id) is waiting:
                del self._waiting[document_id]
        return True

    def _establish(self, connected: int, document_id: DocumentId) -> None:
        """From now on a document's messages are brought; who waited too long for it may have missed some."""
        if connected != self.connected or self.line.is_away or document_id not in self._listeners:
            return
        self._established.add(document_id)
        waiting = self._waiting.get(document_id)
        if waiting is not None:
            waiting.set()
        else:
            self._listeners.missed([document_id])

    def unsubscribe(self, document_id: DocumentId) -> None:
        self._listeners.remove(document_id)
        self._established.discard(document_id)
        self._hub.watcher.unsubscribed()

    async def run(self) -> None:
        """Messages are carried without it."""
        await asyncio.Event().wait()

    # ------------------------------------------------------------------ what the bus does

    def hears(self, document_id: DocumentId) -> bool:
        """Whether a message that is published now is brought here."""
        return not self.loop.is_dead and not self.line.is_away and document_id in self._established

    def arrive(self, connected: int, document_id: DocumentId, letter: bytes) -> None:
        """A message comes out at this end, unless its connection has broken or the instance has ended."""
        if connected != self.connected or self.loop.is_dead:
            return
        read = decode(letter)
        if isinstance(read.message, Lost):
            self._listeners.missed([document_id])
        elif isinstance(read.message, Saved | PresenceChanged | PresenceAsked | RollCalled):
            self._hub.watcher.arrived(self._instance, document_id, read.message)
            self._listeners.heard(document_id, read.sender, read.message)

    def lose_connection(self) -> None:
        """What is under way to here is lost; until `connect` all is."""
        self.line.is_away = True
        self.connected += 1
        self._established.clear()

    def connect(self) -> None:
        """The bus can be reached again: subscriptions are made anew, what waited is sent, and everyone is told (BU4)."""
        self.line.is_away = False
        if self.loop.is_dead:
            return
        for document_id in self._listeners.documents():
            self._establish(self.connected, document_id)
        while self._outbox:
            self._hub.carry(self, *self._outbox.popleft())
        for document_id in self._lost:
            self._hub.carry(self, document_id, Lost())
        self._lost.clear()
