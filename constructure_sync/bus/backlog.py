"""What waits to be sent over the bus: bounded, and the oldest goes when it is full (BU1)."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from constructure_sync.observability import BUS_LOST

_MESSAGE_BYTES: Final = 100  # that a message costs beside its content


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way. number: by order of publishing. kind: its name, for metrics."""

    number: int
    channel: bytes
    payload: bytes
    kind: str


class Backlog:
    """Messages in the order of their publishing, up to a number and to a sum of bytes."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: deque[Outgoing] = deque()
        self._bytes = 0
        self._published = 0
        self._lossy: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, channel: bytes, payload: bytes, kind: str) -> None:
        """Let a message wait for its turn."""
        self._published += 1
        self._waiting.append(Outgoing(self._published, channel, payload, kind))
        self._bytes += len(payload) + _MESSAGE_BYTES
        self._keep_within_bounds()

    def take(self) -> Outgoing | None:
        """Take the oldest message; None when nothing waits."""
        if not self._waiting:
            return None
        outgoing = self._waiting.popleft()
        self._bytes -= len(outgoing.payload) + _MESSAGE_BYTES
        return outgoing

    def put_back(self, unsent: Iterable[Outgoing]) -> None:
        """Let messages that were taken wait again, before all that were published later."""
        for outgoing in sorted(unsent, key=lambda each: each.number, reverse=True):
            self._waiting.appendleft(outgoing)
            self._bytes += len(outgoing.payload) + _MESSAGE_BYTES
        self._keep_within_bounds()

    def take_lossy(self) -> list[bytes]:
        """Return the channels of which something was lost since the last call: their listeners are to be told (BU4)."""
        lossy, self._lossy = self._lossy, {}
        return list(lossy)

    def lost(self, outgoing: Outgoing) -> None:
        """Count a message that will not be sent."""
        BUS_LOST.labels(outgoing.kind).inc()
        self._lossy[outgoing.channel] = None
        if len(self._lossy) > self._max_messages:
            del self._lossy[next(iter(self._lossy))]

    def _keep_within_bounds(self) -> None:
        while len(self._waiting) > self._max_messages or self._bytes > self._max_bytes:
            oldest = self.take()
            if oldest is None:
                return
            self.lost(oldest)
