"""The load: clients on plain sockets in one thread, and when each edit left and arrived.

What a client receives is kept as it came and read after the run; during it only marks are looked for. Observers know which edits
arrived and when; the others count them, and those of which nothing is kept do only that, from one buffer that all of them share.
Edits that one client makes between two polls leave in one system call.
"""

import random
import select
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.edits import MARK, MARK_BYTES, PREFIX, Author, var_bytes
from benchmarks.wire import (
    ASK_EVERYTHING,
    AUTHENTICATE,
    AUTHENTICATED,
    BINARY,
    CLOSE,
    DENIED,
    NOTHING_TO_OFFER,
    PING,
    PONG,
    RECEIPT,
    STEP2,
    Frames,
    LoadFailed,
    client_frame,
    hocuspocus_of,
    open_socket,
    read_var_uint,
    sync_payload,
    update_frame,
)

READ_BYTES: Final = 262_144
SETTLE_SECONDS: Final = 60.0
OVERLAP: Final = len(PREFIX) - 1  # bytes of one read in which a mark may begin that ends in the next


class Client:
    """One socket in one room. received: all bytes since the opening; made: own updates; arrived: edits counted.

    receipts: seconds from each edit to its receipt, where `wants_receipts`. keeps: whether `received` and `made` are filled; a
    client that keeps nothing joins before the first edit of its room, and what it got is known by `arrived` alone.
    """

    __slots__ = (
        "_carry",
        "_frames",
        "_is_secure",
        "_line",
        "_outgoing",
        "_prefix",
        "_writes",
        "arrived",
        "author",
        "fd",
        "is_counting",
        "is_observer",
        "keeps",
        "made",
        "receipts",
        "received",
        "room",
        "waiting",
        "wants_receipts",
    )

    def __init__(
        self, url: str, room: int, client_id: int, *, is_observer: bool, wants_receipts: bool, keeps: bool = True
    ) -> None:
        self.room = room
        self.author = Author(client_id)
        self.is_observer = is_observer
        self.wants_receipts = wants_receipts
        self.keeps = keeps
        self.received: list[bytes] = []
        self.made: list[bytes] = []
        self.arrived = 0
        self.receipts: list[float] = []
        self.waiting: deque[tuple[int, float]] = deque()
        self._outgoing: list[bytes] = []
        self._carry = bytes(OVERLAP)
        self._frames = Frames()
        url, self._prefix, token = hocuspocus_of(url)
        self._line, rest = open_socket(url)
        self.fd = self._line.fileno()
        self._is_secure = isinstance(self._line, ssl.SSLSocket)
        self.is_counting = not (is_observer or wants_receipts or keeps or self._is_secure)
        self._writes = 1  # the empty answer to the server's question
        if self._prefix:
            self._line.sendall(client_frame(self._prefix + AUTHENTICATE + var_bytes(token) + var_bytes(b"4.7.0")))
        else:
            self._ask()
        self._join(rest)
        if not keeps:
            self.received.clear()

    def _ask(self) -> None:
        """Ask for everything, and answer what the server asks."""
        self._line.sendall(client_frame(self._prefix + ASK_EVERYTHING) + client_frame(self._prefix + NOTHING_TO_OFFER))

    def _join(self, data: bytes) -> None:
        """Return when the client is synced."""
        while True:
            self.received.append(data)
            for opcode, payload in self._frames.feed(data):
                if opcode == CLOSE:
                    raise LoadFailed(f"the server closed the socket: {payload!r}")
                sync = self.sync_payload(payload) if opcode == BINARY else None
                answer = payload.removeprefix(self._prefix) if self._prefix else b""
                if answer.startswith(DENIED):
                    raise LoadFailed(f"the server denies the document: {answer[3:]!r}")
                if answer.startswith(AUTHENTICATED):
                    self._ask()
                elif sync is not None and sync[0] == STEP2:
                    self._line.setblocking(False)
                    return
            data = self._line.recv(READ_BYTES)
            if not data:
                raise LoadFailed("the server closed the line")

    def sync_payload(self, message: bytes) -> tuple[int, bytes] | None:
        """Return the step and the payload of a sync message; None for any other message."""
        return sync_payload(message.removeprefix(self._prefix))

    def send(self, update: bytes, now: float) -> None:
        """Send an update at once. LoadFailed: as `flush`."""
        self.put(update, now)
        self.flush()

    def put(self, update: bytes, now: float) -> bool:
        """Have an update sent with the next `flush`. Returns whether it is the first since the last one."""
        if self.keeps:
            self.made.append(update)
        if self.wants_receipts:
            self._writes += 1
            self.waiting.append((self._writes, now))
        self._outgoing.append(update_frame(update, self._prefix))
        return len(self._outgoing) == 1

    def flush(self) -> None:
        """Send what was put. LoadFailed: the socket is full, as it only is when the server reads nothing."""
        frames = b"".join(self._outgoing)
        self._outgoing.clear()
        if self._line.send(frames) != len(frames):
            raise LoadFailed("the server reads too slowly")

    def offer(self, frames: bytes) -> int:
        """Send frames as they are; return how many bytes of them the socket took."""
        try:
            return self._line.send(frames)
        except (BlockingIOError, ssl.SSLWantWriteError):
            return 0

    def save(self, update: bytes) -> None:
        """Send an update of any size, and return when its receipt is there, which the client has to want."""
        self.made.append(update)
        self._writes += 1
        self.waiting.append((self._writes, time.perf_counter()))
        self._line.settimeout(SETTLE_SECONDS)
        self._line.sendall(update_frame(update))
        while self.waiting:
            self.take_control(self.read(), time.perf_counter())
        self._line.setblocking(False)

    def read(self) -> bytes:
        """Return what is there to read. LoadFailed: the server has closed the line."""
        try:
            data = self._line.recv(READ_BYTES)
            while data and self._is_secure and self._line.pending():  # type: ignore[attr-defined]
                data += self._line.recv(READ_BYTES)  # the poll knows nothing of what TLS has decrypted already
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        if not data:
            raise LoadFailed("the server closed a line under load")
        if self.keeps:
            self.received.append(data)
        return data

    def count_into(self, buffer: bytearray, view: memoryview) -> None:
        """Read into a buffer and count the edits there. view: of all the buffer. LoadFailed: the server has closed the line."""
        try:
            size = self._line.recv_into(view[OVERLAP:])
        except BlockingIOError:
            return
        if not size:
            raise LoadFailed("the server closed a line under load")
        view[:OVERLAP] = self._carry
        self.arrived += buffer.count(PREFIX, 0, size + OVERLAP)
        self._carry = bytes(view[size : size + OVERLAP])

    def count(self, data: bytes) -> None:
        """Count the edits in what was read."""
        data = self._carry + data
        self.arrived += data.count(PREFIX)
        self._carry = data[-OVERLAP:]

    def marks(self, data: bytes) -> list[bytes]:
        """Return the numbers of the edits in what was read."""
        data = self._carry + data
        found = MARK.findall(data)
        self.arrived += len(found)
        last = data.rfind(PREFIX)
        self._carry = data[last:] if last >= 0 and len(data) - last < MARK_BYTES else data[-OVERLAP:]
        return found

    def take_control(self, data: bytes, now: float) -> None:
        """Read frame by frame, for receipts and pings."""
        for opcode, payload in self._frames.feed(data):
            if opcode == BINARY and payload[0] == RECEIPT:
                number = read_var_uint(payload, 1)[0]
                while self.waiting and self.waiting[0][0] <= number:
                    self.receipts.append(now - self.waiting.popleft()[1])
            elif opcode == PING:
                self._line.send(client_frame(payload, PONG))

    def close(self) -> None:
        """End the line without a word."""
        self._line.close()


