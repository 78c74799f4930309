"""A WebSocket client of which every byte is in the test's hands: whole messages, raw frames, or not reading at all."""

import asyncio
import base64
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, Self

from constructure_sync.protocol.lib0 import Reader, var_bytes
from constructure_sync.protocol.messages import sync_step1, sync_step2, update_message
from constructure_sync.protocol.state_vector import encode_state_vector
from tests.server_process import HOST
from tests.unit.transport.harness import BINARY, CLOSE, PING, PONG, client_frame

DEADLINE: Final = 30.0
NO_CLOSE_FRAME: Final = 1006
_MASK_OF_ZEROS: Final = bytes(4)


class Refusal(Exception):
    """The upgrade was answered with another status than 101."""

    def __init__(self, status: int, head: str) -> None:
        super().__init__(head)
        self.status = status


class Line(asyncio.Protocol):
    """One connection. messages: what came, unless `on_message` takes it; code: of the close frame, 1006 without one."""

    def __init__(self, on_message: Callable[[bytes], None] | None = None) -> None:
        self.messages: list[bytes] = []
        self.code: int | None = None
        self.pongs = 0
        self._on_message = on_message or self.messages.append
        self._buffer = bytearray()
        self._opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._news = asyncio.Event()
        self._has_ended = False

    @classmethod
    async def open(
        cls,
        port: int,
        path: str,
        *headers: str,
        on_message: Callable[[bytes], None] | None = None,
        receive_buffer: int = 0,
    ) -> Self:
        """Connect and upgrade. path: with its query; receive_buffer: of the kernel, 0: its choice. Raises Refusal."""
        raw = socket.socket()
        raw.setblocking(False)
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(loop.sock_connect(raw, (HOST, port)), DEADLINE)
        _, line = await loop.create_connection(lambda: cls(on_message), sock=raw)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {HOST}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {key}",
            *headers,
        ]
        line.transport.write("\r\n".join([*lines, "", ""]).encode())
        await asyncio.wait_for(line._opened, DEADLINE)
        return line

    # The loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Take apart what came."""
        self._buffer += data
        if not self._opened.done():
            head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            status = int(head.split(b" ", 2)[1])
            if status != 101:
                self._opened.set_exception(Refusal(status, head.decode()))
                self.transport.close()
                return
            self._buffer = bytearray(rest)
            self._opened.set_result(status)
        self._take_frames()
        self._news.set()

    def _take_frames(self) -> None:
        buffer, position = self._buffer, 0
        while len(buffer) - position >= 2:
            opcode, size, start = buffer[position] & 0x0F, buffer[position + 1], position + 2
            if size >= 126:
                start += 2 if size == 126 else 8
                size = int.from_bytes(buffer[position + 2 : start], "big")
            if len(buffer) < start + size:
                break
            payload = bytes(buffer[start : start + size])
            position = start + size
            if opcode == BINARY:
                self._on_message(payload)
            elif opcode == PONG:
                self.pongs += 1
            elif opcode == PING:
                self.send_frame(client_frame(PONG, payload))
            elif opcode == CLOSE and self.code is None:
                self.code = int.from_bytes(payload[:2], "big")
                self.transport.close()
        del buffer[:position]

    def connection_lost(self, error: Exception | None) -> None:
        """Note the end."""
        self._has_ended = True
        if self.code is None:
            self.code = NO_CLOSE_FRAME
        if not self._opened.done():
            self._opened.set_exception(ConnectionError("the server hung up"))
        self._news.set()

    # The test's side

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def send_frame(self, frame: bytes) -> None:
        """Send raw bytes."""
        if not self._has_ended:
            self.transport.write(frame)

    def send(self, message: bytes) -> None:
        """Send one binary message."""
        self.send_frame(client_frame(BINARY, message, mask=_MASK_OF_ZEROS))

    def update(self, update: bytes) -> None:
        self.send(update_message(update))

    def answer(self, update: bytes) -> None:
        """Send a SyncStep2."""
        self.send(sync_step2(update))

    def ask(self, clocks: dict[int, int] | None = None) -> None:
        """Send a SyncStep1: of a client that has so much, or nothing."""
        self.send(sync_step1(encode_state_vector(clocks or {})))

    def awareness(self, payload: bytes) -> None:
        self.send(b"\x01" + var_bytes(payload))

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
        """Wait for something that what comes makes true."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def closed(self) -> int:
        """Wait for the end and return the close code."""
        await self.until(lambda: self._has_ended)
        assert self.code is not None
        return self.code

    async def reached(self) -> bool:
        """Wait until all messages that were sent are dealt with; False when the line has ended over it.

        Asks as a client that has nearly everything, so that the answer, which comes in its turn, is small.
        """
        expected = self._answers() + 1
        self.ask(dict.fromkeys(range(1000), 2**32 - 1))
        await self.until(lambda: self._answers() >= expected or self._has_ended)
        return not self._has_ended

    def _answers(self) -> int:
        return sum(message[:2] == b"\x00\x01" for message in self.messages)

    def updates(self) -> list[bytes]:
        """Return the updates that came, whether as Update or as SyncStep2."""
        found = []
        for message in self.messages:
            if message[:2] in (b"\x00\x01", b"\x00\x02"):
                found.append(Reader(message, 2).read_var_bytes())
        return found

    def receipts(self) -> int:
        """Return how many of our writes are saved, as the newest receipt says."""
        newest = 0
        for message in self.messages:
            if message[:1] == b"\x78":
                newest = Reader(message, 1).read_var_uint()
        return newest

    async def leave(self) -> None:
        """Hang up."""
        if not self._has_ended:
            self.transport.abort()
            await self.until(lambda: self._has_ended)


@asynccontextmanager
async def opened(port: int, path: str, *headers: str) -> AsyncIterator[Line]:
    """A line that is hung up at the end."""
    line = await Line.open(port, path, *headers)
    try:
        yield line
    finally:
        await line.leave()
