"""Restart one instance after the other by SIGTERM behind a proxy, under load: nothing acknowledged is lost, nobody is long away."""

import argparse
import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

from tests.cluster import Course
from tests.faults.crowd import gather_crowd, until
from tests.faults.verdict import Verdict, check_limit, judge
from tests.faults.world import open_world, run_in_folder
from tests.proxy import RoundRobinProxy

AWAY_LIMIT: Final = 5.0
READY_SECONDS: Final = 20.0
CATCH_UP_SECONDS: Final = 60.0
PER_COURSE: Final = 5
EDITS_PER_CLIENT: Final = 0.5  # a second


@dataclass(frozen=True, slots=True)
class RollingReport:
    """spells: how long clients were away, each time, in seconds. moved: clients that had to go at each restart."""

    clients: int
    spells: Sequence[float]
    moved: Sequence[int]
    verdict: Verdict


async def roll(folder: Path, *, instances: int, clients: int, rounds: int, drain: float, seed: int) -> RollingReport:
    """Restart every instance in turn, `rounds` times over, while clients write. drain: seconds over which they are sent away."""
    randomness, moved, faults = random.Random(seed), list[int](), list[str]()
    courses, settings = max(1, clients // PER_COURSE), {"drain_seconds": str(drain)}
    async with (
        open_world(folder, instances=instances, courses=courses, settings=settings) as world,
        RoundRobinProxy(world.cluster.ports) as proxy,
    ):

        def address(course: Course, _: int) -> Callable[[], str]:
            return lambda: course.url(proxy.port)

        crowd = gather_crowd(world.courses, PER_COURSE, address, randomness)
        async with crowd.connected():
            async with crowd.writing(EDITS_PER_CLIENT * len(crowd.clients)):
                for instance in world.cluster.instances * rounds:
                    before = sum(len(client.spells) for client in crowd.clients)
                    status = await asyncio.to_thread(instance.stop)
                    if status:
                        faults.append(f"an instance ended with status {status}")
                    await asyncio.to_thread(instance.start)
                    port = instance.port
                    await until(lambda: proxy.ready[port], READY_SECONDS, "a restarted instance is ready")  # noqa: B023
                    await crowd.caught_up(CATCH_UP_SECONDS)
                    moved.append(sum(len(client.spells) for client in crowd.clients) - before)
            spells = [spell for client in crowd.clients for spell in client.spells]
            late = check_limit("a client was away", spells, AWAY_LIMIT)
            if not all(moved):
                faults.append("a restart moved nobody")
            verdict = await judge(crowd, world.cluster.database_url, CATCH_UP_SECONDS, faults=faults, late=late)
    return RollingReport(len(crowd.clients), spells, moved, verdict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--instances", type=int, default=3, help="instances behind the proxy")
    parser.add_argument("--clients", type=int, default=300, help="writing clients, five on a course")
    parser.add_argument("--count", type=int, default=1, help="how often each instance is restarted")
    parser.add_argument(
        "--drain", type=float, default=5, help="seconds over which a stopping instance sends clients away"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run and print the figures."""
    report = run_in_folder(
        lambda folder: roll(
            folder,
            instances=arguments.instances,
            clients=arguments.clients,
            rounds=arguments.count,
            drain=arguments.drain,
            seed=arguments.seed,
        )
    )
    if report is None:
        return 1
    moved = " ".join(map(str, report.moved))
    print(f"restarts                     {len(report.moved)}, moving {moved} of {report.clients} clients")
    print(f"seconds away                 longest {max(report.spells):.2f}, mean {fmean(report.spells):.2f}")
    report.verdict.print()
    return 0 if report.verdict.holds else 1
