"""A bus inside one process: of a single instance, which has nobody to talk to; tests attach several to one hub."""

import asyncio
from collections import deque

from constructure_sync.bus.contracts import ControlMessage, ControlSubscriber, DocumentMessage, InstanceId, Subscriber
from constructure_sync.bus.listeners import Listeners
from constructure_sync.observability import BUS_CONNECTED, BUS_HEARD, BUS_LOST, BUS_PUBLISHED
from schemas.ids import DocumentId

_WAITING_MESSAGES = 10_000

_Letter = tuple[InstanceId, DocumentId | None, DocumentMessage | ControlMessage]


class LocalHub:
    """Where the endpoints of a process meet."""

    def __init__(self) -> None:
        self._endpoints: list[LocalBus] = []

    def attach(self, endpoint: "LocalBus") -> None:
        self._endpoints.append(endpoint)

    def detach(self, endpoint: "LocalBus") -> None:
        self._endpoints = [other for other in self._endpoints if other is not endpoint]

    def send(
        self, sender: "LocalBus", document_id: DocumentId | None, message: DocumentMessage | ControlMessage
    ) -> None:
        """Hand a message to all but its sender. document_id: None for a control message."""
        for endpoint in self._endpoints:
            if endpoint is not sender:
                endpoint.take(sender.instance, document_id, message)


class LocalBus:
    """One instance's end of a hub, of which it is a part from its making until `run` is cancelled.

    waiting_messages: so many wait at most for their turn of the loop; then the oldest is lost, and its subscriber told.
    """

    is_away = False

    def __init__(
        self,
        hub: LocalHub,
        instance: InstanceId,
        loop: asyncio.AbstractEventLoop,
        waiting_messages: int = _WAITING_MESSAGES,
    ) -> None:
        self._hub = hub
        self._instance = instance
        self._loop = loop
        self._waiting_messages = waiting_messages
        self._listeners = Listeners()
        self._inbox: deque[_Letter] = deque()
        self._missed: dict[DocumentId | None, None] = {}
        self._is_delivery_due = False
        hub.attach(self)

    @property
    def instance(self) -> InstanceId:
        return self._instance

    def publish(self, document_id: DocumentId, message: DocumentMessage) -> None:
        """See BU1."""
        self._send(document_id, message)

    def tell_all(self, message: ControlMessage) -> None:
        """See BU1."""
        self._send(None, message)

    def _send(self, document_id: DocumentId | None, message: DocumentMessage | ControlMessage) -> None:
        BUS_PUBLISHED.labels(type(message).__name__).inc()
        self._hub.send(self, document_id, message)

    def listen(self, subscriber: ControlSubscriber) -> None:
        self._listeners.listen(subscriber)

    async def subscribe(self, document_id: DocumentId, subscriber: Subscriber, timeout: float) -> bool:
        """See BU3: always established at once."""
        self._listeners.add(document_id, subscriber)
        return True

    def unsubscribe(self, document_id: DocumentId) -> None:
        self._listeners.remove(document_id)

    async def run(self) -> None:
        """Stay a part of the hub until cancelled."""
        BUS_CONNECTED.set(1)
        try:
            await self._loop.create_future()
        finally:
            self._hub.detach(self)

    def take(
        self, sender: InstanceId, document_id: DocumentId | None, message: DocumentMessage | ControlMessage
    ) -> None:
        """Let a message wait for the next turn of the loop, so that no subscriber is called inside another's step (BU5)."""
        if document_id is not None and document_id not in self._listeners:
            return
        if len(self._inbox) >= self._waiting_messages:
            _, lost_of, lost = self._inbox.popleft()
            self._missed[lost_of] = None
            BUS_LOST.labels(type(lost).__name__).inc()
        self._inbox.append((sender, document_id, message))
        if not self._is_delivery_due:
            self._is_delivery_due = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_delivery_due = False
        inbox, self._inbox = self._inbox, deque()
        missed, self._missed = self._missed, {}
        for sender, document_id, message in inbox:
            BUS_HEARD.labels(type(message).__name__).inc()
            if isinstance(message, ControlMessage):
                self._listeners.told(sender, message)
            elif document_id is not None:
                self._listeners.heard(document_id, sender, message)
        if None in missed:
            self._listeners.missed_control()
        self._listeners.missed([document_id for document_id in missed if document_id is not None])
