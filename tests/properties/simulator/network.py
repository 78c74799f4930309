"""A WebSocket between a client and an instance: late, cut, half open, congested; each direction keeps its order."""

import random
from collections import deque
from typing import TYPE_CHECKING, Protocol

from constructure_sync.rooms.connection import Connection
from constructure_sync.rooms.room import Room

if TYPE_CHECKING:
    from tests.properties.simulator.instance import Instance
    from tests.properties.simulator.loop import VirtualLoop

HIGH_WATER = 512
_GAP = 1e-6  # timers of one moment have no order, so two messages never arrive at one


class Ear(Protocol):
    """The client, as its socket sees it."""

    def opened(self, wire: "Wire") -> None: ...
    def hear(self, wire: "Wire", message: bytes) -> None: ...
    def lost(self, wire: "Wire", code: int) -> None: ...


class Watcher(Protocol):
    """Sees what passes at the server's end of every wire, before it has an effect."""

    def written(self, wire: "Wire", framed: bytes) -> None: ...
    def received(self, wire: "Wire", message: bytes) -> None: ...
    def closed(self, wire: "Wire", code: int) -> None: ...
    def ended(self, wire: "Wire") -> None: ...


def unframe(framed: bytes) -> list[bytes]:
    """Return the payloads of the server's binary frames that stand one behind the other (RFC 6455 §5.2)."""
    payloads, position = [], 0
    while position < len(framed):
        if framed[position] != 0x82:
            raise ValueError("not a whole binary frame")
        length, position = framed[position + 1], position + 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length, position = int.from_bytes(framed[position : position + size]), position + size
        payloads.append(framed[position : position + length])
        position += length
    return payloads


class Wire:
    """Both ends of one socket. The server's end is a `rooms.socket.Socket`."""

    def __init__(
        self,
        loop: "VirtualLoop",
        instance: "Instance",
        randomness: random.Random,
        watcher: Watcher,
        client: Ear,
    ) -> None:
        self.loop = loop
        self.instance = instance
        self.server = instance.loop
        self.watcher = watcher
        self.client = client
        self.connection: Connection | None = None
        self.room: Room | None = None
        self.buffered = 0
        self.is_stalled = False
        self.is_congested = False
        self.is_cut = False
        self.is_closing = False
        self.has_ended = False
        self.has_left = False
        self.in_flight = 0
        self._random = randomness
        self._latency = randomness.choice((0.0, 0.002, 0.02, 0.2))
        self._down_at = 0.0
        self._up_at = 0.0
        self._held_down: list[bytes] = []
        self._held_up: deque[bytes] = deque()
        self._is_paused = False

    # ------------------------------------------------------------------ the server's end

    def write(self, framed: bytes) -> None:
        if self.is_closing or self.has_ended:
            return
        self.watcher.written(self, framed)
        if self.is_stalled:
            self._held_down.append(framed)
            self.buffered += len(framed)
            if self.buffered > HIGH_WATER and not self.is_congested and self.connection is not None:
                self.is_congested = True
                self.connection.congested()
        else:
            self._send_down(framed)

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        while self._held_up and not self._is_paused and not self.is_closing and not self.has_ended:
            self._receive(self._held_up.popleft())

    def close(self, code: int, reason: str) -> None:
        if self.is_closing or self.has_ended:
            return
        self.watcher.closed(self, code)
        self.is_closing = True
        # The peer's answer, or the time limit of the closing handshake, ends the socket.
        self.server.call_later(5.0 if self.is_stalled else 0.01 + 2 * self._latency, self.end)
        self._down_at = max(self._down_at + _GAP, self.loop.time() + self._latency)
        self.loop.call_at(self._down_at, self._tell_lost, 1006 if self.is_stalled else code)

    def ping(self) -> None:
        raise AssertionError("rooms do not ping")

    def end(self) -> None:
        """The server learns that the socket is gone."""
        if not self.has_ended and not self.server.is_dead:
            self.has_ended = self.is_closing = True
            if self.connection is not None:
                self.connection.ended()
                self.watcher.ended(self)

    def opened(self, room: Room, connection: Connection) -> None:
        """The server has let the client in."""
        self.room, self.connection = room, connection
        if self.has_ended:  # the client has gone while hands were shaken
            connection.ended()
            return
        if self.is_congested:
            connection.congested()
        self._down_at = max(self._down_at + _GAP, self.loop.time() + self._latency)

    def _receive(self, message: bytes) -> None:
        if self.connection is not None:
            self.watcher.received(self, message)
            self.connection.receive(message)

    # ------------------------------------------------------------------ the client's end

    def send(self, message: bytes) -> None:
        """Send a message to the server."""
        if not self.is_cut and not self.has_left:
            self.in_flight += 1
            self._up_at = max(self._up_at + _GAP, self.loop.time() + self._latency * self._random.uniform(0.5, 1.5))
            self.loop.call_at(self._up_at, self._arrive, message)

    def leave(self) -> None:
        """Close from the client's side: what it has sent still arrives."""
        self.has_left = True
        self._up_at = max(self._up_at + _GAP, self.loop.time() + self._latency)
        self.loop.call_at(self._up_at, self.end)

    def _arrive(self, message: bytes) -> None:
        self.in_flight -= 1
        if self.is_cut or self.is_closing or self.server.is_dead:
            return
        if self._is_paused or self._held_up:
            self._held_up.append(message)
        else:
            self._receive(message)

    def _send_down(self, framed: bytes) -> None:
        self.in_flight += 1
        self._down_at = max(self._down_at + _GAP, self.loop.time() + self._latency * self._random.uniform(0.5, 1.5))
        self.loop.call_at(self._down_at, self._deliver, framed)

    def _deliver(self, framed: bytes) -> None:
        self.in_flight -= 1
        for message in unframe(framed):
            if not self.is_cut and not self.has_left:
                self.client.hear(self, message)

    def _tell_lost(self, code: int) -> None:
        if not self.is_cut and not self.has_left:
            self.is_cut = True
            self.client.lost(self, code)

    # ------------------------------------------------------------------ the line

    def cut(self, *, server_notices: float, client_notices: float) -> None:
        """Lose the line with all that is under way; each end learns of it so many seconds later."""
        if not self.is_cut:
            self.is_cut = True
            self.server.call_later(server_notices, self.end)
            self.loop.call_later(client_notices, self.client.lost, self, 1006)

    def stall(self) -> None:
        """The client takes no more bytes for now."""
        self.is_stalled = True

    def flow(self) -> None:
        """The client takes bytes again."""
        self.is_stalled = False
        held, self._held_down, self.buffered = self._held_down, [], 0
        for framed in held:
            self._send_down(framed)
        if self.is_congested:
            self.is_congested = False
            if self.connection is not None and not self.is_closing and not self.server.is_dead:
                self.connection.writable()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self.in_flight == 0 and not self._held_up and not self._held_down
