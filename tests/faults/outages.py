"""Stop or kill Postgres under load, and instances with it: receipts stay true, neighbours go on, all is saved when it is back.

What a receipt was given for must be in the data that the dead server left: a copy of it is read before the server comes back and
clients could bring again what was lost.
"""

import argparse
import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from tests.faults.crowd import Crowd, gather_crowd, going_round, until
from tests.faults.log_check import Losses, check_log
from tests.faults.verdict import Verdict, check_limit, judge
from tests.faults.world import World, open_world, run_in_folder
from tests.light_client import LightClient
from tests.proxy import is_ready
from tests.server_process import ServerProcess

SERVING_LIMIT: Final = 10.0
NEIGHBOUR_SECONDS: Final = 20.0  # an edit that has not reached a neighbour of its instance for so long never will
READY_SECONDS: Final = 15.0
CATCH_UP_SECONDS: Final = 60.0
START_SECONDS: Final = 60.0
PER_INSTANCE: Final = 2  # clients of a course
RETRY_SECONDS: Final = 2.0
EDITS_PER_CLIENT: Final = 3.0  # a second


@dataclass(frozen=True, slots=True)
class Outage:
    """One outage, in seconds. unready: until no instance says that it is ready. delays: of edits to neighbours meanwhile.

    first_receipt, all_receipts, ready: from the moment at which Postgres answers again.
    """

    how: str
    lasted: float
    unready: float
    delays: Sequence[float]
    first_receipt: float
    all_receipts: float
    ready: float


@dataclass(frozen=True, slots=True)
class OutagesReport:
    """killed: instances killed meanwhile."""

    outages: Sequence[Outage]
    killed: int
    verdict: Verdict


