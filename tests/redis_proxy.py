"""A proxy in front of a Redis server that can be cut, be held, and lose published messages on their way to subscribers."""

import asyncio
import random
from types import TracebackType
from typing import Final, Self

from tests.server_process import HOST

_CONNECT_SECONDS: Final = 5.0
_READ_BYTES: Final = 64 * 1024
_AGGREGATES: Final = b"*>~%|"
_BLOBS: Final = b"$=!"
_MESSAGES: Final = (b"$7\r\nmessage\r\n", b"$8\r\nsmessage\r\n")


class RedisProxy:
    """Forwards connections to a loopback port; a context manager of the loop that it is used on.

    loss: the share of published messages that do not reach their subscriber. Everything else passes unchanged.
    """

    def __init__(self, target: int, randomness: random.Random, loss: float = 0.0) -> None:
        self.loss = loss
        self.port = 0
        self.passed = 0
        self.lost = 0
        self._target = target
        self._random = randomness
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Break all connections; new ones are let through."""
        for writers in self._connections.values():
            for writer in writers:
                writer.transport.abort()

    def hold(self) -> None:
        """Let nothing through, without breaking anything: connections stay open, new ones are accepted and hear nothing."""
        self._flows.clear()

    def release(self) -> None:
        """Let what was held flow on."""
        self._flows.set()

    async def _serve(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = [near]
        try:
            await self._flows.wait()
            async with asyncio.timeout(_CONNECT_SECONDS):
                far_reader, far = await asyncio.open_connection(HOST, self._target)
            self._connections[task].append(far)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._forward(near_reader, far, None))
                ways.create_task(self._forward(far_reader, near, Frames()))
        except* (OSError, TimeoutError):
            pass
        finally:
            for writer in self._connections.pop(task):
                writer.transport.abort()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: "Frames | None"
    ) -> None:
        while data := await reader.read(_READ_BYTES):
            await self._flows.wait()
            writer.write(data if frames is None else self.with_losses(frames.split(data)))
            await writer.drain()
        raise ConnectionResetError("one side has ended")

    def with_losses(self, frames: list[bytes]) -> bytes:
        """Return what reaches the subscriber of what the server has said."""
        kept = []
        for frame in frames:
            if not _is_message(frame):
                kept.append(frame)
            elif self._random.random() < self.loss:
                self.lost += 1
            else:
                self.passed += 1
                kept.append(frame)
        return b"".join(kept)


def _is_message(frame: bytes) -> bool:
    return frame[:1] in (b"*", b">") and frame[frame.find(b"\n") + 1 :].startswith(_MESSAGES)


class Frames:
    """Cuts what a Redis server says into whole answers and pushes (RESP2 and RESP3)."""

    def __init__(self) -> None:
        self._rest = b""

    def split(self, data: bytes) -> list[bytes]:
        """Return the frames that are complete now; the rest waits for more."""
        self._rest += data
        frames, start = [], 0
        while (end := _end(self._rest, start)) is not None:
            frames.append(self._rest[start:end])
            start = end
        self._rest = self._rest[start:]
        return frames


def _end(data: bytes, start: int) -> int | None:
    """Return where the frame that begins at `start` ends; None when it is not all there."""
    left, position = 1, start
    while left:
        line_end = data.find(b"\r\n", position)
        if line_end < 0:
            return None
        kind, left = data[position], left - 1
        number = data[position + 1 : line_end]
        position = line_end + 2
        if kind in _AGGREGATES and number != b"-1":
            left += int(number) * (2 if kind in b"%|" else 1) + (kind in b"|")
        elif kind in _BLOBS and number != b"-1":
            position += int(number) + 2
            if position > len(data):
                return None
    return position
