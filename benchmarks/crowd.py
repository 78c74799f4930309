"""Many clients that come at once, in one thread: each connects, asks for what it lacks, and answers the server's question.

What arrives is followed from frame to frame and, unless it is wanted for the check, not kept: 200 clients that are sent 1.4 MB each
must not wait for the generator.
"""

import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.edits import MARK, MARK_BYTES, PREFIX, var_bytes
from benchmarks.generator import SETTLE_SECONDS
from benchmarks.wire import (
    AUTHENTICATE,
    AUTHENTICATED,
    BINARY,
    CLOSE,
    STEP1,
    STEP2,
    SYNC,
    UPDATE,
    Frames,
    LoadFailed,
    address_of,
    client_frame,
    hocuspocus_of,
    sync_payload,
    update_frame,
    upgrade_request,
)

_BUFFER_BYTES: Final = 1024 * 1024
_HEAD_END: Final = b"\r\n\r\n"
_NOTHING: Final = b"\x00"  # the state vector of who has nothing
_NO_UPDATE: Final = b"\x00\x00"


class FrameTrack:
    """Follows a server's frames without keeping them. prefix: what stands before every message."""

    __slots__ = ("_carry", "_frame", "_left", "_peek")

    def __init__(self, prefix: bytes) -> None:
        self._peek = len(prefix) + 2  # bytes that tell what a message is
        self._carry = b""  # a header that is not whole yet
        self._left = 0  # bytes until the end of the frame that is being read
        self._frame = (0, b"")

    def feed(self, data: memoryview) -> Iterator[tuple[int, bytes]]:
        """Yield (opcode, first bytes of the message) of each frame that ends in this data; of live updates not all."""
        if self._carry:
            data, self._carry = memoryview(self._carry + data), b""
        end, peek = len(data), self._peek
        at = min(self._left, end)
        if self._left:
            self._left -= at
            if not self._left:
                yield self._frame
        while end - at >= 2:
            size, start = data[at + 1], at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width], "big"), start + width
            stop, told = start + size, start + min(size, peek)
            if told > end or start > end:
                break
            if stop <= end and size >= peek and data[told - 1] == UPDATE and data[told - 2] == SYNC:
                at = stop
                continue
            self._frame = data[at] & 0x0F, bytes(data[start:told])
            at = min(stop, end)
            self._left = stop - at
            if not self._left:
                yield self._frame
        self._carry = bytes(data[at:])


