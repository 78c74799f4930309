"""The server says where it listens, and sends sockets away before it stops: slowly on SIGTERM, at once on SIGINT."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn

from constructure_sync.transport.acceptor import SocketLimits
from constructure_sync.transport.http import BoundedHttpProtocol
from constructure_sync.transport.server import DrainingServer
from constructure_sync.transport.upgrade import websocket_protocol
from tests.unit.transport.harness import Client, Stage, on_both_loops, until


class Running(Stage):
    """A stage whose server runs by itself."""

    urls: list[str]
    task: asyncio.Task[None]

    async def start(self) -> None:
        self.urls = []
        config = uvicorn.Config(
            self.server.config.app,
            ws=websocket_protocol(self.acceptor),
            lifespan="off",
            log_config=None,
            host="127.0.0.1",
            port=0,
            timeout_graceful_shutdown=10,
        )
        self.server = DrainingServer(config, self.acceptor, drain_seconds=0.5, on_ready=self.urls.append)
        self.task = asyncio.create_task(self.server._serve())
        await until(lambda: bool(self.urls))


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    stage = Running(SocketLimits(close_timeout=0.2), None, BoundedHttpProtocol)
    await stage.start()
    try:
        yield stage
    finally:
        stage.server.handle_exit(signal.SIGINT, None)
        await stage.task
        assert not stage.server.server_state.connections
        assert stage.acceptor.held == 0
        for connection in stage.connections:
            assert connection.events == ["ended"]


async def told(client: Client) -> int:
    """The code with which the client was sent away, once its TCP connection has ended."""
    code = await client.close_code()
    await client.leave()
    return code


@on_both_loops
async def test_the_url_is_told_when_it_answers() -> None:
    async with running() as stage:
        assert stage.urls == [f"http://127.0.0.1:{stage.port}"]
        await (await stage.connect()).leave()


@on_both_loops
async def test_sigterm_refuses_new_sockets_serves_http_and_sends_the_open_ones_away() -> None:
    async with running() as stage:
        clients = [await stage.connect() for _ in range(20)]
        port = stage.port
        stage.server.handle_exit(signal.SIGTERM, None)
        assert stage.acceptor.draining
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 204")
        writer.close()
        assert await asyncio.gather(*(told(client) for client in clients)) == [1012] * 20
        await stage.task


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
)
@on_both_loops
async def test_sigint_and_a_second_signal_end_at_once(signals: list[signal.Signals]) -> None:
    async with running() as stage:
        stage.server._drain_seconds = 3600  # type: ignore[attr-defined]
        clients = [await stage.connect() for _ in range(5)]
        for number in signals:
            stage.server.handle_exit(number, None)
        assert await asyncio.gather(*(told(client) for client in clients)) == [1012] * 5
        await stage.task


@on_both_loops
async def test_a_peer_that_does_not_answer_does_not_hold_up_the_end() -> None:
    async with running() as stage:
        client = await stage.connect()
        stage.server.handle_exit(signal.SIGTERM, None)
        await stage.task
        await client.leave()
