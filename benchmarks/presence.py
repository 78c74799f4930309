"""Clients that move a cursor, as stock clients do it: each state that a client has not seen is sent back to the server at once.

The states of all are told by client id and clock, so that it does not matter how a server joins or writes them anew.
"""

import json
import select
import time
from collections import defaultdict
from typing import Final, NamedTuple

from benchmarks.edits import var_bytes
from benchmarks.generator import Client
from benchmarks.wire import BINARY, Frames, LoadFailed, client_frame, hocuspocus_of, read_var_uint
from constructure_sync.protocol.awareness import GONE, AwarenessEntry, decode_awareness, encode_awareness

AWARENESS: Final = b"\x01"
_REMEMBERED: Final = 4_096  # messages; the same one reaches everybody
_POLL_SECONDS: Final = 0.05
_SETTLE_SECONDS: Final = 20.0  # a server that relays echoes to all never comes to rest


class _Message(NamedTuple):
    """An awareness message: who is in it, and the frame that a stock client echoes."""

    clocks: tuple[tuple[int, int], ...]
    frame: bytes


class Visitor:
    """A client that is present. shown: the clock that it shows of each other; sent_back: states; took: bytes."""

    def __init__(self, url: str, room: int, client_id: int) -> None:
        self.client = Client(url, room, client_id, is_observer=False, wants_receipts=False)
        self.client_id = client_id
        self.clock = 0
        self.shown: dict[int, int] = defaultdict(int)
        self.sent_back = 0
        self.took = 0
        self.outgoing = bytearray()
        self.frames = Frames()
        self.prefix = hocuspocus_of(url)[1]
        self.echoes = not self.prefix  # Hocuspocus' own provider sends back nothing

    def send(self, frames: bytes) -> None:
        """Send frames, or keep what the socket does not take: a stock client has no bound here."""
        self.outgoing += frames
        del self.outgoing[: self.client.offer(bytes(self.outgoing))]

    def move(self, x: float, y: float) -> bytes:
        """Return the frame of the next state."""
        self.clock += 1
        state = {
            "user": {"name": f"Visitor {self.client_id}", "color": "#30bced"},
            "cursor": {"x": round(x, 2), "y": round(y, 2), "node": "aB3dE6gH9jK2"},
        }
        entry = AwarenessEntry(self.client_id, self.clock, json.dumps(state, separators=(",", ":")).encode())
        return client_frame(self.prefix + AWARENESS + var_bytes(encode_awareness([entry])))


class Crowd:
    """Visitors of one room, in one thread. A context manager.

    delays: seconds from each move until another one shows it or a newer one; delivered: states that were new to who got them.
    """

    def __init__(self, url: str, count: int) -> None:
        self.delays: list[float] = []
        self.delivered = 0
        self._moved_at: dict[int, list[float]] = {}
        self._messages: dict[bytes, _Message] = {}
        self._poll = select.epoll()
        self._by_fd: dict[int, Visitor] = {}
        self.visitors: list[Visitor] = []
        for number in range(count):
            self.join(url, 1_000_003 * (number + 1))

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in self._by_fd.values():
            visitor.client.close()
        self._poll.close()

    @property
    def took(self) -> int:
        return sum(visitor.took for visitor in self.visitors)

    @property
    def sent_back(self) -> int:
        return sum(visitor.sent_back for visitor in self.visitors)

    def join(self, url: str, client_id: int) -> Visitor:
        """Have one more visitor come."""
        visitor = Visitor(url, 0, client_id)
        self._moved_at[client_id] = []
        self._by_fd[visitor.client.fd] = visitor
        self._poll.register(visitor.client.fd, select.EPOLLIN)
        self.visitors.append(visitor)
        self._hear(visitor, b"".join(visitor.client.received))
        return visitor

    def move_for(self, seconds: float, per_second: float) -> int:
        """Have every visitor move so many times a second, evenly; return how many moves there were."""
        now = time.perf_counter()
        end, due, turn = now + seconds, now, 0
        while now < end:
            while due <= now:
                visitor = self.visitors[turn % len(self.visitors)]
                frame = visitor.move(turn % 1900 + 0.25, turn % 1070 + 0.5)
                self._moved_at[visitor.client_id].append(time.perf_counter())
                visitor.send(frame)
                turn += 1
                due += 1 / (per_second * len(self.visitors))
            self.poll(max(0.0, min(due, end) - time.perf_counter()))
            now = time.perf_counter()
        return turn

    def settle(self) -> None:
        """Read until everybody shows the last state of everybody. LoadFailed: it takes too long."""
        deadline = time.perf_counter() + _SETTLE_SECONDS
        while not all(self._shows_all(visitor) for visitor in self.visitors):
            if time.perf_counter() > deadline:
                raise LoadFailed("somebody does not show where the others are")
            self.poll(_POLL_SECONDS)

    def poll(self, seconds: float) -> None:
        """Read what arrives and send back what is new."""
        for fd, _ in self._poll.poll(seconds):
            visitor = self._by_fd[fd]
            data = visitor.client.read()
            visitor.client.received.clear()
            visitor.took += len(data)
            self._hear(visitor, data)
        for visitor in self.visitors:
            if visitor.outgoing:
                visitor.send(b"")

    def _hear(self, visitor: Visitor, data: bytes) -> None:
        back = [
            frame
            for opcode, payload in visitor.frames.feed(data)
            if opcode == BINARY and (frame := self._take(visitor, payload))
        ]
        if back and visitor.echoes:
            visitor.sent_back += len(back)
            visitor.send(b"".join(back))

    def _take(self, visitor: Visitor, payload: bytes) -> bytes | None:
        """Show what a message holds; return the frame that sends it back if any of it was new."""
        message = self._messages.get(payload) or self._read(visitor, payload)
        now, new = time.perf_counter(), 0
        for client_id, clock in message.clocks:
            before = visitor.shown[client_id]
            if clock <= before or client_id == visitor.client_id:
                continue
            visitor.shown[client_id] = clock
            new += 1
            self.delays.extend([now - moved for moved in self._moved_at[client_id][before:clock]])
        self.delivered += new
        return message.frame if new else None

    def _read(self, visitor: Visitor, payload: bytes) -> _Message:
        body = payload.removeprefix(visitor.prefix)
        clocks: tuple[tuple[int, int], ...] = ()
        if body[:1] == AWARENESS:
            _, at = read_var_uint(body, 1)
            clocks = tuple(
                (entry.client_id, entry.clock)
                for entry in decode_awareness(body[at:])
                if entry.client_id in self._moved_at and entry.state != GONE
            )
        if len(self._messages) > _REMEMBERED:
            self._messages.clear()
        message = self._messages[payload] = _Message(clocks, client_frame(payload))
        return message

    def _shows_all(self, visitor: Visitor) -> bool:
        return all(visitor.shown[other.client_id] >= other.clock for other in self.visitors if other is not visitor)
