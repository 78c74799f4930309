"""The ASGI application and the server around it."""

import asyncio
import gc
import random
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import FrameType
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from auth.sign_in import SignIn, SignInRules
from constructure_sync.observability import get_logger, metrics_page
from constructure_sync.replica.jobs import new_course_document
from constructure_sync.rest.context import Readiness, RestServices
from constructure_sync.rest.middleware import HttpMiddleware
from constructure_sync.rest.problems import http_exception
from constructure_sync.rest.readiness import DatabaseProbe
from constructure_sync.rest.routes import routes
from constructure_sync.services import Services, open_services
from constructure_sync.settings import Settings
from constructure_sync.transport.http import BoundedHttpProtocol
from constructure_sync.transport.server import DrainingServer
from constructure_sync.transport.upgrade import websocket_protocol
from schemas.course import CourseSeed
from storage.contracts import StorageUnavailable
from storage.migrate import check_schema

_log = get_logger()
_SEED_SECONDS = 20.0
_FIRST_DELAY = 0.2
_MAX_DELAY = 2.0
_COLLECT_AFTER = (20_000, 20, 20)  # objects made; collections of the generation before


class Instance:
    """One running server: its services, and the address that it turned out to listen on."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._settings = services.settings
        self.port = services.settings.port
        database = services.database
        self._database = DatabaseProbe(database.check, lambda: check_schema(database.connections))

    def public_url(self) -> str:
        return self._settings.public_address(self.port)

    async def readiness(self) -> Readiness:
        """Return why this instance should get no new clients, if there is a reason.

        A bus that is away is none: everything is saved, and no other instance would be better off.
        """
        services = self._services
        reasons = list(await self._database.reasons())
        if services.log_writer.is_failing:
            reasons.insert(0, "updates cannot be saved")
        if services.acceptor.draining:
            reasons.insert(0, "the instance is stopping")
        degraded = ("the bus is away: other instances hear of edits late",) if services.bus.is_away else ()
        return Readiness(tuple(reasons), degraded)

    async def seed(self, seed: CourseSeed) -> bytes:
        """Return a new course document's first update."""
        return await self._services.workers.run(
            new_course_document,
            str(seed.course_id),
            seed.title,
            str(seed.owner),
            round(seed.created_at * 1000),
            timeout=_SEED_SECONDS,
        )

    def app(self) -> ASGIApp:
        """Return the REST application; WebSockets never reach it, they are taken from uvicorn before."""
        services, settings = self._services, self._settings
        rules = SignInRules(
            registration_open=settings.registration_open,
            refresh_lifetime=settings.refresh_token_days * 86_400,
            attempts_per_minute=settings.sign_in_attempts_per_minute,
        )
        sign_in = SignIn(services.database.accounts, services.passwords, services.tokens, rules)
        rest = RestServices(
            sign_in=sign_in,
            courses=services.database.courses,
            tokens=services.tokens,
            seed=self.seed,
            ready=self.readiness,
            metrics=metrics_page,
            public_url=self.public_url,
            rights_changed=services.gate.rights_changed,
        )
        application = Starlette(routes=routes(rest), exception_handlers={HTTPException: http_exception})
        application.router.redirect_slashes = False
        return HttpMiddleware(application, secure=self.public_url().startswith("https://"))


class Host(Protocol):
    """What an instance runs under."""

    def listen(self, settings: Settings) -> list[socket.socket] | None:
        """Return the bound sockets to listen on; None: those of the settings' own address and port."""
        ...

    def ready(self, url: str, server: DrainingServer) -> None:
        """The instance answers at `url`."""
        ...


class Alone:
    """The only instance on its port. It says where it listens, on standard output."""

    def listen(self, settings: Settings) -> None:
        """See `Host`."""

    def ready(self, url: str, server: DrainingServer) -> None:
        """See `Host`."""
        print(f"listening on {url}", flush=True)


async def serve(settings: Settings, host: Host | None = None) -> None:
    """Run one instance until it is told to stop. host: `Alone` unless given. Raises SettingsError, StorageError."""
    host = host or Alone()
    async with AsyncExitStack() as stack:
        services = await enter_when_up(stack, lambda: open_services(settings), settings.startup_wait_seconds)
        instance = Instance(services)

        def on_ready(url: str) -> None:
            instance.port = int(url.rpartition(":")[2])
            collect_seldom()
            host.ready(url, server)

        config = uvicorn.Config(
            instance.app(),
            host=settings.host,
            port=settings.port,
            ws=websocket_protocol(services.acceptor),
            http=BoundedHttpProtocol,
            loop="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=10,
        )
        server = DrainingServer(config, services.acceptor, drain_seconds=settings.drain_seconds, on_ready=on_ready)
        # uvicorn raises the signal again when it is done; what is unsaved then still has to reach the disk.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _outlive)
        await server.serve(host.listen(settings))


async def enter_when_up(
    stack: AsyncExitStack,
    services: Callable[[], AbstractAsyncContextManager[Services]],
    wait: float,
    randomness: random.Random | None = None,
) -> Services:
    """Enter the services once the database answers, which may be starting just now. wait: seconds. Raises StorageUnavailable."""
    loop, randomness = asyncio.get_running_loop(), randomness or random.Random()
    deadline, delay, is_told = loop.time() + wait, _FIRST_DELAY, False
    while True:
        try:
            return await stack.enter_async_context(services())
        except StorageUnavailable as error:
            left = deadline - loop.time()
            if left <= 0:
                raise
            if not is_told:
                _log.warning("waiting_for_database", seconds=wait, error=str(error))
                is_told = True
            await asyncio.sleep(min(delay * randomness.uniform(0.5, 1.0), left))
            delay = min(delay * 2, _MAX_DELAY)


def collect_seldom() -> None:
    """Leave what is there after a start out of garbage collection for good, and look for cycles less often.

    Python's collector walks all that lives whenever some hundred objects were made; nearly everything here is freed by its
    reference count. At its defaults it took a sixth of the processor time under load, in pauses that everybody waits for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _outlive(number: int, frame: FrameType | None) -> None:
    """Take a signal that uvicorn has already acted upon."""
