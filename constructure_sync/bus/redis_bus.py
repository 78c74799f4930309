"""The bus over Redis or Valkey: one channel for each open document, one for what concerns whole instances.

Everything that may be lost is said: when the connection broke, it is made anew with a growing, random delay, every channel is
subscribed to again, and every subscriber is told that it may have missed something (BU4). What was published meanwhile waits in a
bounded backlog; what was sent and not answered is sent again, since hearing twice does no harm (BU2).
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from constructure_sync.bus.backlog import Backlog
from constructure_sync.bus.contracts import ControlMessage, ControlSubscriber, DocumentMessage, InstanceId, Subscriber
from constructure_sync.bus.listeners import Listeners
from constructure_sync.bus.messages import Letter, Lost, Message, decode, encode, sendable
from constructure_sync.bus.redis_line import Line, Publish, Subscribe
from constructure_sync.bus.redis_routes import Routes, connect, server_of
from constructure_sync.bus.subscriptions import Subscriptions
from constructure_sync.errors import ProtocolViolation
from constructure_sync.observability import BUS_CONNECTED, BUS_HEARD, BUS_LAG, BUS_LOST, BUS_PUBLISHED, get_logger
from schemas.ids import DocumentId

_log = get_logger()
_MICROSECONDS: Final = 1_000_000
_MOST_DOUBLINGS: Final = 16  # of the delay; it has long reached its bound


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """Seconds, messages and bytes.

    time_limit: for connecting, and for a write. ping_interval: between signs of life; a line without any for four of them is
    given up. waiting_*: what is published while the server cannot be reached, or is slow; beyond it the oldest is lost.
    """

    time_limit: float = 3.0
    ping_interval: float = 1.0
    retry_delay: float = 0.05
    max_retry_delay: float = 3.0
    waiting_messages: int = 10_000
    waiting_bytes: int = 16 * 1024 * 1024


class _Stopped(Exception):
    """Everything is said, and nothing more will be."""


class RedisBus:
    """See the module. prefix: of all channels, so that deployments can share a server. ValueError: the URL cannot be used."""

    def __init__(
        self,
        url: str,
        prefix: str,
        instance: InstanceId,
        loop: asyncio.AbstractEventLoop,
        randomness: random.Random,
        limits: RedisLimits | None = None,
    ) -> None:
        self._limits = limits or RedisLimits()
        self._server = server_of(url, self._limits.time_limit)
        self._instance = instance
        self._loop = loop
        self._random = randomness
        self._document_prefix = f"{prefix}:document:".encode()
        self._control_channel = f"{prefix}:control".encode()
        self._listeners = Listeners()
        self._subscriptions = Subscriptions()
        self._subscriptions.want(self._control_channel)
        self._backlog = Backlog(self._limits.waiting_messages, self._limits.waiting_bytes)
        self._waiting: dict[bytes, asyncio.Future[bool]] = {}
        self._work = asyncio.Event()
        self._lines: list[Line] = []
        self._failures = 0
        self._is_away = True
        self._is_stopping = False

    @property
    def instance(self) -> InstanceId:
        return self._instance

    @property
    def is_away(self) -> bool:
        return self._is_away

    # ------------------------------------------------------------------ what others call

    def publish(self, document_id: DocumentId, message: DocumentMessage) -> None:
        """See BU1."""
        for part in sendable(message):
            self._send(self._channel(document_id), part)

    def tell_all(self, message: ControlMessage) -> None:
        """See BU1."""
        self._send(self._control_channel, message)

    def _send(self, channel: bytes, message: Message) -> None:
        kind = type(message).__name__
        sent_at = int(self._loop.time() * _MICROSECONDS)
        self._backlog.add(channel, encode(self._instance, sent_at, message), kind)
        BUS_PUBLISHED.labels(kind).inc()
        self._work.set()

    def listen(self, subscriber: ControlSubscriber) -> None:
        self._listeners.listen(subscriber)

    async def subscribe(self, document_id: DocumentId, subscriber: Subscriber, timeout: float) -> bool:
        """See BU3. False at once while the bus is away."""
        channel = self._channel(document_id)
        self._listeners.add(document_id, subscriber)
        self._subscriptions.want(channel)
        self._work.set()
        self._let_go(channel)
        if self._is_away:
            return False
        if self._subscriptions.is_established(channel):
            return True
        established: asyncio.Future[bool] = self._loop.create_future()
        self._waiting[channel] = established
        try:
            async with asyncio.timeout(timeout):
                return await established
        except TimeoutError:
            return False
        finally:
            if self._waiting.get(channel) is established:
                del self._waiting[channel]

    def unsubscribe(self, document_id: DocumentId) -> None:
        channel = self._channel(document_id)
        self._listeners.remove(document_id)
        self._subscriptions.unwant(channel)
        self._let_go(channel)
        self._work.set()

    def _let_go(self, channel: bytes) -> None:
        """Whoever waits for a subscription that is given up, or is now another's, waits no longer."""
        waiting = self._waiting.pop(channel, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(False)

    def _channel(self, document_id: DocumentId) -> bytes:
        return self._document_prefix + str(document_id).encode()

    # ------------------------------------------------------------------ the one task

    async def run(self) -> None:
        """Keep connected for ever. Whatever happens on the way, only being cancelled ends it."""
        while True:
            # A task of its own: a task group that fails may leave its task marked as cancelled.
            session = self._loop.create_task(self._connected(), name="bus session")
            try:
                await asyncio.wait([session])
            except asyncio.CancelledError:
                await self._say_last_words(session)
                raise
            finally:
                session.cancel()
                (outcome,) = await asyncio.gather(session, return_exceptions=True)
            self._broken(outcome)
            delay = min(self._limits.retry_delay * 2**self._failures, self._limits.max_retry_delay)
            self._failures = min(self._failures + 1, _MOST_DOUBLINGS)
            await asyncio.sleep(delay * self._random.uniform(0.5, 1.0))

    async def _say_last_words(self, session: asyncio.Task[None]) -> None:
        """The instance stops: let what waits be sent, so that others need not find out by themselves."""
        if not self._is_away:
            self._is_stopping = True
            self._work.set()
            await asyncio.wait([session], timeout=self._limits.time_limit)

    def _broken(self, outcome: BaseException | None) -> None:
        errors = list(_flat(outcome))
        expected = [error for error in errors if isinstance(error, RedisError | OSError | TimeoutError)]
        if len(expected) < len(errors):
            _log.error("bus_failed", exc_info=outcome)
        elif not self._failures:
            _log.warning("bus_unavailable", errors=[f"{type(error).__name__}: {error}" for error in errors])

    async def _connected(self) -> None:
        """Connect, and carry messages until something breaks; that is raised."""
        opened: list[Connection] = []
        try:
            async with asyncio.timeout(self._limits.time_limit * 2):
                routes = await connect(self._server, opened.append)
            self._lines = [
                Line(connection, routes.words, self._heard, self._subscribed, self._work.set)
                for connection in routes.connections
            ]
            self._subscriptions.begin()
            self._work.set()
            async with asyncio.TaskGroup() as tasks:
                for line in self._lines:
                    tasks.create_task(line.read(), name="bus reader")
                tasks.create_task(self._keep_sending(routes), name="bus sender")
        finally:
            self._went_away()
            for connection in opened:
                await connection.disconnect(nowait=True)

    def _went_away(self) -> None:
        self._is_away = True
        BUS_CONNECTED.set(0)
        self._backlog.put_back([outgoing for line in self._lines for outgoing in line.unsent()])
        self._lines = []
        for channel in list(self._waiting):
            self._let_go(channel)

    # ------------------------------------------------------------------ sending

    async def _keep_sending(self, routes: Routes) -> None:
        pinged = self._loop.time()
        while True:
            due = pinged + self._limits.ping_interval
            try:
                async with asyncio.timeout_at(due):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()
            await self._send_waiting(routes)
            if self._is_stopping and not self._backlog and all(line.is_idle for line in self._lines):
                raise _Stopped
            if self._loop.time() >= due:
                pinged = self._loop.time()
                for line in self._lines:
                    await line.ping()

    async def _send_waiting(self, routes: Routes) -> None:
        """Write what waits: subscriptions first, then messages until a line has enough on its way."""
        for channel in self._backlog.take_lossy():
            self._send(channel, Lost())
        for channel, is_wanted in self._subscriptions.commands():
            self._lines[routes.index(channel)].add(Subscribe(channel, is_wanted))
        while not any(line.is_full for line in self._lines):
            outgoing = self._backlog.take()
            if outgoing is None:
                break
            self._lines[routes.index(outgoing.channel)].add(Publish(outgoing))
        for line in self._lines:
            await line.flush()
        self._settle()

    # ------------------------------------------------------------------ hearing

    def _subscribed(self, channel: bytes) -> None:
        if self._subscriptions.confirmed(channel):
            waiting = self._waiting.pop(channel, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(True)
            else:
                self._missed(channel)
        self._settle()

    def _settle(self) -> None:
        """Everything that is open is subscribed to: the bus is back."""
        if self._is_away and self._subscriptions.is_settled:
            self._is_away, self._failures = False, 0
            BUS_CONNECTED.set(1)
            _log.info("bus_available", channels=len(self._listeners))

    def _missed(self, channel: bytes) -> None:
        if channel == self._control_channel:
            self._listeners.missed_control()
        elif (document_id := self._document(channel)) is not None:
            self._listeners.missed([document_id])

    def _document(self, channel: bytes) -> DocumentId | None:
        try:
            return DocumentId(UUID(channel.removeprefix(self._document_prefix).decode()))
        except ValueError:
            return None

    def _heard(self, channel: bytes, payload: bytes) -> None:
        try:
            letter = decode(payload, self._instance)
        except ProtocolViolation:
            BUS_LOST.labels("Unreadable").inc()
            return
        if letter.message is None:
            BUS_LAG.observe(max(0.0, self._loop.time() - letter.sent_at / _MICROSECONDS))
            return
        BUS_HEARD.labels(type(letter.message).__name__).inc()
        self._pass_on(channel, letter)

    def _pass_on(self, channel: bytes, letter: Letter) -> None:
        message, document_id = letter.message, self._document(channel)
        if isinstance(message, Lost):
            self._missed(channel)
        elif isinstance(message, ControlMessage):
            self._listeners.told(letter.sender, message)
        elif message is not None and document_id is not None:
            self._listeners.heard(document_id, letter.sender, message)


def _flat(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error, or those of a group of groups."""
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _flat(each)
    elif error is not None:
        yield error
