"""SIGKILL a real server again and again while clients write: no acknowledged edit may be missing (R1, R7, R11).

After every kill a fresh process reads the log as the killed server left it, before any client reconnects, and stock Yjs opens
it. Half of the courses' writers never leave; the other course is visited, so it is closed and compacted all the time and kills
strike there too.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from tests.faults.writer import Writer, write_while_it_serves
from tests.server_process import REPOSITORY, ServerProcess

READER: Final = Path(__file__).with_name("read_log.mjs")
SETTINGS: Final = {"room_idle_seconds": "0.02", "segment_bytes": "16384", "log_level": "WARNING"}
STAYING, VISITING = 5, 2
WINDOW: Final = 24
VISIT_EDITS: Final = 80
STAYING_PAUSE, VISITING_PAUSE = 0.02, 0.4  # seconds between two connections, at most
SHORT_LIFE, LONG_LIFE = (0.05, 1.0), (1.0, 4.0)  # seconds from ready to the kill
LONG_LIFE_EACH: Final = 3  # workers need a second to start, so a short life sees no compaction
PROGRESS_SECONDS: Final = 60.0
READ_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Group:
    """The writers of one course. edits: how many they make in a visit; None: they stay. pause: between two visits."""

    course: str
    url: str
    writers: tuple[Writer, ...]
    edits: int | None
    pause: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What stock Yjs made of a course's log. kind: `opened` or `raw`, see `read_log`. pending: see `read_log.mjs`."""

    course: str
    kind: str
    count: int
    pending: int | None
    edits: frozenset[str]


