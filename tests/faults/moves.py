"""Stock clients of three generations on each of three instances edit one course, go offline, and move between the instances.

In the end all hold the same, and so does what a fresh process exports from the log.
"""

import argparse
import asyncio
import contextlib
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cluster import Course
from tests.conformance.node_client import DriverError, NodeDriver, YjsClient
from tests.faults.world import World, open_world, run_in_folder
from tests.proxy import TcpProxy
from tests.server_process import HOST, REPOSITORY

INSTANCES: Final = 3
VERSIONS: Final = ("1", "2", "3")
SETTLE_SECONDS: Final = 60.0
EXPORT_SECONDS: Final = 60.0
LONGEST_PAUSE: Final = 0.03  # seconds between two steps
STEPS: Final = {"edit": 16, "go offline": 2, "come back": 4, "move": 2, "cut": 1}
"""How often each step is taken, as weights."""
_EDIT: Final = """
(client, doc, Y, { kind, place, name, value }) => {
  const body = doc.getText('body'), list = doc.getArray('list'), nodes = doc.getMap('nodes'), latest = doc.getMap('latest')
  const at = length => Math.floor(place * length)
  if (kind === 0) body.insert(at(body.length), value)
  if (kind === 1 && body.length) body.delete(at(body.length), 1)
  if (kind === 2) list.insert(at(list.length), [value])
  if (kind === 3 && list.length) list.delete(at(list.length), 1)
  if (kind === 4) latest.set(name, value)
  if (kind === 5) latest.delete(name)
  if (kind === 6 && !nodes.has(name)) nodes.set(name, new Y.Map([['title', new Y.Text(value)], ['life', 1]]))
  if (kind === 7) nodes.get(name)?.get('title').insert(0, value)
  if (kind === 8) nodes.delete(name)
  if (kind === 9) body.format(at(body.length), 1, { bold: value.length % 2 ? true : null })
}
"""
_KINDS: Final = 10
_HOLDS: Final = """
(client, { update }, clients, same) => {
  const fresh = new client.Y.Doc()
  client.Y.applyUpdate(fresh, update)
  return same(client.doc, fresh)
}
"""


@dataclass(frozen=True, slots=True)
class MovesReport:
    """taken: steps by name. sockets: that the clients opened. seconds: from the last step until all were equal, for each round."""

    taken: dict[str, int]
    sockets: int
    seconds: Sequence[float]
    faults: Sequence[str]


@dataclass(slots=True)
class _Seat:
    """A client and the line that leads it to an instance. is_away: it was told to disconnect."""

    client: YjsClient
    line: TcpProxy
    target: list[int]
    is_away: bool = False


async def move_about(folder: Path, *, rounds: int, steps: int, seed: int) -> MovesReport:
    """Take so many random steps in each round, on a course of its own, and compare everybody at its end."""
    randomness, seconds, faults = random.Random(seed), list[float](), list[str]()
    taken, sockets = dict.fromkeys(STEPS, 0), 0
    async with open_world(folder, instances=INSTANCES, courses=rounds) as world:
        for course in world.courses:
            async with _seats(world, course) as seats:
                for _ in range(steps):
                    step = randomness.choices(list(STEPS), list(STEPS.values()))[0]
                    await _take(step, randomness.choice(seats), world.cluster.ports, randomness)
                    taken[step] += 1
                    await asyncio.sleep(randomness.uniform(0, LONGEST_PAUSE))
                started = time.monotonic()
                try:
                    await _compare(seats, world, course, folder / f"{course.id}.update")
                except DriverError as difference:
                    faults.append(str(difference))
                seconds.append(time.monotonic() - started)
                faults += await seats[0].client.driver.complaints()
                for seat in seats:
                    sockets += (await seat.client.report())["sockets"]
    return MovesReport(taken, sockets, seconds, faults)


@contextlib.asynccontextmanager
async def _seats(world: World, course: Course) -> AsyncIterator[Sequence[_Seat]]:
    """Yield a synced client of every generation on every instance, each with a line of its own."""
    driver = NodeDriver()
    await driver.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(driver.stop)
        seats = []
        for number, version in enumerate(VERSIONS * INSTANCES):
            target = [world.cluster.ports[number // len(VERSIONS)]]
            line = await stack.enter_async_context(TcpProxy(target.copy))
            options = {
                "version": version,
                "url": f"ws://{HOST}:{line.port}/sync",
                "room": course.id,
                "params": {"token": course.token, "ack": "seq"},
            }
            seats.append(_Seat(await driver.open(f"client{number}", options), line, target))
        for seat in seats:
            await seat.client.synced()
        yield seats


async def _take(step: str, seat: _Seat, ports: Sequence[int], randomness: random.Random) -> None:
    if step == "edit":
        await seat.client.run(
            _EDIT,
            kind=randomness.randrange(_KINDS),
            place=randomness.random(),
            name=f"n{randomness.randrange(8)}",
            # No surrogate pairs: Yjs spoils one in its own document alone when it formats half of it to no effect.
            value="".join(randomness.choices("abcé ", k=randomness.randint(1, 12))),
        )
    elif step == "go offline" and not seat.is_away:
        seat.is_away = True
        await seat.client.disconnect()
    elif step == "come back" and seat.is_away:
        seat.is_away = False
        await seat.client.connect()
    elif step == "move":
        seat.target[0] = randomness.choice([port for port in ports if port != seat.target[0]])
        seat.line.cut()
    elif step == "cut":
        await seat.client.cut()


async def _compare(seats: Sequence[_Seat], world: World, course: Course, file: Path) -> None:
    """Have all come back; wait until all are saved and equal, and what a fresh process exports, too. Raises DriverError."""
    for seat in seats:
        if seat.is_away:
            await seat.client.connect()
    for seat in seats:
        await seat.client.saved(SETTLE_SECONDS)
    first, *others = (seat.client for seat in seats)
    await first.same_as(*others, timeout=SETTLE_SECONDS)
    await _export(world.cluster.database_url, course.id, file)
    await first.wait(_HOLDS, update=file.read_bytes(), timeout=1)


async def _export(database_url: str, course: str, file: Path) -> None:
    """Write what the log holds, as an operator does."""
    command = [sys.executable, "-m", "constructure_sync.cli", "export", course, "--output", str(file)]
    environment = {"CONSTRUCTURE_DATABASE_URL": database_url, "CONSTRUCTURE_SECRET_KEY": "x" * 32}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, env=os.environ | environment, stdout=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(EXPORT_SECONDS):
        if await process.wait():
            raise DriverError("the log cannot be exported")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--count", type=int, default=5, help="rounds, each on a course of its own")
    parser.add_argument("--steps", type=int, default=1_000, help="random steps in each round")


def run(arguments: argparse.Namespace) -> int:
    """Run and print the figures."""
    report = run_in_folder(
        lambda folder: move_about(folder, rounds=arguments.count, steps=arguments.steps, seed=arguments.seed)
    )
    if report is None:
        return 1
    print(f"rounds                       {len(report.seconds)}, of nine clients each")
    print(f"steps                        {', '.join(f'{name} {count}' for name, count in report.taken.items())}")
    print(f"sockets opened               {report.sockets}")
    print(f"seconds until all equal      longest {max(report.seconds):.2f}, with the export from the log")
    for fault in report.faults:
        print(f"FAULT: {fault[:2000]}")
    return 1 if report.faults else 0
