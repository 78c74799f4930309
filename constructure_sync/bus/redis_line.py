"""One connection to one Redis server: commands go out in batches, answers and what others publish come in, in order.

RESP3, so that publishing and subscriptions share a connection: when it breaks, everything that may be lost breaks with it. It never
reconnects by itself, because what was published meanwhile would be missed unnoticed.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.connection import Connection
from redis.exceptions import AskError, ClusterDownError, ConnectionError, MovedError, ResponseError, TryAgainError

from constructure_sync.bus.backlog import Outgoing
from constructure_sync.observability import BUS_LOST

_WINDOW_COMMANDS: Final = 500
_WINDOW_BYTES: Final = 1024 * 1024
_READINGS_PER_TURN: Final = 100  # of the loop
_UNANSWERED_PINGS: Final = 3
_ELSEWHERE: Final = (MovedError, AskError, ClusterDownError, TryAgainError)


@dataclass(frozen=True, slots=True)
class Publish:
    outgoing: Outgoing


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe to a channel, or else unsubscribe from it."""

    channel: bytes
    is_wanted: bool


@dataclass(frozen=True, slots=True)
class Ping:
    pass


Command = Publish | Subscribe | Ping


@dataclass(frozen=True, slots=True)
class Words:
    """What a server calls its commands: those of a cluster's sharded channels, or the plain ones."""

    publish: str
    subscribe: str
    unsubscribe: str


class Line:
    """See the module.

    heard: called with channel and payload; subscribed: with a channel whose subscription is confirmed; has_room: when some was
    answered after the line had been full, and when everything is.
    """

    def __init__(
        self,
        connection: Connection,
        words: Words,
        heard: Callable[[bytes, bytes], None],
        subscribed: Callable[[bytes], None],
        has_room: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._words = words
        self._heard = heard
        self._subscribed = subscribed
        self._has_room = has_room
        # Else the library writes every message into a debug log line, whether or not anybody reads it.
        parser: Any = connection._parser
        parser.set_pubsub_push_handler(_as_it_is)
        self._unanswered: deque[Command] = deque()
        self._unanswered_bytes = 0
        self._unwritten: list[tuple[str | bytes, ...]] = []
        self._pings_since_heard = 0

    @property
    def is_idle(self) -> bool:
        """Whether everything that was written is answered."""
        return not self._unanswered

    @property
    def is_full(self) -> bool:
        """Whether enough is on its way that nothing more is published before some of it was answered."""
        return len(self._unanswered) >= _WINDOW_COMMANDS or self._unanswered_bytes >= _WINDOW_BYTES

    def unsent(self) -> list[Outgoing]:
        """Return what was published and not answered: whether others have heard it is unknown."""
        return [command.outgoing for command in self._unanswered if isinstance(command, Publish)]

    def add(self, command: Command) -> None:
        """Let a command be written with the next `flush`."""
        self._unanswered.append(command)
        self._unanswered_bytes += _size(command)
        self._unwritten.append(self._packed(command))

    async def flush(self) -> None:
        """Write what was added. redis.RedisError: the connection broke, or took nothing for its time limit."""
        if self._unwritten:
            commands, self._unwritten = self._unwritten, []
            await self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)

    async def ping(self) -> None:
        """Ask for a sign of life. redis.ConnectionError: the line is half open, nothing was heard for several calls."""
        self._pings_since_heard += 1
        if self._pings_since_heard > _UNANSWERED_PINGS:
            raise ConnectionError("the server has not answered for a while")
        self.add(Ping())
        await self.flush()

    def _packed(self, command: Command) -> tuple[str | bytes, ...]:
        match command:
            case Publish(outgoing):
                return (self._words.publish, outgoing.channel, outgoing.payload)
            case Subscribe(channel, is_wanted):
                return (self._words.subscribe if is_wanted else self._words.unsubscribe, channel)
            case Ping():
                return ("PING",)

    async def read(self) -> None:
        """Take what comes, until the connection breaks, which raises redis.RedisError."""
        readings = 0
        while True:
            await self._read_one()
            readings += 1
            if not readings % _READINGS_PER_TURN:
                await asyncio.sleep(0)

    async def _read_one(self) -> None:
        try:
            said = await self._connection.read_response(
                disable_decoding=True, timeout=math.inf, disconnect_on_error=False, push_request=True
            )
        except ResponseError as error:
            # What the server refuses is not sent again, unless it only sends it elsewhere: it would be refused for ever.
            if self._unanswered and not isinstance(error, _ELSEWHERE):
                refused = self._unanswered.popleft()
                if isinstance(refused, Publish):
                    BUS_LOST.labels(refused.outgoing.kind).inc()
            raise
        self._pings_since_heard = 0
        if isinstance(said, list):
            self._pushed(said)
        else:
            self._answer()

    def _pushed(self, said: list[Any]) -> None:
        kind = bytes(said[0])
        if kind in (b"message", b"smessage"):
            self._heard(said[1], said[2])
        elif kind in (b"subscribe", b"ssubscribe", b"unsubscribe", b"sunsubscribe"):
            is_wanted = kind in (b"subscribe", b"ssubscribe")
            if not self._unanswered or self._unanswered[0] != Subscribe(said[1], is_wanted):
                raise ConnectionError("the server has ended a subscription: its slot has moved")
            self._answer()
            if is_wanted:
                self._subscribed(said[1])

    def _answer(self) -> None:
        if not self._unanswered:
            raise ConnectionError("an answer to nothing")
        was_full = self.is_full
        self._unanswered_bytes -= _size(self._unanswered.popleft())
        if was_full or not self._unanswered:
            self._has_room()


async def _as_it_is(pushed: list[Any]) -> list[Any]:
    return pushed


def _size(command: Command) -> int:
    return len(command.outgoing.payload) if isinstance(command, Publish) else 0
