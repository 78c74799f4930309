"""Around every HTTP request: security headers, and two metrics with bounded labels."""

import time
from collections.abc import Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from constructure_sync.observability import HTTP_DURATION, HTTP_REQUESTS

SECURITY_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Set unless the answer has its own. The API answers no pages, so nothing may be loaded by, or framed with, one."""

STRICT_TRANSPORT: Final = "max-age=31536000; includeSubDomains"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class HttpMiddleware:
    """Wraps the whole application; WebSockets and the lifespan pass untouched.

    secure: the public URL is https, so browsers are told to come by no other way. clock: monotonic seconds.
    """

    def __init__(self, app: ASGIApp, *, secure: bool = False, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._headers = {**SECURITY_HEADERS, **({"Strict-Transport-Security": STRICT_TRANSPORT} if secure else {})}
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and note how it was answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = self._clock()
        status = 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            # The route's own path, never the one that was asked for: anybody can ask for anything.
            route = getattr(scope.get("endpoint"), "path", "unmatched")
            HTTP_REQUESTS.labels(method, route, str(status)).inc()
            HTTP_DURATION.labels(method, route).observe(self._clock() - started)
