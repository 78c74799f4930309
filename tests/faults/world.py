"""The scaled world on loopback: instances on one Postgres and one Redis-compatible server, all from wheels."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from tests.cluster import Cluster, Course
from tests.faults.crowd import TookTooLong
from tests.faults.postgres_copies import CopiedPostgres
from tests.valkey import Valkey

Report = TypeVar("Report")


@dataclass(frozen=True, slots=True)
class World:
    """Everything that runs. courses: empty ones of one account."""

    postgres: CopiedPostgres
    valkey: Valkey
    cluster: Cluster
    courses: Sequence[Course]


@contextlib.asynccontextmanager
async def open_world(
    folder: Path, *, instances: int, courses: int, settings: Mapping[str, str] | None = None
) -> AsyncIterator[World]:
    """Start everything, and end it. What the instances printed is shown when the block fails."""
    with contextlib.ExitStack() as stack:
        postgres, valkey = stack.enter_context(CopiedPostgres()), stack.enter_context(Valkey())
        cluster = Cluster(folder, postgres.url, [valkey.url] * instances, settings)
        await asyncio.to_thread(cluster.__enter__)
        try:
            yield World(postgres, valkey, cluster, await asyncio.to_thread(cluster.open_courses, courses))
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
