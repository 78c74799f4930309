"""Restore an older copy of the database under running instances: what any instance or client held is in the log again (R9).

Some clients leave before a restore and stay away until the end: what they wrote is then held by the rooms of the instances only.
Every other time one instance is alone with the restored log until that is longer than the lost one was; the others have saved
what it never heard of, and Seqs alone would not tell them that it is gone.
"""

import argparse
import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
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
PER_INSTANCE: Final = 2  # clients of a course
EDITS_PER_CLIENT: Final = 3.0  # a second
OVERTAKING_EDITS: Final = 300.0  # a second
UNHEARD_SECONDS: Final = 0.7
LEAVING_EDITS: Final = 30.0  # a second, of those who leave
SETTINGS: Final = {"room_idle_seconds": "600", "segment_bytes": "16384"}

Edits = dict[str, set[str]]
"""Keys of edits, by course."""


@dataclass(frozen=True, slots=True)
class Restore:
    """One restore. is_overtaken: the restored log was longer than the lost one when the other instances saw it.

    taken_back: edits with a receipt that the restored copy does not hold. held_alone: how many of them were made by clients that
    had left. seconds: from the restored database's start until all of them were seen in the log again.
    """

    is_overtaken: bool
    taken_back: int
    held_alone: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RestoresReport:
    restores: Sequence[Restore]
    verdict: Verdict


async def suffer_restores(
    folder: Path, *, restores: int, writing: float, instances: int, courses: int, seed: int
) -> RestoresReport:
    """Restore older copies so many times, each after `writing` seconds of edits to some courses, while others have been left."""
    async with open_world(folder, instances=instances, courses=courses + restores, settings=SETTINGS) as world:
        run = _Restores(world, courses, writing, random.Random(seed))
        try:
            async with run.crowd.connected():
                async with run.crowd.writing(EDITS_PER_CLIENT * len(run.crowd.clients)):
                    for number, course in enumerate(world.courses[courses:]):
                        await run.copy()
                        await run.restore(course, is_overtaken=number % 2 == 0)
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
        self.crowd = gather_crowd(
            world.courses[:courses], PER_INSTANCE * len(world.cluster.ports), self._around, randomness
        )
        self._left: list[Crowd] = []

    async def copy(self) -> None:
        """Take a copy of the database as it is, in a short outage."""
        await asyncio.to_thread(self._world.postgres.stop)
        copy = await asyncio.to_thread(self._world.postgres.copy)
        self.copies.append((copy, self._acknowledged()))
        await asyncio.to_thread(self._world.postgres.start)

    async def restore(self, course: Course, *, is_overtaken: bool) -> None:
        """Have edits made, and a course left; then put one of the newest copies in the database's place; wait for what it lacks."""
        leaving = gather_crowd([course], len(self._world.cluster.ports), self._around, self._randomness)
        async with leaving.connected():
            async with leaving.writing(LEAVING_EDITS):
                await asyncio.sleep(self._writing)
            await leaving.settled(CATCH_UP_SECONDS)
        self._left.append(leaving)
        await self.crowd.caught_up(CATCH_UP_SECONDS)
        copy, held = self._randomness.choice(self.copies[-2:])
        async with self._alone() if is_overtaken else contextlib.nullcontext():
            lost_heads = self._heads()
            await asyncio.to_thread(self._world.postgres.kill)
            acknowledged = self._acknowledged()
            await asyncio.to_thread(self._world.postgres.take_data, copy)
            await asyncio.to_thread(self._world.postgres.start)
            started = time.monotonic()
            if is_overtaken:
                await self._overtake(lost_heads)
        await self._until_in_log(acknowledged)
        gone = {each: edits - held.get(each, set()) for each, edits in acknowledged.items()}
        alone = sum(len(gone[each.id]) for crowd in self._left for each in crowd.groups)
        self.done.append(Restore(is_overtaken, sum(map(len, gone.values())), alone, time.monotonic() - started))

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Have the first instance run alone, and not hear what the others have saved last."""
        _, *others = self._world.cluster.instances
        await asyncio.to_thread(self._world.valkey.pause)
        await asyncio.sleep(UNHEARD_SECONDS)
        for instance in others:
            os.kill(instance.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            await asyncio.to_thread(self._world.valkey.restart)
            for instance in others:
                os.kill(instance.pid, signal.SIGCONT)

    async def _overtake(self, lost: dict[str, int]) -> None:
        """Have the clients of the first instance write until the log of every course is longer than it was."""
        port = self._world.cluster.ports[0]
        clients = [client for client in self.crowd.clients if client.is_on(port)]
        courses = [course.id for course in self.crowd.groups]
        async with self.crowd.writing(OVERTAKING_EDITS, clients), asyncio.timeout(CATCH_UP_SECONDS):
            while True:
                heads = await asyncio.to_thread(self._heads)
                if all(heads[course] > lost[course] for course in courses):
                    return
                await asyncio.sleep(0.1)

    def _heads(self) -> dict[str, int]:
        """Return the head of every document's log, by the id of its course."""
        rows = self._world.postgres.sql("SELECT course_id, head_seq FROM documents")
        return {course: int(head) for course, _, head in (row.partition("|") for row in rows)}

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
    parser.add_argument("--instances", type=int, default=3, help="instances")
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
            instances=arguments.instances,
            courses=arguments.courses,
            writing=arguments.seconds,
            seed=arguments.seed,
        )
    )
    if report is None:
        return 1
    for each in report.restores:
        print(
            f"restore{', overtaken' if each.is_overtaken else '':21} took back {each.taken_back} acknowledged edits, "
            f"{each.held_alone} held by instances alone; in the log again after {each.seconds:.2f} s"
        )
    report.verdict.print()
    return 0 if report.verdict.holds else 1
