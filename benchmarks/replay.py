"""Scripts sent again: each step leaves when its writer has what the edit builds on, and its way to a reader is timed.

A step is told by its bytes, or, where a server writes what it relays anew, by the clocks in it. A step that only deletes has no
clock of its own: it is sent with the others and neither waited for nor timed.
"""

import random
import select
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from pycrdt import Doc, Map, Text

from benchmarks.check import updates_of
from benchmarks.edits import TEXT
from benchmarks.generator import SETTLE_SECONDS, Client
from benchmarks.scripts import Content, Script, Step
from benchmarks.servers import Loadable
from benchmarks.wire import BINARY, STEP1, Frames, LoadFailed
from constructure_sync.protocol.update_reader import read_update

_QUIET_SECONDS: Final = 0.3  # without a byte: deletes that come last are there, too
_POLL_SECONDS: Final = 0.05
_MAPS: Final = ("nodes", "layout", "edges")


class _Line:
    """A client, and how far it has seen each writer: the clock behind the last edit."""

    def __init__(
        self, client: Client, clocks: Mapping[bytes, tuple[int, int]], writers: Mapping[int, int], *, is_writer: bool
    ) -> None:
        self.client = client
        self.is_writer = is_writer
        self.seen = [0] * len(writers)
        self._clocks = clocks
        self._writers = writers
        self._frames = Frames()
        for _ in self._frames.feed(b"".join(client.received)):
            pass  # of joining

    def take(self, data: bytes) -> None:
        """Note what arrived."""
        for opcode, payload in self._frames.feed(data):
            sync = self.client.sync_payload(payload) if opcode == BINARY else None
            if sync is None or sync[0] == STEP1:
                continue
            known = self._clocks.get(sync[1])
            for writer, clock in [known] if known else self._read(sync[1]):
                self.seen[writer] = max(self.seen[writer], clock)

    def _read(self, update: bytes) -> Iterator[tuple[int, int]]:
        for section in read_update(update).sections:
            if section.client in self._writers:
                yield self._writers[section.client], section.structs[-1].end


class Room:
    """One room in which a script is replayed. arrived: seconds from each step's send until the first reader had it."""

    def __init__(self, target: Loadable, room: int, script: Script, readers: int) -> None:
        self.script = script
        self.arrived: list[float] = []
        self.sent = 0
        self._url = target.urls()[room]
        clocks = {step.update: (step.writer, step.clock) for step in script.steps}
        numbers = {client: writer for writer, client in enumerate(script.clients)}
        receipts = "ack=" in self._url
        self.writers = [
            _Line(
                Client(target.url(room), room, client, is_observer=False, wants_receipts=receipts),
                clocks,
                numbers,
                is_writer=True,
            )
            for client in script.clients
        ]
        self.readers = [
            _Line(
                Client(target.url(room), room, number, is_observer=False, wants_receipts=False),
                clocks,
                numbers,
                is_writer=False,
            )
            for number in range(1, readers + 1)
        ]
        self._queues = [deque[Step]() for _ in script.clients]
        self._order = deque[Step](script.steps)
        for step in script.steps:
            self._queues[step.writer].append(step)
        self._on_their_way = [deque[tuple[int, float]]() for _ in script.clients]
        self._writing: list[_Line] = []
        self._last = [0] * len(script.clients)  # clock behind what each writer has sent

    @property
    def lines(self) -> list[_Line]:
        return [*self.writers, *self.readers]

    @property
    def is_sent(self) -> bool:
        return self.sent == len(self.script.steps)

    @property
    def is_done(self) -> bool:
        """Whether the first reader has everything."""
        return self.is_sent and not any(self._on_their_way)

    @property
    def is_settled(self) -> bool:
        """Whether the first reader has everything and the writers their receipts."""
        return self.is_done and not any(line.client.waiting for line in self.writers)

    def hear(self, line: _Line, data: bytes, now: float) -> None:
        """Take what a client has read."""
        if line.client.wants_receipts:
            line.client.take_control(data, now)
        if line.is_writer or line is self.readers[0]:
            line.take(data)
        if line is not self.readers[0]:
            return
        for writer, sent in enumerate(self._on_their_way):
            while sent and sent[0][0] <= line.seen[writer]:
                self.arrived.append(now - sent.popleft()[1])

    def send_window(self, window: int) -> None:
        """Have every writer send what it may, while fewer edits of it than the window are on their way."""
        for writer, queue in enumerate(self._queues):
            while queue and len(self._on_their_way[writer]) < window and self._may(queue[0]):
                self._send(queue.popleft())
        self._flush()

    def send_due(self, count: int) -> None:
        """Have writers send until so many edits are sent in all, as far as they have what these build on."""
        while self.sent < count and self._order and self._may(self._order[0]):
            self._send(self._order.popleft())
        self._flush()

    def check(self) -> None:
        """Check that every client and a fresh one hold what the script makes. LoadFailed: one does not."""
        everything = {step.update for step in self.script.steps}
        for line in self.lines:
            updates = updates_of(line.client)
            if not everything <= set(updates) and content_of(updates) != self.script.content:
                raise LoadFailed("a client does not hold what was written")
        fresh = Client(self._url, 0, 1, is_observer=False, wants_receipts=False)
        fresh.close()
        for client in (fresh, self.readers[0].client):
            if content_of(updates_of(client)) != self.script.content:
                raise LoadFailed("a client ended with another content")

    def _may(self, step: Step) -> bool:
        seen = self.writers[step.writer].seen
        return all(seen[writer] >= clock for writer, clock in step.needs)

    def _send(self, step: Step) -> None:
        now, line = time.perf_counter(), self.writers[step.writer]
        if line.client.put(step.update, now):
            self._writing.append(line)
        self.sent += 1
        if step.clock > self._last[step.writer]:
            self._last[step.writer] = step.clock
            self._on_their_way[step.writer].append((step.clock, now))

    def _flush(self) -> None:
        for line in self._writing:
            line.client.flush()
        self._writing.clear()


