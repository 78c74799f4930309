"""Work that nobody waits for, done now and then by one instance of a cluster: sweeping the logs, making the partitions to come.

Whoever holds a job's lease does it, and goes on holding it for the next time; when that instance is gone, the lease ends and
another takes over. A lease keeps instances from doing the same twice, no more: every job must be right without it.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from constructure_sync.observability import UPKEEP, get_logger
from storage.contracts import StorageError

_log = get_logger()
_JITTER: Final = 0.25
_LEASE_INTERVALS: Final = 2.0
"""A lease lasts longer than the longest wait between two runs: its holder comes back before it ends."""


class Leases(Protocol):
    """Who of all instances does a job."""

    async def acquire(self, name: str, holder: str, now: float, seconds: float) -> bool:
        """Take or renew a lease until `now` + `seconds`; False: somebody else holds it. Raises StorageUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class UpkeepJob:
    """A job. name: of its lease and in logs; interval: seconds between two runs, on average.

    work: makes one run, and yields wherever it may rest or be given up.
    """

    name: str
    interval: float
    work: Callable[[], AsyncGenerator[None]]


def in_one_step(work: Callable[[], Awaitable[object]]) -> Callable[[], AsyncGenerator[None]]:
    """Return the `work` of a job that is short enough to be done without resting."""

    async def run() -> AsyncGenerator[None]:
        await work()
        yield

    return run


class Upkeep:
    """Runs the jobs of this instance, each one run at a time, for ever.

    share: the part of its time that a job may be busy; after each step it rests accordingly. holder: names this instance.
    now: seconds since 1970, which the instances have in common; clock: seconds, for measuring.
    """

    def __init__(
        self,
        jobs: tuple[UpkeepJob, ...],
        leases: Leases,
        holder: str,
        randomness: random.Random,
        share: float = 0.1,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._jobs = jobs
        self._leases = leases
        self._holder = holder
        self._randomness = randomness
        self._share = share
        self._now = now
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Do every job again and again; cancelled by its owner."""
        async with asyncio.TaskGroup() as tasks:
            for job in self._jobs:
                tasks.create_task(self._repeat(job), name=f"upkeep: {job.name}")

    async def _repeat(self, job: UpkeepJob) -> None:
        # Instances are often started together: each waits another while before its first run.
        delay = job.interval * self._randomness.random()
        while True:
            await self._sleep(delay)
            await self.run_once(job)
            delay = job.interval * self._randomness.uniform(1 - _JITTER, 1 + _JITTER)

    async def run_once(self, job: UpkeepJob) -> None:
        """Make one run, if the lease is ours; what fails is told and tried again the next time."""
        try:
            outcome = await self._run(job)
        except StorageError as error:
            outcome = "failed"
            _log.error("upkeep_failed", job=job.name, error=repr(error))
        except Exception:
            outcome = "failed"
            _log.exception("upkeep_failed", job=job.name)
        UPKEEP.labels(job.name, outcome).inc()

    async def _run(self, job: UpkeepJob) -> str:
        lease = job.interval * _LEASE_INTERVALS
        if not await self._leases.acquire(job.name, self._holder, self._now(), lease):
            return "elsewhere"
        async with aclosing(job.work()) as steps:
            begun = renewed = self._clock()
            async for _ in steps:
                await self._sleep((self._clock() - begun) * (1 / self._share - 1))
                begun = self._clock()
                if begun - renewed > lease / 4:
                    if not await self._leases.acquire(job.name, self._holder, self._now(), lease):
                        return "taken_over"
                    renewed = begun
        return "done"
