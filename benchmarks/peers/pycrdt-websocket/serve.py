"""pycrdt-websocket as its documentation serves it over ASGI, in memory: `python serve.py PORT`."""

import asyncio
import sys

import uvicorn
from pycrdt.websocket import ASGIServer, WebsocketServer  # type: ignore[import-not-found]


async def main(port: int) -> None:
    """Serve until the process is ended."""
    async with WebsocketServer() as websocket_server:
        config = uvicorn.Config(
            ASGIServer(websocket_server), host="127.0.0.1", port=port, ws="websockets-sansio", log_level="warning"
        )
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