class Replay:
    """Rooms in which the same script is replayed, by one thread. A context manager."""

    def __init__(self, target: Loadable, rooms: Iterable[int], script: Script, readers: int) -> None:
        self.rooms = [Room(target, number, script, readers) for number in rooms]
        self._by_fd = {line.client.fd: (room, line) for room in self.rooms for line in room.lines}
        self._poll = select.epoll()
        for fd in self._by_fd:
            self._poll.register(fd, select.EPOLLIN)

    def __enter__(self) -> "Replay":
        return self

    def __exit__(self, *_: object) -> None:
        for room in self.rooms:
            for line in room.lines:
                line.client.close()
        self._poll.close()

    @property
    def sent(self) -> int:
        return sum(room.sent for room in self.rooms)

    def with_window(self, window: int) -> None:
        """Replay as fast as a reader sees it. LoadFailed: nothing has moved for long."""
        moved, sent = time.perf_counter(), 0
        while not all(room.is_done for room in self.rooms):
            for room in self.rooms:
                room.send_window(window)
            if self._read() or self.sent > sent:
                moved, sent = time.perf_counter(), self.sent
            elif time.perf_counter() - moved > SETTLE_SECONDS:
                raise LoadFailed("edits were not relayed")

    def at_rate(self, per_second: float) -> None:
        """Replay so many edits a second in each room, at random moments. LoadFailed: nothing has moved for long."""
        randomness = random.Random(0)
        started = moved = time.perf_counter()
        due, count, sent = started, 0, 0
        while not all(room.is_sent for room in self.rooms):
            now = time.perf_counter()
            while due <= now:
                count += 1
                due += randomness.expovariate(per_second)
            for room in self.rooms:
                room.send_due(count)
            if self._read(max(0.0, due - time.perf_counter())) or self.sent > sent:
                moved, sent = now, self.sent
            elif now - moved > SETTLE_SECONDS:
                raise LoadFailed("edits were not relayed")

    def settle(self) -> None:
        """Read until every edit has arrived and every receipt is there. LoadFailed: it takes too long."""
        deadline = time.perf_counter() + SETTLE_SECONDS
        quiet_since = time.perf_counter()
        while time.perf_counter() - quiet_since < _QUIET_SECONDS or not all(room.is_settled for room in self.rooms):
            if self._read():
                quiet_since = time.perf_counter()
            if time.perf_counter() > deadline:
                raise LoadFailed("not every edit has arrived, or not every receipt")

    def check(self) -> None:
        """Check every room."""
        for room in self.rooms:
            room.check()

    def _read(self, seconds: float = _POLL_SECONDS) -> int:
        """Read what arrives, waiting so long for the first of it; return how many sockets had something."""
        ready = self._poll.poll(min(seconds, _POLL_SECONDS))
        for fd, _ in ready:
            room, line = self._by_fd[fd]
            data = line.client.read()
            room.hear(line, data, time.perf_counter())
        return len(ready)


def content_of(updates: Sequence[bytes]) -> Content:
    """Return what a document holds that has taken these updates, as `Script.content`."""
    document: Doc[Text | Map[object]] = Doc()
    text, maps = document.get(TEXT, type=Text), {name: document.get(name, type=Map[object]) for name in _MAPS}
    with document.transaction():
        for update in updates:
            document.apply_update(update)
    return {TEXT: str(text), **{name: root.to_py() for name, root in maps.items()}}
