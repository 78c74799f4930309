"""Restore an older copy of the database under running instances: what any instance or client held is in the log again (R9).

Some clients leave before a restore and stay away until the end: what they wrote is then held by the rooms of the instances only.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import Course
from tests.faults.crowd import Crowd, TookTooLong, gather_crowd, going_round
from tests.faults.log_check import Losses, check_log
from tests.faults.postgres_copies import CopiedPostgres
from tests.faults.verdict import Verdict, judge
from tests.faults.world import World, open_world, run_in_folder

CATCH_UP_SECONDS: Final = 60.0
INSTANCES: Final = 3
PER_COURSE: Final = 2 * INSTANCES
EDITS_PER_CLIENT: Final = 3.0  # a second
LEAVING_EDITS: Final = 30.0  # a second, of those who leave
SETTINGS: Final = {"room_idle_seconds": "600", "segment_bytes": "16384"}

Edits = dict[str, set[str]]
"""Keys of edits, by course."""


@dataclass(frozen=True, slots=True)
class Restore:
    """One restore.

    taken_back: edits with a receipt that the restored copy does not hold. held_alone: how many of them were made by clients that
    had left. seconds: from the restored database's start until all of them were seen in the log again.
    """

    taken_back: int
    held_alone: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestoresReport:
    restores: Sequence[Restore]
    verdict: Verdict


async def suffer_restores(folder: Path, *, restores: int, courses: int, writing: float, seed: int) -> RestoresReport:
    """Restore older copies so many times, each after `writing` seconds of edits to some courses, while others have been left."""
    async with open_world(folder, instances=INSTANCES, courses=courses + restores, settings=SETTINGS) as world:
        run = _Restores(world, courses, writing, random.Random(seed))
        try:
            async with run.crowd.connected():
                async with run.crowd.writing(EDITS_PER_CLIENT * len(run.crowd.clients)):
                    for course in world.courses[courses:]:
                        await run.copy()
                        await run.restore(course)
                    await run.crowd.caught_up(CATCH_UP_SECONDS)
                faults = ["a restore took nothing back"] if not all(each.held_alone for each in run.done) else []
                verdict = await judge(run.crowd, world.cluster.database_url, CATCH_UP_SECONDS, faults=faults)
        finally:
            for copy, _ in run.copies:
                await asyncio.to_thread(copy.close)
    return RestoresReport(run.done, verdict)


class _Restores:
    """Restores in one world, one after the other. copies: of the database, each with what was acknowledged by then."""

    def __init__(self, world: World, courses: int, writing: float, randomness: random.Random) -> None:
        self.done: list[Restore] = []
        self.copies: list[tuple[CopiedPostgres, Edits]] = []
        self._world = world
        self._writing = writing
        self._randomness = randomness
        self._around = going_round(world.cluster.ports)
        self.crowd = gather_crowd(world.courses[:courses], PER_COURSE, self._around, randomness)
        self._left: list[Crowd] = []

    async def copy(self) -> None:
        """Take a copy of the database as it is, in a short outage."""
        await asyncio.to_thread(self._world.postgres.stop)
        copy = await asyncio.to_thread(self._world.postgres.copy)
        self.copies.append((copy, self._acknowledged()))
        await asyncio.to_thread(self._world.postgres.start)

    async def restore(self, course: Course) -> None:
        """Have edits made, and a course left; then put one of the newest copies in the database's place; wait for what it lacks."""
        leaving = gather_crowd([course], INSTANCES, self._around, self._randomness)
        async with leaving.connected():
            async with leaving.writing(LEAVING_EDITS):
                await asyncio.sleep(self._writing)
            await leaving.settled(CATCH_UP_SECONDS)
        self._left.append(leaving)
        await self.crowd.caught_up(CATCH_UP_SECONDS)
        copy, held = self._randomness.choice(self.copies[-2:])
        await asyncio.to_thread(self._world.postgres.kill)
        acknowledged = self._acknowledged()
        await asyncio.to_thread(self._world.postgres.take_data, copy)
        await asyncio.to_thread(self._world.postgres.start)
        started = time.monotonic()
        await self._until_in_log(acknowledged)
        gone = {each: edits - held.get(each, set()) for each, edits in acknowledged.items()}
        alone = sum(len(gone[each.id]) for crowd in self._left for each in crowd.groups)
        self.done.append(Restore(sum(map(len, gone.values())), alone, time.monotonic() - started))

    def _acknowledged(self) -> Edits:
        edits = self.crowd.acknowledged_edits()
        for crowd in self._left:
            edits |= crowd.acknowledged_edits()
        return edits

    async def _until_in_log(self, edits: Edits) -> None:
        """Read the log again and again until it holds these edits."""
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while True:
            try:
                await check_log(self._world.cluster.database_url, edits)
            except Losses as losses:
                if losses.faults or time.monotonic() > deadline:
                    missing = f"{len(losses.lost)} edits are not in the log again: {' '.join(losses.lost[:10])}"
                    raise TookTooLong("; ".join([missing, *losses.faults])) from None
            else:
                return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--count", type=int, default=4, help="restores")
    parser.add_argument(
        "--courses", type=int, default=4, help="courses written to, each with two clients on every instance"
    )
    parser.add_argument("--seconds", type=float, default=5, help="of edits before each restore")


def run(arguments: argparse.Namespace) -> int:
    """Run and print the figures."""
    report = run_in_folder(
        lambda folder: suffer_restores(
            folder,
            restores=arguments.count,
            courses=arguments.courses,
            writing=arguments.seconds,
            seed=arguments.seed,
        )
    )
    if report is None:
        return 1
    for each in report.restores:
        print(
            f"restore                      took back {each.taken_back} acknowledged edits, {each.held_alone} of them held by "
            f"instances alone; in the log again after {each.seconds:.2f} s"
        )
    report.verdict.print()
    return 0 if report.verdict.holds else 1
