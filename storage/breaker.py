"""A circuit breaker: while a database is away, calls fail at once instead of each waiting for its own time limit."""

import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Final, TypeVar

from sqlalchemy.engine import Connection

from storage.contracts import StorageUnavailable
from storage.database import DatabaseAway, SqlDatabase

T = TypeVar("T")

FAILURES: Final = 3
"""So many calls in a row that find the database away open the breaker."""

PROBE_SECONDS: Final = 0.5
"""After so long an open breaker lets one call through, to see."""


class BreakerState(Enum):
    """The values of the metric, in words."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Lets calls through while the other side answers. clock: seconds, for measuring. told: hears of every change.

    Only DatabaseAway counts: a locked row or a refused change is an answer.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        told: Callable[[BreakerState], object] = lambda _: None,
        *,
        failures: int = FAILURES,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        self._clock = clock
        self._told = told
        self._most_failures = failures
        self._probe_seconds = probe_seconds
        self._failures = 0
        self._probe_due = 0.0
        self.state = BreakerState.CLOSED

    async def call(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives. StorageUnavailable: it was not made, since the database is away."""
        is_probe = self.state is not BreakerState.CLOSED
        if is_probe:
            if self.state is BreakerState.HALF_OPEN or self._clock() < self._probe_due:
                raise StorageUnavailable("the database is away; it is asked again shortly")
            self._change(BreakerState.HALF_OPEN)
        try:
            result = await attempt()
        except DatabaseAway:
            self._failed(is_probe)
            raise
        except Exception:
            self._answered(is_probe)
            raise
        except BaseException:  # the caller was cancelled: nothing was learnt, and the next call may probe
            if is_probe:
                self._change(BreakerState.OPEN)
            raise
        self._answered(is_probe)
        return result

    def _failed(self, is_probe: bool) -> None:
        self._failures += 1
        if is_probe or (self.state is BreakerState.CLOSED and self._failures >= self._most_failures):
            self._probe_due = self._clock() + self._probe_seconds
            self._change(BreakerState.OPEN)

    def _answered(self, is_probe: bool) -> None:
        # A call from before the breaker opened may still be answered; only a probe closes it.
        if is_probe or self.state is BreakerState.CLOSED:
            self._failures = 0
            self._change(BreakerState.CLOSED)

    def _change(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._told(state)


class GuardedDatabase:
    """`SqlDatabase` behind a breaker."""

    def __init__(self, database: SqlDatabase, breaker: CircuitBreaker) -> None:
        self._database = database
        self._breaker = breaker

    async def write(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase. StorageUnavailable also while the breaker is open."""
        return await self._breaker.call(lambda: self._database.write(work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """See SqlDatabase. StorageUnavailable also while the breaker is open."""
        return await self._breaker.call(lambda: self._database.read(work))

    async def close(self) -> None:
        """See SqlDatabase."""
        await self._database.close()
