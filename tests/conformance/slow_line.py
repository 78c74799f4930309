"""A thin line between a client and the server: so many bytes a second towards the client, no more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.server_process import HOST

STEPS_PER_SECOND = 50
READ_BYTES = 64 * 1024


@asynccontextmanager
async def slow_line(port: int, bytes_per_second: int) -> AsyncIterator[int]:
    """Forward a new loopback port to `port`, at `bytes_per_second` towards the client. Yields the new port."""
    writers: list[asyncio.StreamWriter] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(HOST, port)
        writers.extend((writer, there_writer))
        step = max(1, bytes_per_second // STEPS_PER_SECOND)
        await asyncio.gather(
            _copy(reader, there_writer, READ_BYTES, 0), _copy(there_reader, writer, step, 1 / STEPS_PER_SECOND)
        )

    server = await asyncio.start_server(forward, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, step: int, pause: float) -> None:
    """Copy until either side ends; a pause after each step makes the line slow and the sender feel it."""
    try:
        while data := await reader.read(step):
            writer.write(data)
            await writer.drain()
            if pause:
                await asyncio.sleep(pause)
    except ConnectionError:
        pass
    finally:
        writer.close()
