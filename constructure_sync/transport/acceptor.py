"""Everything the sockets of one server share: capacity, admission, the watch over silent and stuck peers, the drain."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from constructure_sync.observability import get_logger
from constructure_sync.protocol import closes
from constructure_sync.transport.admission import (
    HOCUSPOCUS_PATH,
    Admit,
    Admitted,
    Handshake,
    Network,
    Refusal,
    Refused,
    UpgradeRequest,
    client_address,
    document_path,
    origin_allowed,
    read_request,
)
from constructure_sync.transport.parser import Parsers

_DRAIN_SLICE = 0.1


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Counts, seconds and bytes.

    max_sockets, max_sockets_per_address: open and being admitted; a school may sit behind one address.
    admission_timeout: for the decision; beyond it 503.
    ping_after: of silence, a ping is sent; silence_timeout: of silence, the socket is aborted.
    stuck_timeout: a congested socket of which no byte has moved for so long is aborted (R4).
    close_timeout: for the peer's answer to a close frame.
    watch_interval: between two looks at all sockets.
    write_high, write_low: marks of the write buffer at which a connection becomes congested and writable again.
    trusted_proxies: networks whose X-Forwarded-For is believed.
    """

    max_sockets: int = 20_000
    max_sockets_per_address: int = 2_000
    admission_timeout: float = 5.0
    ping_after: float = 20.0
    silence_timeout: float = 60.0
    stuck_timeout: float = 30.0
    close_timeout: float = 2.0
    watch_interval: float = 5.0
    write_high: int = 256 * 1024
    write_low: int = 64 * 1024
    trusted_proxies: tuple[Network, ...] = ()


class WatchedSocket(Protocol):
    """What the acceptor needs of an open socket."""

    def check(self, now: float) -> None:
        """Ping, or abort, when the time has come."""
        ...

    def close(self, code: int, reason: str) -> None: ...


class Acceptor:
    """Decides who gets in and looks after all open sockets. One per server; lives on its loop.

    admit: the decision that needs more than the request's bytes; origins: those that pages may come from.
    clock: seconds, monotonic; randomness: for the order and times of a drain; sleep: waits so many seconds.
    """

    def __init__(
        self,
        admit: Admit,
        origins: Container[str],
        limits: SocketLimits | None = None,
        *,
        clock: Callable[[], float] | None = None,
        randomness: random.Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.limits = limits or SocketLimits()
        self.draining = False
        self.clock = clock or (lambda: asyncio.get_running_loop().time())
        self.sockets: set[WatchedSocket] = set()
        self._admit = admit
        self._origins = origins
        self._random = randomness or random.Random()
        self._sleep = sleep
        self._hurried = False
        self._admissions: set[asyncio.Task[None]] = set()
        self._held = 0
        self._held_by_address: Counter[str] = Counter()
        self._watch: asyncio.TimerHandle | None = None

    @cached_property
    def parsers(self) -> Parsers:
        """What reads the frames of all sockets; made on the loop."""
        return Parsers()

    @property
    def held(self) -> int:
        """How many places are taken: sockets open or being admitted."""
        return self._held

    def check_request(self, handshake: Handshake, peer: str) -> UpgradeRequest:
        """Everything that can be decided at once, the cheap checks first. Raises Refusal."""
        if handshake.path != HOCUSPOCUS_PATH and document_path(handshake.path) is None:
            raise Refusal(404, "not_found", "There is no such document.")
        if self.draining:
            raise Refusal(503, "restarting", "This instance is restarting.")
        if self._held >= self.limits.max_sockets:
            raise Refusal(503, "full", "This instance has no room for another connection.")
        address = client_address(peer, handshake.forwarded, self.limits.trusted_proxies)
        if self._held_by_address[address] >= self.limits.max_sockets_per_address:
            raise Refusal(429, "too_many_connections", "Too many connections from this address.")
        request = read_request(handshake, address)
        if not origin_allowed(request, self._origins):
            raise Refusal(403, "origin", "Pages of this origin may not connect.")
        return request

    async def decide(self, request: UpgradeRequest) -> Admitted | Refused:
        """What `admit` says, or a refusal when it takes too long or fails."""
        try:
            async with asyncio.timeout(self.limits.admission_timeout):
                outcome = await self._admit(request)
        except TimeoutError:
            return Refused(503, "admission_timeout", "The decision took too long; try again.")
        except Exception:
            get_logger().exception("admission failed")
            return Refused(500, "internal", "The server failed; its log says why.")
        if self.draining and isinstance(outcome, Admitted):
            return Refused(503, "restarting", "This instance is restarting.")
        return outcome

    def take_place(self, address: str) -> None:
        """Count a socket from its admission to its end."""
        self._held += 1
        self._held_by_address[address] += 1

    def give_back_place(self, address: str) -> None:
        """Undo one `take_place`."""
        self._held -= 1
        self._held_by_address[address] -= 1
        if not self._held_by_address[address]:
            del self._held_by_address[address]

    def own_task(self, task: asyncio.Task[None]) -> None:
        """Keep an admission until it is done."""
        self._admissions.add(task)
        task.add_done_callback(self._admissions.discard)

    def add(self, socket: WatchedSocket) -> None:
        """Watch an open socket."""
        self.sockets.add(socket)
        if self._watch is None:
            self._watch_later()

    def remove(self, socket: WatchedSocket) -> None:
        """Stop watching a socket that has ended."""
        self.sockets.discard(socket)

    def check_all(self, now: float) -> None:
        """Look at every open socket once."""
        for socket in tuple(self.sockets):
            socket.check(now)

    def _watch_later(self) -> None:
        self._watch = asyncio.get_running_loop().call_later(self.limits.watch_interval, self._look)

    def _look(self) -> None:
        self._watch = None
        self.check_all(self.clock())
        self.parsers.trim()
        if self.sockets:
            self._watch_later()

    def hurry(self) -> None:
        """Refuse new sockets from now on and end a running or coming drain at once. Safe in a signal handler."""
        self.draining = True
        self._hurried = True

    async def drain(self, seconds: float) -> None:
        """Refuse new sockets and send the open ones away with 1012, each at a random time within the seconds.

        Returns when all have been told; their ends follow within `close_timeout`.
        """
        self.draining = True
        waiting: Sequence[WatchedSocket] = self._random.sample(sorted(self.sockets, key=id), len(self.sockets))
        slices = max(1, round(seconds / _DRAIN_SLICE)) if waiting else 1
        departures = sorted(self._random.randrange(slices) for _ in waiting)
        told = 0
        for number in range(slices):
            if self._hurried:
                break
            while told < len(waiting) and departures[told] <= number:
                waiting[told].close(closes.RESTART, "restart")
                told += 1
            if told == len(waiting):
                break
            await self._sleep(_DRAIN_SLICE)
        for socket in tuple(self.sockets):
            socket.close(closes.RESTART, "restart")

    async def stop(self) -> None:
        """Cancel what is being admitted, close what is open, stop the watch. For the end of the server."""
        self.hurry()
        await self.drain(0)
        tasks = tuple(self._admissions)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
