"""uvicorn's HTTP protocol with bounds on the time and size of a request's head, which uvicorn itself lacks."""

import asyncio
from typing import Any, Final

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_TIMEOUT: Final = 5.0
MAX_HEAD_BYTES: Final = 32 * 1024


class BoundedHttpProtocol(HttpToolsProtocol):
    """Ends a TCP connection whose request head is not whole in time or too long; the class to give uvicorn as `http=`.

    head_timeout: seconds from a request's first byte, or for the first request from the connection's start.
    max_head_bytes: of request line and headers together.
    """

    head_timeout: float = HEAD_TIMEOUT
    max_head_bytes: int = MAX_HEAD_BYTES

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._head_deadline: asyncio.TimerHandle | None = None
        self._answering: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_whole()
        if self._answering is not None:
            # uvicorn tells only the newest of several requests; an earlier one would fail at writing, with a traceback each.
            self._answering.disconnected = True
            self._answering.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_deadline is not None and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._head_is_whole()
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over, and leave nothing behind: this object and its parser would keep each other for long.

        Not while an earlier request is unanswered: its answer would end up between the frames.
        """
        if self._answering is not None and not self._answering.response_complete:
            self.send_400_response("A WebSocket cannot be opened before earlier requests are answered.")
            return
        super().handle_websocket_upgrade()
        self._head_is_whole()
        self._answering = None
        self.parser = self.transport = self.flow = None  # type: ignore[assignment]  # as uvicorn has them before a connection

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _expect_head(self) -> None:
        if self._head_deadline is None:
            self._head_bytes = 0
            self._head_deadline = self.loop.call_later(self.head_timeout, self.transport.abort)

    def _head_is_whole(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None