class Visitor:
    """One client. is_synced: it has got the answer to its question, and answered the server's. synced_at: when it was.

    state_vector: what it has already; answer: the update that it has for the server, on being asked. keeps: whether what it
    receives is kept, for `updates` and `watch`. seen: the edits whose marks it has received, while it watches.
    """

    def __init__(
        self,
        url: str,
        *,
        state_vector: bytes = _NOTHING,
        answer: bytes = _NO_UPDATE,
        keeps: bool = False,
    ) -> None:
        self.is_synced = False
        self.synced_at = 0.0
        self.seen: set[int] = set()
        self.made: list[bytes] = []
        self._has_answered = False
        self._has_everything = False
        self._keeps = keeps
        self._is_watching = False
        self._carry = b""
        self._opening: bytes | None = b""
        self._received: list[bytes] = []
        url, self._prefix, self._token = hocuspocus_of(url)
        self._question = b"\x00\x00" + var_bytes(state_vector)
        self._answer = b"\x00\x01" + var_bytes(answer)
        self._track = FrameTrack(self._prefix)
        self._line = socket.create_connection(address_of(url), SETTLE_SECONDS)
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._line.sendall(upgrade_request(url))
        self._line.setblocking(False)
        self.fd = self._line.fileno()

    def send(self, update: bytes) -> None:
        """Send an update, waiting until the server has read so much."""
        self.made.append(update)
        self._send(update_frame(update, self._prefix))

    def read(self, buffer: memoryview) -> None:
        """Take what is there. LoadFailed: the server has closed the line."""
        try:
            size = self._line.recv_into(buffer)
        except BlockingIOError:
            return
        if not size:
            raise LoadFailed("the server closed a line")
        data = buffer[:size]
        if self._opening is not None:
            data = self._open(data)
        if self._keeps:
            self._received.append(bytes(data))
        if not self.is_synced:
            for opcode, start in self._track.feed(data):
                self._take(opcode, start)
        if self._is_watching:
            self._watch(bytes(data))

    def _open(self, data: memoryview) -> memoryview:
        """Read the answer to the upgrade; return what came behind it."""
        assert self._opening is not None
        self._opening += data
        head, found, rest = self._opening.partition(_HEAD_END)
        if not found:
            return memoryview(b"")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise LoadFailed(f"the server refused the socket: {head[:200]!r}")
        self._opening = None
        if self._prefix:
            self._say(AUTHENTICATE + var_bytes(self._token) + var_bytes(b"4.7.0"))
        else:
            self._say(self._question)
        return memoryview(rest)

    def _take(self, opcode: int, start: bytes) -> None:
        """Take a frame. start: the first bytes of its message."""
        if opcode == CLOSE:
            raise LoadFailed("the server closed a socket")
        if opcode != BINARY:
            return
        kind = start[len(self._prefix) :]
        if self._prefix and kind == AUTHENTICATED:
            self._say(self._question)
        elif kind == bytes((SYNC, STEP1)) and not self._has_answered:
            self._has_answered = True
            self._say(self._answer)
        elif kind == bytes((SYNC, STEP2)):
            self._has_everything = True
        if self._has_answered and self._has_everything and not self.is_synced:
            self.is_synced = True
            self.synced_at = time.perf_counter()

    def watch(self) -> None:
        """Look for the marks of edits in what it has kept, and in what arrives from now on."""
        self._is_watching = True
        self._watch(b"".join(self._received))

    def _watch(self, data: bytes) -> None:
        data = self._carry + data
        self.seen.update(map(int, MARK.findall(data)))
        last = data.rfind(PREFIX)
        self._carry = data[last:] if last >= 0 and len(data) - last < MARK_BYTES else data[1 - len(PREFIX) :]

    def _say(self, message: bytes) -> None:
        self._send(client_frame(self._prefix + message))

    def _send(self, frame: bytes) -> None:
        self._line.settimeout(SETTLE_SECONDS)
        self._line.sendall(frame)
        self._line.setblocking(False)

    def updates(self) -> list[bytes]:
        """Return all updates that it has made and received; it has to keep them."""
        messages = [payload for opcode, payload in Frames().feed(b"".join(self._received)) if opcode == BINARY]
        synced = [sync_payload(message.removeprefix(self._prefix)) for message in messages]
        return [*self.made, *(sync[1] for sync in synced if sync is not None and sync[0] != STEP1)]

    def close(self) -> None:
        """End the line without a word."""
        self._line.close()


class Crowd:
    """Visitors that are read from in turn; a context manager that ends their lines."""

    def __init__(self) -> None:
        self._by_fd: dict[int, Visitor] = {}
        self._poll = select.epoll()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def __enter__(self) -> "Crowd":
        return self

    def __exit__(self, *_: object) -> None:
        for visitor in self._by_fd.values():
            visitor.close()
        self._poll.close()

    def enter(self, visitor: Visitor) -> Visitor:
        """Read from this visitor, too, from now on."""
        self._by_fd[visitor.fd] = visitor
        self._poll.register(visitor.fd, select.EPOLLIN)
        return visitor

    def leave(self, visitor: Visitor) -> None:
        """End a visitor's line."""
        del self._by_fd[visitor.fd]
        self._poll.unregister(visitor.fd)
        visitor.close()

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until a condition holds, which is looked at after each round of reading. LoadFailed: it takes too long."""
        deadline = time.perf_counter() + SETTLE_SECONDS
        while not condition():
            if time.perf_counter() > deadline:
                raise LoadFailed(f"the clients did not get everything within {SETTLE_SECONDS:.0f} s")
            for fd, _ in self._poll.poll(0.05):
                self._by_fd[fd].read(self._buffer)
