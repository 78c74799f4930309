"""Harm Redis under three instances: it restarts, is flushed, loses messages, and is cut off. Saving goes on, and all catch up (R6).

To some courses is written all the time; to the others only until shortly before each fault's end, so that no later message tells
an instance of the last edits it missed.
"""

import argparse
import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.crowd import Crowd, gather_crowd, going_round
from tests.faults.verdict import Verdict, check_limit, judge
from tests.faults.world import World, open_world, run_in_folder

HEALING_LIMIT: Final = 5.0
CATCH_UP_SECONDS: Final = 60.0
RESTART_SECONDS: Final = 1.0
QUIET_SECONDS: Final = 0.5
LOSS: Final = 0.3
INSTANCES: Final = 3
PER_COURSE: Final = 2 * INSTANCES
EDITS_PER_CLIENT: Final = 3.0  # a second


@dataclass(frozen=True, slots=True)
class Event:
    """One fault. made: edits made meanwhile. seconds: from its end until all of them were acknowledged and with everybody."""

    what: str
    made: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BusReport:
    """lost, passed: messages that the lines to Redis lost, and delivered."""

    events: Sequence[Event]
    lost: int
    passed: int
    verdict: Verdict


async def harm_bus(folder: Path, *, events: int, seconds: float, courses: int, seed: int) -> BusReport:
    """Let so many faults happen, one after the other. seconds: how long messages are lost, and an instance is cut off."""
    randomness = random.Random(seed)
    async with open_world(folder, instances=INSTANCES, courses=max(2, courses), bus_randomness=randomness) as world:
        crowd = gather_crowd(world.courses, PER_COURSE, going_round(world.cluster.ports), randomness)
        harm = _Harm(world, crowd, randomness, seconds)
        kinds = {
            "restart": harm.restart,
            "flush": harm.flush,
            f"{LOSS:.0%} loss": harm.lose,
            "an instance cut off": harm.cut_off,
        }
        done = list[Event]()
        async with crowd.connected():
            busy = crowd.clients[: len(crowd.clients) // 2]
            async with crowd.writing(EDITS_PER_CLIENT * len(busy), busy):
                for number in range(events):
                    what, happen = list(kinds.items())[number % len(kinds)]
                    before = sum(client.made for client in crowd.clients)
                    await happen()
                    made = sum(client.made for client in crowd.clients) - before
                    done.append(Event(what, made, await crowd.caught_up(CATCH_UP_SECONDS)))
            late = check_limit("caught up after a fault", [event.seconds for event in done], HEALING_LIMIT)
            verdict = await judge(crowd, world.cluster.database_url, CATCH_UP_SECONDS, late=late)
    lines = world.bus_lines
    return BusReport(done, sum(line.lost for line in lines), sum(line.passed for line in lines), verdict)


class _Harm:
    """The faults. Each returns at the moment at which it is over."""

    def __init__(self, world: World, crowd: Crowd, randomness: random.Random, seconds: float) -> None:
        self._world = world
        self._crowd = crowd
        self._randomness = randomness
        self._seconds = seconds

    async def restart(self) -> None:
        """Kill Redis, and start it a moment later."""
        await asyncio.to_thread(self._world.valkey.kill)
        await self._meanwhile(RESTART_SECONDS)
        await asyncio.to_thread(self._world.valkey.start)

    async def flush(self) -> None:
        """Have Redis forget everything, and break the connections that listen, as a failover does."""
        await self._meanwhile(RESTART_SECONDS)
        await asyncio.to_thread(self._world.valkey.flush)
        await asyncio.to_thread(self._world.valkey.kill_clients)

    async def lose(self) -> None:
        """Lose a share of all messages for a while."""
        for line in self._world.bus_lines:
            line.loss = LOSS
        await self._meanwhile(self._seconds * self._randomness.uniform(1.0, 1.5))
        for line in self._world.bus_lines:
            line.loss = 0

    async def cut_off(self) -> None:
        """Let nothing through between one instance and Redis for a while; its connections stay open."""
        line = self._randomness.choice(self._world.bus_lines)
        line.hold()
        await self._meanwhile(self._seconds * self._randomness.uniform(1.0, 1.5))
        line.release()

    async def _meanwhile(self, seconds: float) -> None:
        """Let time pass, and have the quiet courses written to until shortly before its end. Saving does not need Redis."""
        quiet = self._crowd.clients[len(self._crowd.clients) // 2 :]
        async with self._crowd.writing(EDITS_PER_CLIENT * len(quiet), quiet):
            await asyncio.sleep(seconds - QUIET_SECONDS)
        await asyncio.gather(self._crowd.acknowledges(CATCH_UP_SECONDS), asyncio.sleep(QUIET_SECONDS))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--count", type=int, default=10, help="faults: restart, flush, loss and cut-off in turn")
    parser.add_argument("--seconds", type=float, default=10, help="of each loss and cut-off, at least")
    parser.add_argument("--courses", type=int, default=4, help="courses, each with two light clients on every instance")


def run(arguments: argparse.Namespace) -> int:
    """Run and print the figures."""
    report = run_in_folder(
        lambda folder: harm_bus(
            folder,
            events=arguments.count,
            seconds=arguments.seconds,
            courses=arguments.courses,
            seed=arguments.seed,
        )
    )
    if report is None:
        return 1
    for event in report.events:
        print(f"{event.what:28} {event.made} edits meanwhile; caught up {event.seconds:.2f} s after its end")
    print(f"messages on the lines        {report.lost} lost, {report.passed} delivered")
    report.verdict.print()
    return 0 if report.verdict.holds else 1
