"""The uvicorn server of this product: it says when it is ready, and drains its sockets before it stops."""

import signal
import socket
from collections.abc import Callable
from types import FrameType

from uvicorn import Config, Server

from constructure_sync.transport.acceptor import Acceptor


class DrainingServer(Server):
    """A uvicorn server that sends WebSockets away over a few seconds on SIGTERM, and at once on SIGINT.

    acceptor: the one whose `websocket_protocol` the config names; its `draining` is true from the signal on, which is what
    readiness looks at. While draining, HTTP goes on being served.
    drain_seconds: over which the sockets leave. on_ready: called once with the URL that the server listens on.
    """

    def __init__(
        self, config: Config, acceptor: Acceptor, *, drain_seconds: float, on_ready: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._acceptor = acceptor
        self._drain_seconds = drain_seconds
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then tell where."""
        await super().startup(sockets)
        if self.started:
            self._on_ready(self._url(sockets))

    def _url(self, sockets: list[socket.socket] | None) -> str:
        listening = sockets or self.servers[0].sockets
        host, port = listening[0].getsockname()[:2]
        scheme = "https" if self.config.is_ssl else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"

    def retire(self) -> None:
        """End as on SIGTERM, but listen no more: whoever comes goes to the others that share the port."""
        for server in self.servers:
            server.close()
        self.handle_exit(signal.SIGTERM, None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal handler. A second signal ends a running drain."""
        if sig == signal.SIGINT or self.should_exit:
            self._acceptor.hurry()
        self._acceptor.draining = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then let uvicorn close what is left."""
        await self._acceptor.drain(self._drain_seconds)
        await super().shutdown(sockets)
        await self._acceptor.stop()
