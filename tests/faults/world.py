"""The scaled world on loopback: instances on one Postgres and one Redis-compatible server, all from wheels."""

import asyncio
import contextlib
import random
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from tests.cluster import Cluster, Course
from tests.faults.crowd import TookTooLong
from tests.faults.postgres_copies import CopiedPostgres
from tests.redis_proxy import RedisProxy
from tests.valkey import Valkey

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class World:
    """Everything that runs. bus_lines: of the instances, one each, where they were asked for. courses: empty, of one account."""

    postgres: CopiedPostgres
    valkey: Valkey
    bus_lines: Sequence[RedisProxy]
    cluster: Cluster
    courses: Sequence[Course]


@contextlib.asynccontextmanager
async def open_world(
    folder: Path,
    *,
    instances: int,
    courses: int,
    settings: Mapping[str, str] | None = None,
    bus_randomness: random.Random | None = None,
) -> AsyncIterator[World]:
    """Start everything, and end it. What the instances printed is shown when the block fails.

    bus_randomness: where given, every instance reaches the bus by a line of its own, which can lose messages.
    """
    async with contextlib.AsyncExitStack() as stack:
        postgres, valkey = stack.enter_context(CopiedPostgres()), stack.enter_context(Valkey())
        lines = [] if bus_randomness is None else [RedisProxy(valkey.port, bus_randomness) for _ in range(instances)]
        for line in lines:
            await stack.enter_async_context(line)
        bus_urls = [line.url for line in lines] or [valkey.url] * instances
        cluster = Cluster(folder, postgres.url, bus_urls, settings)
        await asyncio.to_thread(cluster.__enter__)
        try:
            opened = await asyncio.to_thread(cluster.open_courses, courses)
            yield World(postgres, valkey, lines, cluster, opened)
        except BaseException:
            print(cluster.output())
            raise
        finally:
            await asyncio.to_thread(cluster.kill)


def run_in_folder(work: Callable[[Path], Coroutine[Any, Any, Report]]) -> Report | None:
    """Run in a temporary folder; None, after saying so, when something did not come true in time."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return uvloop.run(work(Path(folder)))
        except TookTooLong as late:
            print(f"FAULT: {late}")
            return None
