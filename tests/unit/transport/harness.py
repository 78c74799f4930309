"""A real uvicorn server on a loopback port, fake connections behind it and raw sockets before it."""

import asyncio
import inspect
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
import uvloop

from constructure_sync.protocol.framing import frame
from constructure_sync.rooms.socket import Socket
from constructure_sync.transport.acceptor import Acceptor, SocketLimits
from constructure_sync.transport.admission import Admit, Admitted, Connection, Refused, UpgradeRequest
from constructure_sync.transport.http import BoundedHttpProtocol
from constructure_sync.transport.upgrade import websocket_protocol

DEADLINE = 20.0
DOCUMENT = "/sync/0190f5a2-7c3b-7000-8000-0123456789ab"
ORIGIN = "https://courses.example"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test on asyncio's own loop and on uvloop, each fresh."""

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **arguments: Any) -> None:
        async def timed() -> None:
            async with asyncio.timeout(DEADLINE):
                await test(**arguments)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(timed())

    parameters = list(inspect.signature(test).parameters.values())
    first = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.__signature__ = inspect.Signature([first, *parameters])  # type: ignore[attr-defined]
    run.pytestmark = list(getattr(test, "pytestmark", []))  # type: ignore[attr-defined]
    loops = pytest.mark.parametrize(
        "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    decorated: Callable[..., None] = loops(run)
    return decorated


async def until(condition: Callable[[], bool], seconds: float = DEADLINE) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


class FakeConnection:
    """Collects what it is told and echoes messages unless told otherwise."""

    def __init__(self, socket: Socket, *, echo: bool = True, max_message_bytes: int = 1 << 20) -> None:
        self.socket = socket
        self.echo = echo
        self.max_message_bytes = max_message_bytes
        self.messages: list[bytes] = []
        self.events: list[str] = []
        self.on_message: Callable[[bytes], None] | None = None

    def receive(self, message: bytes) -> None:
        assert "ended" not in self.events
        self.messages.append(message)
        if self.on_message is not None:
            self.on_message(message)
        if self.echo:
            self.socket.write(frame(message))

    def congested(self) -> None:
        assert "ended" not in self.events
        self.events.append("congested")

    def writable(self) -> None:
        assert "ended" not in self.events
        self.events.append("writable")

    def ended(self) -> None:
        self.events.append("ended")


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x11\x22\x33\x44",
    form: int | None = None,
    declared: int | None = None,
) -> bytes:
    """One frame as a client sends it. mask None: unmasked. form: 7, 16 or 64, a length form to force. declared: another length."""
    length = len(payload) if declared is None else declared
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    masked = 0x80 if mask is not None else 0
    form = form or (7 if length < 126 else 16 if length < 65536 else 64)
    if form == 7:
        header = bytes((first, masked | length))
    elif form == 16:
        header = bytes((first, masked | 126)) + struct.pack(">H", length)
    else:
        header = bytes((first, masked | 127)) + struct.pack(">Q", length)
    if mask is None:
        return header + payload
    key = int.from_bytes((mask * (len(payload) // 4 + 1))[: len(payload)], "big")
    return header + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(len(payload), "big")


def close_payload(code: int, reason: bytes = b"") -> bytes:
    return struct.pack(">H", code) + reason


class Client:
    """The client's end of a TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the HTTP response."""
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = raw.strip().split("\r\n")
        return int(status.split(" ")[1]), {n.lower(): v for n, v in (line.split(": ", 1) for line in lines)}

    async def frame(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame, which must be final and unmasked."""
        first, second = await self.reader.readexactly(2)
        assert first & 0xF0 == 0x80
        assert second < 128
        if second == 126:
            second = int.from_bytes(await self.reader.readexactly(2), "big")
        elif second == 127:
            second = int.from_bytes(await self.reader.readexactly(8), "big")
        return first & 0x0F, await self.reader.readexactly(second)

    async def close_code(self) -> int:
        """The code of the close frame that comes next, after whatever data frames."""
        while True:
            opcode, payload = await self.frame()
            if opcode == CLOSE:
                return int.from_bytes(payload[:2], "big")

    async def at_end(self) -> bool:
        """Wait for the end of the TCP connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        return True

    async def leave(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def upgrade_request(
    path: str = DOCUMENT + "?token=t", *extra: str, origin: str | None = ORIGIN, drop: str = ""
) -> bytes:
    """A whole upgrade request. extra: header lines; drop: a header left out."""
    lines = [
        "Host: courses.example",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
    ]
    lines = [line for line in lines if not drop or not line.startswith(drop)]
    if origin is not None:
        lines.append(f"Origin: {origin}")
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, *extra, "", ""]).encode("latin-1")


async def _rest(scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
    """The HTTP application beside the sockets: says 204 to everything."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Stage:
    """A running server and what its sockets are connected to."""

    def __init__(
        self, limits: SocketLimits | None, admit: Admit | None, http: type[BoundedHttpProtocol], **rest: Any
    ) -> None:
        self.connections: list[FakeConnection] = []
        self.requests: list[UpgradeRequest] = []
        self.make: Callable[[Socket], Connection] = FakeConnection
        self.acceptor = Acceptor(admit or self.admit, [ORIGIN], limits, **rest)
        config = uvicorn.Config(
            _rest,
            ws=websocket_protocol(self.acceptor),
            http=http,
            lifespan="off",
            log_config=None,
            access_log=False,
            host="127.0.0.1",
            port=0,
        )
        self.server = uvicorn.Server(config)
        self._clients: list[Client] = []

    async def admit(self, request: UpgradeRequest) -> Admitted | Refused:
        self.requests.append(request)
        return Admitted(self.open)

    def open(self, socket: Socket) -> Connection:
        connection = self.make(socket)
        if isinstance(connection, FakeConnection):
            self.connections.append(connection)
        return connection

    @property
    def connection(self) -> FakeConnection:
        return self.connections[-1]

    async def start(self) -> None:
        self.server.config.load()
        self.server.lifespan = self.server.config.lifespan_class(self.server.config)
        await self.server.startup()

    @property
    def port(self) -> int:
        return int(self.server.servers[0].sockets[0].getsockname()[1])

    async def tcp(self, **options: Any) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port, **options))
        self._clients.append(client)
        return client

    async def connect(
        self, path: str = DOCUMENT + "?token=t", *extra: str, origin: str | None = ORIGIN, **options: Any
    ) -> Client:
        """An open WebSocket."""
        client = await self.tcp(**options)
        await client.send(upgrade_request(path, *extra, origin=origin))
        status, _ = await client.head()
        assert status == 101
        return client

    async def refused(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to a request that is refused; the server closes the connection after it."""
        client = await self.tcp()
        await client.send(request)
        status, headers = await client.head()
        body = await client.reader.read()
        assert len(body) == int(headers["content-length"])
        return status, headers, body

    async def stop(self) -> None:
        """End everything and see that nothing is left: no socket, no place taken, every connection told once of its end."""
        for client in self._clients:
            await client.leave()
        await until(lambda: self.acceptor.held == 0 and not self.server.server_state.connections)
        assert not self.acceptor.sockets
        for connection in self.connections:
            assert connection.events.count("ended") == 1
        for server in self.server.servers:
            server.close()
            await server.wait_closed()
        await self.acceptor.stop()


@asynccontextmanager
async def serving(
    limits: SocketLimits | None = None,
    admit: Admit | None = None,
    http: type[BoundedHttpProtocol] = BoundedHttpProtocol,
    **rest: Any,
) -> AsyncIterator[Stage]:
    stage = Stage(limits, admit, http, **rest)
    await stage.start()
    try:
        yield stage
    finally:
        await stage.stop()