async def suffer_outages(
    folder: Path, *, outages: int, seconds: float, instances: int, courses: int, seed: int
) -> OutagesReport:
    """Take Postgres away so many times, for at least `seconds` each; with every second one goes an instance, too."""
    randomness = random.Random(seed)
    async with open_world(folder, instances=instances, courses=courses) as world:
        neighbours = Neighbours()
        crowd = gather_crowd(
            world.courses, PER_INSTANCE * instances, going_round(world.cluster.ports), randomness, neighbours.arrived
        )
        neighbours.crowd = crowd
        run = _Outages(world, crowd, neighbours, seconds)
        async with crowd.connected():
            async with crowd.writing(EDITS_PER_CLIENT * len(crowd.clients)):
                for number in range(outages):
                    instance = None if number % 2 else world.cluster.instances[number % instances]
                    run.done.append(await run.suffer(is_killed=number % 3 == 0, instance=instance))
                await crowd.caught_up(CATCH_UP_SECONDS)
            late = check_limit(
                "everything acknowledged after the return", [each.all_receipts for each in run.done], SERVING_LIMIT
            )
            verdict = await judge(crowd, world.cluster.database_url, CATCH_UP_SECONDS, faults=run.faults, late=late)
    return OutagesReport(run.done, (outages + 1) // 2, verdict)


class Neighbours:
    """Times how long edits take to others on the same instance, while `delays` is a list."""

    def __init__(self) -> None:
        self.crowd: Crowd | None = None
        self.delays: list[float] | None = None
        self._by_name: dict[str, LightClient] = {}

    def arrived(self, reader: LightClient, key: str) -> None:
        """Note an arrival, when it came from the same instance and no line was just replaced."""
        assert self.crowd is not None
        if self.delays is None or not reader.is_synced:
            return
        if not self._by_name:
            self._by_name = {client.name: client for client in self.crowd.clients}
        name, _, number = key.partition(".")
        writer = self._by_name[name]
        if writer.is_synced and writer.url == reader.url:
            self.delays.append(time.monotonic() - writer.times[int(number) - 1])

    async def meet(self) -> None:
        """Wait until neighbours on the same instance have what the others have made by now. Raises TookTooLong."""
        assert self.crowd is not None
        made = {client: client.made for client in self.crowd.clients}
        pairs = [pair for clients in self.crowd.groups.values() for pair in itertools.permutations(clients, 2)]
        await until(
            lambda: all(
                reader.has_all_of(writer, made[writer])
                for reader, writer in pairs
                if reader.is_synced and writer.is_synced and reader.url == writer.url
            ),
            NEIGHBOUR_SECONDS,
            "neighbours see each other's edits during the outage",
        )


class _Outages:
    """Outages of one world, one after the other. faults: what was wrong."""

    def __init__(self, world: World, crowd: Crowd, neighbours: Neighbours, seconds: float) -> None:
        self.done: list[Outage] = []
        self.faults: list[str] = []
        self._world = world
        self._crowd = crowd
        self._neighbours = neighbours
        self._seconds = seconds

    async def suffer(self, *, is_killed: bool, instance: ServerProcess | None) -> Outage:
        """Take Postgres away and bring it back. instance: one that is killed meanwhile, and started again."""
        postgres = self._world.postgres
        await self._crowd.caught_up(CATCH_UP_SECONDS)
        delays = self._neighbours.delays = []
        began = time.monotonic()
        await asyncio.to_thread(postgres.kill if is_killed else postgres.stop_immediately)
        unready = await self._until_all(is_ready_now=False)
        async with _restarting(instance):
            await asyncio.sleep(max(0.0, self._seconds - (time.monotonic() - began)))
            await self._neighbours.meet()
            self._neighbours.delays = None
            await self._check_receipts()
            before = self._crowd.acknowledged
            await asyncio.to_thread(postgres.start)
            returned = time.monotonic()
            await until(lambda: self._crowd.acknowledged > before, CATCH_UP_SECONDS, "a new receipt")
            first_receipt = time.monotonic() - returned
            await self._crowd.caught_up(CATCH_UP_SECONDS)
            all_receipts = time.monotonic() - returned
        ready = await self._until_all(is_ready_now=True)
        how = ("killed" if is_killed else "stopped") + (", and an instance killed" if instance else "")
        return Outage(how, returned - began, unready, delays, first_receipt, all_receipts, ready)

    async def _check_receipts(self) -> None:
        """Read a copy of what the dead server left: what was acknowledged must be there."""
        acknowledged = self._crowd.acknowledged_edits()
        copy = await asyncio.to_thread(self._world.postgres.copy)
        try:
            await asyncio.to_thread(copy.start)
            await check_log(copy.url, acknowledged)
        except Losses as losses:
            self.faults += [f"a wrong receipt for {edit}" for edit in losses.lost] + list(losses.faults)
        finally:
            await asyncio.to_thread(copy.close)

    async def _until_all(self, *, is_ready_now: bool) -> float:
        """Wait until every running instance says so on /ready; return how long that took, or note a fault."""
        started = time.monotonic()
        waiting = {instance.port for instance in self._world.cluster.instances if instance.is_running}
        while waiting:
            waiting -= {port for port in waiting if await is_ready(port) == is_ready_now}
            if time.monotonic() - started > READY_SECONDS:
                said = "not " if is_ready_now else ""
                self.faults.append(f"{len(waiting)} instances say that they are {said}ready")
                break
            await asyncio.sleep(0.05)
        return time.monotonic() - started


@contextlib.asynccontextmanager
async def _restarting(instance: ServerProcess | None) -> AsyncIterator[None]:
    """Kill an instance, and start it again and again until it stays, as an operator's machinery does; wait for that at the end."""
    if instance is None:
        yield
        return
    await asyncio.to_thread(instance.kill)
    task = asyncio.create_task(_start(instance))
    try:
        yield
        await task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _start(instance: ServerProcess) -> None:
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                await asyncio.to_thread(instance.start)
            except RuntimeError:
                await asyncio.sleep(RETRY_SECONDS)  # it does not start without its database
            else:
                return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--count", type=int, default=5, help="outages")
    parser.add_argument("--seconds", type=float, default=8, help="how long each lasts")
    parser.add_argument("--instances", type=int, default=3, help="instances")
    parser.add_argument("--courses", type=int, default=6, help="courses, each with two light clients on every instance")


def run(arguments: argparse.Namespace) -> int:
    """Run and print the figures."""
    report = run_in_folder(
        lambda folder: suffer_outages(
            folder,
            outages=arguments.count,
            seconds=arguments.seconds,
            instances=arguments.instances,
            courses=arguments.courses,
            seed=arguments.seed,
        )
    )
    if report is None:
        return 1
    for each in report.outages:
        in_ms = [delay * 1000 for delay in each.delays]
        print(f"outage of {each.lasted:.1f} s             {each.how}; not ready after {each.unready:.2f} s")
        print(f"  edits to neighbours        {len(in_ms)}, median {median(in_ms):.1f} ms, longest {max(in_ms):.0f} ms")
        print(f"  after its return           first receipt {each.first_receipt:.2f} s, all {each.all_receipts:.2f} s")
        print(f"  ready                      {each.ready:.2f} s after the last receipt")
    print(f"instances killed             {report.killed}")
    report.verdict.print()
    return 0 if report.verdict.holds else 1
