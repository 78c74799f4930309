"""Workers that compute in place, take virtual time, and now and then die."""

import asyncio
import pickle
import random
from collections.abc import Callable
from typing import TypeVar

from constructure_sync.replica.pool import WorkerFailed

Result = TypeVar("Result")


class SimulatedWorkers:
    """`Workers` of one instance. delay: seconds a job takes at most. failures: how many of the next jobs fail."""

    def __init__(self, randomness: random.Random, delay: float = 0.05) -> None:
        self.delay = delay
        self.failures = 0
        self._random = randomness

    async def run(self, function: Callable[..., Result], /, *arguments: object, timeout: float) -> Result:
        """See `Workers`. Arguments cross as they do between processes: as copies."""
        copies = pickle.loads(pickle.dumps(arguments))
        await asyncio.sleep(self.delay * self._random.random())
        if self.failures:
            self.failures -= 1
            raise WorkerFailed(function.__name__)
        return function(*copies)
