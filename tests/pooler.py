"""A small pooler in transaction mode, as PgBouncer and its like are: a server connection belongs to a client for one transaction.

It reads just enough of the PostgreSQL protocol (version 3, no TLS, no password) to know where a transaction ends, and gives the
next one another server connection than the last whenever it can, so that whatever relies on a session breaks at once. It can
also lose a COMMIT, or the answer to one.
"""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self

from tests.server_process import HOST

_SSL_REQUEST: Final = 80877103
_CANCEL_REQUEST: Final = 80877102
_TERMINATE, _READY, _ERROR, _QUERY, _SYNC, _FLUSH = b"X", b"Z", b"E", b"Q", b"S", b"H"
_IDLE: Final = b"I"


class Loss(Enum):
    """What becomes of the next COMMIT, and of the client that sent it: it is cut off."""

    COMMIT = "the server never gets it"
    ANSWER = "the server commits, nobody hears of it"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the protocol. raw: with its kind and length."""

    kind: bytes
    raw: bytes


class _Server:
    """A connection to the server. greeting: what it said on the way to its first ReadyForQuery, that included."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.greeting = b""


class TransactionPooler:
    """Stands before the server on `server_port`. size: server connections that it keeps. loss: see `Loss`.

    round_trips: how often a client has waited for an answer.
    """

    def __init__(self, server_port: int, size: int = 3) -> None:
        self.port = 0
        self.transactions = 0
        self.round_trips = 0
        self.loss: Loss | None = None
        self._server_port = server_port
        self._size = size
        self._listener: asyncio.Server | None = None
        self._idle: dict[bytes, deque[_Server]] = {}
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._serve, HOST, 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        for servers in self._idle.values():
            for server in servers:
                server.writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        said: asyncio.Queue[Message] = asyncio.Queue()
        listening: asyncio.Task[None] | None = None
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            startup = await _read_startup(reader, writer)
            if startup is not None:
                await self._greet(startup, writer)
                listening = asyncio.create_task(_listen(reader, said))
                while await self._transaction(startup, said, writer):
                    self.transactions += 1
        if listening is not None:
            listening.cancel()
        writer.transport.abort()
        self._clients.discard(task)

    async def _greet(self, startup: bytes, writer: asyncio.StreamWriter) -> None:
        """Say to a new client what the server says; the connections made for it wait for transactions."""
        waiting = self._idle.setdefault(startup, deque())
        while len(waiting) < self._size:
            waiting.append(await self._connect(startup))
        writer.write(waiting[0].greeting)

    async def _connect(self, startup: bytes) -> _Server:
        server = _Server(*await asyncio.open_connection(HOST, self._server_port))
        server.writer.write(startup)
        while True:
            message = await _read(server.reader)
            server.greeting += message.raw
            if message.kind == _ERROR:
                raise ConnectionError(message.raw)
            if message.kind == _READY:
                return server

    async def _transaction(self, startup: bytes, said: asyncio.Queue[Message], writer: asyncio.StreamWriter) -> bool:
        """Carry one transaction of a client; False when it has ended or was cut off."""
        first = await said.get()
        if first.kind == _TERMINATE:
            return False
        waiting = self._idle[startup]
        server = waiting.popleft() if waiting else await self._connect(startup)
        is_whole = False
        try:
            is_whole = await self._carry(first, said, server, writer)
        finally:
            # A connection that has not come to the end of a transaction is not given to anybody else.
            if is_whole:
                waiting.append(server)
            else:
                server.writer.transport.abort()
        return is_whole

    async def _carry(
        self, first: Message, said: asyncio.Queue[Message], server: _Server, writer: asyncio.StreamWriter
    ) -> bool:
        """Carry messages both ways until the transaction has ended; False: the client has, or was cut off."""
        answers_due, loses_answer = 0, False

        async def ask() -> bool:
            nonlocal answers_due, loses_answer
            message = first
            while message.kind != _TERMINATE:
                if _is_commit(message) and self.loss is not None:
                    loses_answer, is_lost = self.loss is Loss.ANSWER, self.loss is Loss.COMMIT
                    self.loss = None
                    if is_lost:
                        return False
                self.round_trips += message.kind in (_QUERY, _SYNC, _FLUSH)
                answers_due += message.kind in (_QUERY, _SYNC)
                server.writer.write(message.raw)
                message = await said.get()
            return False

        async def answer() -> bool:
            nonlocal answers_due
            while True:
                message = await _read(server.reader)
                answers_due -= message.kind == _READY
                if loses_answer:
                    if message.kind == _READY:
                        return False
                    continue
                writer.write(message.raw)
                if message.kind == _READY and message.raw[-1:] == _IDLE and not answers_due:
                    asking.cancel()  # before the client can say more: that belongs to its next transaction
                    return True

        asking, answering = asyncio.create_task(ask()), asyncio.create_task(answer())
        try:
            await asyncio.wait((asking, answering), return_when=asyncio.FIRST_COMPLETED)
            return answering.done() and answering.result()
        finally:
            for task in (asking, answering):
                task.cancel()
            await asyncio.gather(asking, answering, return_exceptions=True)


def _is_commit(message: Message) -> bool:
    return message.kind == _QUERY and message.raw[5:11].upper() == b"COMMIT"


async def _read(reader: asyncio.StreamReader) -> Message:
    head = await reader.readexactly(5)
    return Message(head[:1], head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4))


async def _listen(reader: asyncio.StreamReader, said: asyncio.Queue[Message]) -> None:
    """Put what a client says into its queue; at its end, or when the line breaks, Terminate."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            said.put_nowait(await _read(reader))
    said.put_nowait(Message(_TERMINATE, b""))


async def _read_startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
    """The startup message of a client; None: it wanted something else, such as to cancel a statement."""
    while True:
        length = await reader.readexactly(4)
        body = await reader.readexactly(int.from_bytes(length, "big") - 4)
        code = int.from_bytes(body[:4], "big")
        if code == _CANCEL_REQUEST:
            return None
        if code != _SSL_REQUEST:
            return length + body
        writer.write(b"N")