@dataclass(frozen=True, slots=True)
class KillReport:
    """What a kill loop found.

    in_flight: edits without a receipt at each kill. lost: edits with a receipt that are gone. faults: what else was wrong.
    rows: saved updates of the visited course at the end, and pieces: what opening it reads instead of them.
    """

    acknowledged: int
    in_flight: tuple[int, ...]
    lost: tuple[str, ...]
    faults: tuple[str, ...]
    rows: int
    pieces: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was lost or wrong, and every kill could have lost something."""
        return not self.lost and not self.faults and min(self.in_flight) > 0


class Losses(Exception):
    """Acknowledged edits are missing, or the log is not whole."""

    def __init__(self, lost: Sequence[str], faults: Sequence[str]) -> None:
        super().__init__(*lost, *faults)
        self.lost = tuple(lost)
        self.faults = tuple(faults)


async def kill_loop(folder: Path, *, kills: int, edits: int, seed: int) -> KillReport:
    """Kill the server `kills` times, spread over at least `edits` acknowledged edits. Ends at the first loss."""
    started, randomness, in_flight = time.monotonic(), random.Random(seed), list[int]()
    server, found, readings = ServerProcess(folder, SETTINGS), Losses((), ()), list[Reading]()
    await asyncio.to_thread(server.start)
    try:
        groups = await asyncio.to_thread(_open_courses, server, randomness)
        writers = [writer for group in groups for writer in group.writers]
        for kill in range(1, kills + 1):
            share = edits * kill // kills
            async with _writing(groups):
                await asyncio.sleep(randomness.uniform(*(SHORT_LIFE if kill % LONG_LIFE_EACH else LONG_LIFE)))
                await _until(partial(_can_be_killed, writers, share))
                await asyncio.to_thread(server.kill)
                await _until(lambda: not any(writer.is_connected for writer in writers))
            in_flight.append(_in_flight(writers))
            copy_log(server.data_dir, folder / "copy")
            # The copy is read while the server recovers the original; no client is there before both are done.
            _, readings = await asyncio.gather(asyncio.to_thread(server.start), check_log(folder / "copy", groups))
        for group in groups:  # everybody comes back once more and gives what is not saved yet
            await asyncio.gather(*(writer.write(group.url, edits=0) for writer in group.writers))
        await asyncio.to_thread(server.stop)
        copy_log(server.data_dir, folder / "copy")
        readings = await check_log(folder / "copy", groups)
    except Losses as losses:
        found = losses
    finally:
        await asyncio.to_thread(server.kill)
    visited = {reading.kind: reading.count for reading in readings if reading.course == groups[-1].course}
    return KillReport(
        _acknowledged(writers),
        tuple(in_flight),
        found.lost,
        found.faults,
        visited.get("raw", 0),
        visited.get("opened", 0),
        time.monotonic() - started,
    )


def _open_courses(server: ServerProcess, randomness: random.Random) -> list[Group]:
    account = server.register("writer")
    groups = []
    kinds = (("staying", STAYING, None, STAYING_PAUSE), ("visiting", VISITING, VISIT_EDITS, VISITING_PAUSE))
    for name, size, edits, pause in kinds:
        course = server.create_course(account, name)
        access = server.connect(account, course)
        writers = [Writer(f"{name}{n}", random.Random(randomness.random()), window=WINDOW) for n in range(size)]
        url = f"{access.url}/{course}?token={access.token}&ack=seq"
        groups.append(Group(course, url, tuple(writers), edits, pause))
    return groups


@asynccontextmanager
async def _writing(groups: Sequence[Group]) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(write_while_it_serves(writer, group.url, edits=group.edits, pause=group.pause))
            for group in groups
            for writer in group.writers
        ]
        yield
        for task in running:
            task.cancel()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PROGRESS_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


def _can_be_killed(writers: Sequence[Writer], acknowledged: int) -> bool:
    """Whether so much was acknowledged in all, and a kill could lose something that was not."""
    return _acknowledged(writers) >= acknowledged and _in_flight(writers) > 0


def _acknowledged(writers: Sequence[Writer]) -> int:
    return sum(writer.acknowledged for writer in writers)


def _in_flight(writers: Sequence[Writer]) -> int:
    return sum(writer.in_flight for writer in writers)


def copy_log(data_dir: Path, copy: Path) -> None:
    """Copy the database as it lies there, without opening it."""
    copy.mkdir()
    for file in data_dir.glob("constructure.db*"):
        if not file.name.endswith("-shm"):  # an index of the -wal, rebuilt by whoever opens it first
            shutil.copy(file, copy)


async def check_log(copy: Path, groups: Sequence[Group]) -> list[Reading]:
    """Have fresh processes read a copy of the log, and remove it.

    Raises Losses where an acknowledged edit is missing or anything is pending.
    """
    try:
        courses = [group.course for group in groups]
        address = f"sqlite:///{copy / 'constructure.db'}"
        log = await _output(sys.executable, "-m", "tests.faults.read_log", address, *courses, given=b"")
        readings = [_reading(line) for line in (await _output("node", str(READER), given=log)).splitlines()]
    finally:
        shutil.rmtree(copy)
    by_course = {group.course: group for group in groups}
    faults = [
        f"{each.kind} update {each.pending} of {each.course} loads with something pending"
        for each in readings
        if each.pending is not None
    ]
    lost = [edit for each in readings for edit in _acknowledged_edits(by_course[each.course]) - each.edits]
    if lost or faults or len(readings) != 2 * len(groups):
        raise Losses(sorted(set(lost)), faults)
    return readings


def _acknowledged_edits(group: Group) -> set[str]:
    return {f"{writer.name}.{n}" for writer in group.writers for n in range(1, writer.acknowledged + 1)}


def _reading(line: bytes) -> Reading:
    found = json.loads(line)
    return Reading(found["course"], found["kind"], found["count"], found["pending"], frozenset(found["edits"]))


async def _output(*command: str, given: bytes) -> bytes:
    """Run a program to its end and return what it printed. Raises Losses when it fails: it could not read the log."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(READ_SECONDS):
        printed, errors = await process.communicate(given)
    if process.returncode:
        raise Losses((), [errors.decode(errors="replace")[-2000:]])
    return printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--count", type=int, default=100, help="how often the server is killed")
    parser.add_argument("--edits", type=int, default=20_000, help="acknowledged edits to reach at least")


def run(arguments: argparse.Namespace) -> int:
    """Run the loop and print its figures."""
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(kill_loop(Path(folder), kills=arguments.count, edits=arguments.edits, seed=arguments.seed))
    print(f"kills                        {len(report.in_flight)}")
    print(f"acknowledged edits           {report.acknowledged}")
    print(f"unacknowledged at the kills  min {min(report.in_flight)}, mean {fmean(report.in_flight):.1f}")
    print(f"acknowledged and lost        {len(report.lost)} {' '.join(report.lost[:20])}")
    print(f"visited course               {report.rows} saved updates, opened as {report.pieces} pieces")
    print(f"seconds                      {report.seconds:.0f}")
    for fault in report.faults:
        print(f"FAULT: {fault}")
    return 0 if report.holds else 1
