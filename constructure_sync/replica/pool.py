"""Worker processes for what must not hold up the loop. A worker's death or hanging costs a retry, not the server.

pycrdt never releases the GIL and can be killed by what it reads, so it runs in processes that may be lost. The pool is an argument
of the core: a simulator brings one that computes in place.
"""

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol, TypeVar

from pebble import ProcessExpired, ProcessPool

from constructure_sync.errors import ConstructureError
from constructure_sync.observability import WORKER_RETRIES, get_logger

_log = get_logger()
_TASKS_PER_WORKER = 2_000  # then it is replaced, so that no leak of a long life adds up
_ATTEMPTS = 2

Result = TypeVar("Result")


class WorkerFailed(ConstructureError):
    """A job killed its worker, hung or panicked, and did so again when it was tried once more."""


class Panic(ConstructureError):
    """pycrdt panicked in the worker. Its own PanicException is a BaseException and cannot cross processes."""


class Workers(Protocol):
    """Runs pure functions of module level on arguments that can be pickled."""

    async def run(self, function: Callable[..., Result], /, *arguments: object, timeout: float) -> Result:
        """Return the function's result; raise what it raised. timeout: seconds. Raises WorkerFailed."""
        ...


class WorkerPool:
    """Worker processes, started when first needed. An async context manager.

    niceness: how far they stand back behind the serving process when both want the same core; for work that nobody waits for.
    """

    def __init__(self, workers: int, niceness: int = 0) -> None:
        self._workers = workers
        self._niceness = niceness
        self._pool: ProcessPool | None = None

    async def __aenter__(self) -> "WorkerPool":
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            await asyncio.to_thread(self._pool.join, 5)

    def _started(self) -> ProcessPool:
        if self._pool is None:
            # Not fork: a forked worker would inherit sockets and locks of the running server.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPool(
                max_workers=self._workers,
                max_tasks=_TASKS_PER_WORKER,
                initializer=os.nice,
                initargs=(self._niceness,),
                context=context,
            )
        return self._pool

    async def run(self, function: Callable[..., Result], /, *arguments: object, timeout: float) -> Result:
        """See `Workers`."""
        for _ in range(_ATTEMPTS):
            future = self._started().schedule(function, args=arguments, timeout=timeout)
            try:
                result: Result = await asyncio.wrap_future(future)
                return result
            except (ProcessExpired, FutureTimeoutError, Panic) as error:
                WORKER_RETRIES.inc()
                _log.warning("worker_failed", job=function.__name__, error=repr(error))
        raise WorkerFailed(function.__name__)
