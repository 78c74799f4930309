"""Small TCP proxies between clients and instances: one whose target the test chooses, one that goes round those that are ready."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Self, cast

from tests.server_process import HOST

CONNECT_SECONDS: Final = 2.0
HEALTH_SECONDS: Final = 0.2  # between two questions
HEALTH_TIMEOUT: Final = 2.0
_READY: Final = b"GET /ready HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n\r\n"


class TcpProxy:
    """Forwards every connection to the first port of `choose()` that accepts it; ends it where none does.

    A context manager; `port` is where it listens.
    """

    def __init__(self, choose: Callable[[], Sequence[int]]) -> None:
        self.port = 0
        self._choose = choose
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.Transport] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self), HOST, 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        self.cut()
        await self._server.wait_closed()

    def cut(self) -> None:
        """End all connections without a word."""
        for transport in tuple(self._transports):
            transport.abort()

    def accepted(self, near: "_Side") -> None:
        """Find an instance for a new connection."""
        task = asyncio.create_task(self._connect(near))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def opened(self, transport: asyncio.Transport) -> None:
        """Note a side of a connection."""
        self._transports.add(transport)

    def closed(self, transport: asyncio.Transport) -> None:
        """Forget a side of a connection."""
        self._transports.discard(transport)

    async def _connect(self, near: "_Side") -> None:
        loop = asyncio.get_running_loop()
        for port in self._choose():
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    await loop.create_connection(lambda: _Side(self, near), HOST, port)
            except (OSError, TimeoutError):
                continue
            return
        near.end(None)


class _Side(asyncio.Protocol):
    """One side of a forwarded connection: what comes in leaves by the other side, no faster than that takes it."""

    def __init__(self, proxy: TcpProxy, other: "_Side | None" = None) -> None:
        self._proxy = proxy
        self._other = other
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []  # came before there was another side; a client says little before it is answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._proxy.opened(self._transport)
        if self._other is None:
            self._proxy.accepted(self)
        else:
            self._other.joined(self)

    def joined(self, other: "_Side") -> None:
        """The other side is there: what has come early goes to it."""
        self._other = other
        if self._transport is None or self._transport.is_closing():
            other.end(None)
            return
        for data in self._early:
            other.send(data)
        self._early.clear()

    def send(self, data: bytes) -> None:
        """Pass on what the other side got."""
        assert self._transport is not None
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is None:
            self._early.append(data)
        else:
            self._other.send(data)

    def pause_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other._transport is not None:
            self._other._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        assert self._transport is not None
        self._proxy.closed(self._transport)
        if self._other is not None:
            self._other.end(error)

    def end(self, error: Exception | None) -> None:
        """The other side has ended: in good order after what is on its way, or at once with an error."""
        if self._transport is None or self._transport.is_closing():
            return
        if error is None:
            self._transport.close()
        else:
            self._transport.abort()


class RoundRobinProxy(TcpProxy):
    """Sends new connections to the instances that say on /ready that they can serve, in turn; the others come last.

    ports: of the instances. Open connections stay where they are until they end.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(self._in_turn)
        self.ready: dict[int, bool] = dict.fromkeys(ports, True)
        self._turn = 0
        self._asking: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._asking = [asyncio.create_task(self._watch(port)) for port in self.ready]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._asking:
            task.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)
        await super().__aexit__(kind, error, trace)

    def _in_turn(self) -> Sequence[int]:
        ports = list(self.ready)
        self._turn = (self._turn + 1) % len(ports)
        turned = ports[self._turn :] + ports[: self._turn]
        return sorted(turned, key=lambda port: not self.ready[port])

    async def _watch(self, port: int) -> None:
        while True:
            self.ready[port] = await is_ready(port)
            await asyncio.sleep(HEALTH_SECONDS)


async def is_ready(port: int) -> bool:
    """Ask an instance whether it can serve; one that cannot be asked cannot."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(_READY)
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
