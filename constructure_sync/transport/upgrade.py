"""The `ws=` protocol class for uvicorn: admission, then the hand-over of the transport to a `WebSocket`.

uvicorn replays the upgrade request to `Upgrade`, which reads it, pauses reading while admission decides and then either
answers with an HTTP refusal or lets a `WebSocket` answer 101. uvicorn drops bytes that came in the same read after the
request; RFC 6455 §4.1 lets no client send any before the answer.
"""

import asyncio
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from constructure_sync.observability import REFUSED_CONNECTIONS
from constructure_sync.transport.acceptor import Acceptor
from constructure_sync.transport.admission import (
    HOCUSPOCUS_PATH,
    Admitted,
    Handshake,
    Refusal,
    Refused,
    UpgradeRequest,
    parse_handshake,
    refusal_response,
    switching_response,
    token_subprotocol,
)
from constructure_sync.transport.websocket import WebSocket


class Upgrade(asyncio.Protocol):
    """What uvicorn gives an upgrade request to: one request, answered with 101 or with an HTTP refusal."""

    def __init__(self, acceptor: Acceptor, server_state: ServerState) -> None:
        self._acceptor = acceptor
        # uvicorn's own type lists its own protocol classes only; it calls nothing but `shutdown`.
        self._open_connections: set[Any] = server_state.connections
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By what it can do, not by its class: uvloop's transports do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._open_connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Called once, by uvicorn, with the whole request."""
        transport = self._transport
        if transport is None or self._task is not None:
            return
        transport.pause_reading()
        peer = transport.get_extra_info("peername")
        try:
            handshake = parse_handshake(data)
            request = self._acceptor.check_request(handshake, str(peer[0]) if peer else "")
        except Refusal as refusal:
            self._refuse(refusal.refused)
            return
        self._address = request.address
        self._acceptor.take_place(request.address)
        self._task = asyncio.get_running_loop().create_task(self._decide(handshake, request))
        self._acceptor.own_task(self._task)

    async def _decide(self, handshake: Handshake, request: UpgradeRequest) -> None:
        outcome = await self._acceptor.decide(request)
        if self._transport is None or self._transport.is_closing():
            return
        if isinstance(outcome, Refused):
            self._refuse(outcome)
        else:
            self._open(handshake, request, outcome)

    def _open(self, handshake: Handshake, request: UpgradeRequest, admitted: Admitted) -> None:
        transport = self._transport
        if transport is None:
            return
        family = "hocuspocus" if request.path == HOCUSPOCUS_PATH else "sync"
        socket = WebSocket(self._acceptor, transport, self._open_connections, family, request.address)
        self._transport = self._address = self._task = None
        self._open_connections.discard(self)
        answer = switching_response(handshake.key, token_subprotocol(handshake.subprotocols))
        socket.open(answer, admitted.open)

    def _refuse(self, refused: Refused) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        REFUSED_CONNECTIONS.labels(refused.code).inc()
        self._transport.write(refusal_response(refused))
        self._transport.close()

    def shutdown(self) -> None:
        """Called by uvicorn when the server stops."""
        if self._task is not None:
            self._task.cancel()
        self._refuse(Refused(503, "restarting", "This instance is restarting."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open_connections.discard(self)
        if self._task is not None:
            self._task.cancel()
        if self._address is not None:
            self._acceptor.give_back_place(self._address)
            self._address = None


def websocket_protocol(acceptor: Acceptor) -> type[asyncio.Protocol]:
    """The class to give to uvicorn as `ws=`: its sockets belong to this acceptor."""

    class BoundUpgrade(Upgrade):
        def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
            super().__init__(acceptor, server_state)

    return BoundUpgrade
