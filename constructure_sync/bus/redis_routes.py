"""The connections of a bus: one to a single server, one to each that holds slots of a cluster.

A cluster from Redis 7 on has sharded channels, each known only to the server that holds its slot; before that, and on a single
server, any channel is heard everywhere.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio.connection import Connection, parse_url
from redis.crc import key_slot
from redis.exceptions import ConnectionError, ResponseError

from constructure_sync.bus.redis_line import Words

_PLAIN: Final = Words("PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE")
_SHARDED: Final = Words("SPUBLISH", "SSUBSCRIBE", "SUNSUBSCRIBE")
_SLOTS: Final = 16_384


@dataclass(frozen=True, slots=True)
class Server:
    """How to reach a server. options: what `Connection` takes; its class is `kind`."""

    kind: type[Connection]
    options: Mapping[str, Any]

    def connection(self) -> Connection:
        """Return a connection that has yet to be connected."""
        return self.kind(**self.options)

    def at(self, host: str, port: int) -> "Server":
        return Server(self.kind, {**self.options, "host": host or self.options["host"], "port": port})


def server_of(url: str, time_limit: float) -> Server:
    """Return the server that a redis:// or rediss:// URL names. time_limit: seconds for connecting and for each write.

    ValueError: the URL cannot be used.
    """
    options: dict[str, Any] = {"host": "localhost", **parse_url(url)}
    kind = options.pop("connection_class", Connection)
    options |= {
        "protocol": 3,
        "socket_timeout": time_limit,
        "socket_connect_timeout": time_limit,
        "client_name": "constructure-sync",
    }
    return Server(kind, options)


@dataclass(frozen=True, slots=True)
class Routes:
    """Connected connections, the words for them, and which of them a channel goes over."""

    connections: list[Connection]
    words: Words
    by_slot: list[int] | None

    def index(self, channel: bytes) -> int:
        """Return the place of the channel's connection in `connections`."""
        return 0 if self.by_slot is None else self.by_slot[key_slot(channel)]


async def connect(server: Server, opened: Callable[[Connection], None]) -> Routes:
    """Connect to a server, and to its cluster if it is part of one. redis.RedisError: that failed.

    opened: called with each connection before it is connected, so that its owner can close it whatever happens.
    """
    seed = server.connection()
    opened(seed)
    await seed.connect_check_health(check_health=False)
    ranges = await _slot_ranges(seed)
    if ranges is None or not await _knows_sharded_channels(seed):
        return Routes([seed], _PLAIN, None)
    by_slot, connections = [-1] * _SLOTS, dict[tuple[str, int], int]()
    for first, last, holder in ranges:
        place = connections.setdefault(holder, len(connections))
        by_slot[first : last + 1] = [place] * (last + 1 - first)
    if -1 in by_slot:
        raise ConnectionError("the cluster does not hold all slots")
    lines = []
    for host, port in connections:
        line = server.at(host, port).connection()
        opened(line)
        await line.connect_check_health(check_health=False)
        lines.append(line)
    await seed.disconnect(nowait=True)
    return Routes(lines, _SHARDED, by_slot)


async def _slot_ranges(seed: Connection) -> list[tuple[int, int, tuple[str, int]]] | None:
    """Return first slot, last slot and (host, port) of their holder; host: empty for the one that was asked. None: no cluster."""
    try:
        answer: list[Any] = await _ask(seed, "CLUSTER", "SLOTS")
    except ResponseError:
        return None
    ranges = []
    for first, last, holder, *_ in answer:
        host = "" if holder[0] in (None, b"", b"?") else holder[0].decode()
        ranges.append((int(first), int(last), (host, int(holder[1]))))
    return ranges


async def _knows_sharded_channels(seed: Connection) -> bool:
    try:
        answer: list[Any] = await _ask(seed, "COMMAND", "INFO", "SPUBLISH")
    except ResponseError:
        return False
    return bool(answer and answer[0])


async def _ask(connection: Connection, *words: str) -> Any:
    await connection.send_command(*words, check_health=False)
    return await connection.read_response(disable_decoding=True)