class Generator:
    """Clients, and the edits they make. sent_at, sent_by: by the number of the edit. latencies: of what observers received.

    echoes: whether the server sends a writer its own edits back.
    """

    def __init__(self, randomness: random.Random, *, echoes: bool = False) -> None:
        self.clients: list[Client] = []
        self.sent_at: list[float] = []
        self.sent_by: list[Client] = []
        self.latencies: list[float] = []
        self.on_arrival: Callable[[Client, int], None] | None = None
        self._randomness = randomness
        self.echoes = echoes
        self._by_fd: dict[int, Client] = {}
        self._poll = select.epoll()
        self._writing: list[Client] = []
        self._buffer = bytearray(READ_BYTES + OVERLAP)
        self._view = memoryview(self._buffer)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        self._poll.close()

    def join(
        self, url: str, room: int, *, is_observer: bool = True, wants_receipts: bool = False, keeps: bool = True
    ) -> Client:
        """Connect one more client and return it synced."""
        client_id = self._randomness.getrandbits(32)
        client = Client(url, room, client_id, is_observer=is_observer, wants_receipts=wants_receipts, keeps=keeps)
        self.clients.append(client)
        self._by_fd[client.fd] = client
        self._poll.register(client.fd, select.EPOLLIN)
        return client

    def edit(self, client: Client) -> None:
        """Have a client make its next edit, which leaves with the next poll."""
        update = client.author.edit(len(self.sent_at))
        now = time.perf_counter()
        self.sent_at.append(now)
        self.sent_by.append(client)
        if client.put(update, now):
            self._writing.append(client)

    def poll(self, seconds: float) -> None:
        """Send what was made, and read what arrives, waiting so long for the first of it."""
        by_fd, clock, sent_at, sent_by = self._by_fd, time.perf_counter, self.sent_at, self.sent_by
        for client in self._writing:
            client.flush()
        self._writing.clear()
        for fd, _ in self._poll.poll(seconds):
            client = by_fd[fd]
            if client.is_counting:
                client.count_into(self._buffer, self._view)
                continue
            data = client.read()
            if client.wants_receipts:
                client.take_control(data, clock())
            if not client.is_observer:
                client.count(data)
                continue
            now = clock()
            for number in map(int, client.marks(data)):
                if sent_by[number] is client:
                    client.arrived -= not self.echoes  # an echo that nobody waits for
                    continue
                self.latencies.append(now - sent_at[number])
                if self.on_arrival is not None:
                    self.on_arrival(client, number)

    def steadily(self, writers: Sequence[Client], per_second: float, seconds: float) -> None:
        """Have writers edit in turn, at random moments, so many times a second in all."""
        now = time.perf_counter()
        end, due, turn = now + seconds, now, 0
        while now < end:
            while due <= now:
                self.edit(writers[turn % len(writers)])
                turn += 1
                due += self._randomness.expovariate(per_second)
            self.poll(max(0.0, min(due, end) - time.perf_counter()))
            now = time.perf_counter()

    def settle(self) -> None:
        """Read until every client has all edits that others made in its room, and its receipts. LoadFailed: it takes too long."""
        made: dict[int, int] = {}
        own: dict[int, int] = {}
        for client in self.sent_by:
            made[client.room] = made.get(client.room, 0) + 1
            if not self.echoes:
                own[client.fd] = own.get(client.fd, 0) + 1
        waiting = self.clients
        deadline = time.perf_counter() + SETTLE_SECONDS
        while True:
            waiting = [
                client
                for client in waiting
                if client.waiting or client.arrived < made.get(client.room, 0) - own.get(client.fd, 0)
            ]
            if not waiting:
                return
            if time.perf_counter() > deadline:
                raise LoadFailed(f"{len(waiting)} clients did not get everything within {SETTLE_SECONDS:.0f} s")
            self.poll(0.05)
