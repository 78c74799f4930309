"""SIGKILL a real server again and again while clients write: no acknowledged edit may be missing (R1, R7, R11).

After every kill fresh processes read the log as the killed server left it, before any client reconnects, and stock Yjs opens it.
The writers of one course never leave; the other course is visited, so it is closed and compacted again and again, and kills
strike there too. Every few kills new courses are taken, so that reading them stays quick.
"""

import argparse
import asyncio
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Final

from tests.faults.log_check import Losses, Reading, check_copy, copy_log
from tests.faults.writer import Writer, write_while_it_serves
from tests.server_process import ServerProcess

SETTINGS: Final = {"room_idle_seconds": "0.02", "segment_bytes": "16384", "log_level": "WARNING"}
STAYING, VISITING = 5, 2
WINDOW: Final = 24
VISIT_EDITS: Final = 80
STAYING_PAUSE, VISITING_PAUSE = 0.02, 0.4  # seconds between two connections, at most
SHORT_LIFE, LONG_LIFE = (0.05, 1.0), (1.0, 4.0)  # seconds from ready to the kill
LONG_LIFE_EACH: Final = 3  # workers need a second to start, so a short life sees no compaction
KILLS_PER_COURSE: Final = 8
KILLS_PER_LINE: Final = 10
PROGRESS_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Group:
    """The writers of one course. edits: how many they make in a visit; None: they stay. pause: between two visits."""

    course: str
    url: str
    writers: tuple[Writer, ...]
    edits: int | None
    pause: float

    def acknowledged(self) -> set[str]:
        """Return the edits for which there was a receipt."""
        return {f"{writer.name}.{n}" for writer in self.writers for n in range(1, writer.acknowledged + 1)}


@dataclass(frozen=True, slots=True)
class KillReport:
    """What a kill loop found.

    in_flight: edits without a receipt at each kill. lost: edits with a receipt that are gone. faults: what else was wrong.
    rows: updates saved in all, and pieces: what opening the courses reads instead of them.
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


async def kill_loop(folder: Path, *, kills: int, edits: int, seed: int) -> KillReport:
    """Kill the server `kills` times, spread over at least `edits` acknowledged edits. Ends at the first loss."""
    loop, started, losses, readings = _KillLoop(folder, seed), time.monotonic(), Losses((), ()), list[Reading]()
    try:
        readings = await loop.run(kills, edits)
    except Losses as found:
        losses = found
    finally:
        await asyncio.to_thread(loop.server.kill)
    return KillReport(
        acknowledged=loop.acknowledged,
        in_flight=tuple(loop.in_flight),
        lost=losses.lost,
        faults=losses.faults,
        rows=sum(reading.count for reading in readings if reading.kind == "raw"),
        pieces=sum(reading.count for reading in readings if reading.kind == "opened"),
        seconds=time.monotonic() - started,
    )


class _KillLoop:
    """The server, its folder, and everybody who writes. in_flight: edits without a receipt at each kill."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.server = ServerProcess(folder, SETTINGS)
        self.in_flight: list[int] = []
        self._copy = folder / "copy"
        self._randomness = random.Random(seed)
        self._groups: list[Group] = []  # of the present courses
        self._earlier: list[Group] = []

    @property
    def acknowledged(self) -> int:
        """Edits with a receipt, in all."""
        return sum(writer.acknowledged for group in (*self._groups, *self._earlier) for writer in group.writers)

    async def run(self, kills: int, edits: int) -> list[Reading]:
        """Kill again and again, then read all courses. Raises Losses."""
        await asyncio.to_thread(self.server.start)
        for kill in range(1, kills + 1):
            if kill % KILLS_PER_COURSE == 1:
                await self._finish_courses()
                self._groups = await asyncio.to_thread(self._open_courses)
            async with self._writing():
                life = SHORT_LIFE if kill % LONG_LIFE_EACH else LONG_LIFE
                await asyncio.sleep(self._randomness.uniform(*life))
                await _until(partial(self._is_time, edits * kill // kills))
                await self._kill(at_receipt=kill % 2 == 0)
            self.in_flight.append(sum(writer.in_flight for writer in self._writers()))
            copy_log(self.server.data_dir, self._copy)
            # The copy is read while the server recovers the original; no client is there before both are done.
            restart = asyncio.create_task(asyncio.to_thread(self.server.start))
            try:
                await check_copy(self._copy, {group.course: group.acknowledged() for group in self._groups})
            finally:
                await restart
            if kill % KILLS_PER_LINE == 0:
                print(f"{kill} kills, {self.acknowledged} acknowledged edits, none lost", flush=True)
        await self._finish_courses()
        await asyncio.to_thread(self.server.stop)
        copy_log(self.server.data_dir, self._copy)
        return await check_copy(self._copy, {group.course: group.acknowledged() for group in self._earlier})

    def _writers(self) -> list[Writer]:
        return [writer for group in self._groups for writer in group.writers]

    def _is_time(self, acknowledged: int) -> bool:
        """Whether so much was acknowledged in all, and a kill could lose something that was not."""
        return self.acknowledged >= acknowledged and any(writer.in_flight for writer in self._writers())

    async def _kill(self, *, at_receipt: bool) -> None:
        """SIGKILL, at this moment or at the next receipt: if that came before the commit, the commit now never comes."""
        if at_receipt:
            killed = asyncio.Event()

            def kill() -> None:
                os.kill(self.server.pid, signal.SIGKILL)
                killed.set()
                for writer in self._writers():
                    writer.on_receipt = None

            for writer in self._writers():
                writer.on_receipt = kill
            async with asyncio.timeout(PROGRESS_SECONDS):
                await killed.wait()
        await asyncio.to_thread(self.server.kill)
        await _until(lambda: not any(writer.is_connected for writer in self._writers()))

    async def _finish_courses(self) -> None:
        """Have all writers come back once more and give what is not saved yet."""
        async with asyncio.timeout(PROGRESS_SECONDS):
            for group in self._groups:
                await asyncio.gather(*(writer.write(group.url, edits=0) for writer in group.writers))
        self._earlier, self._groups = self._earlier + self._groups, []

    def _open_courses(self) -> list[Group]:
        account = self.server.register("writer")
        groups = []
        kinds = (("staying", STAYING, None, STAYING_PAUSE), ("visiting", VISITING, VISIT_EDITS, VISITING_PAUSE))
        for name, size, edits, pause in kinds:
            course = self.server.create_course(account, name)
            access = self.server.connect(account, course)
            url = f"{access.url}/{course}?token={access.token}&ack=seq"
            seeds = [self._randomness.random() for _ in range(size)]
            writers = [Writer(f"{name}{n}", random.Random(seed), window=WINDOW) for n, seed in enumerate(seeds)]
            groups.append(Group(course, url, tuple(writers), edits, pause))
        return groups

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for group in self._groups:
                for writer in group.writers:
                    tasks.create_task(
                        write_while_it_serves(writer, group.url, stop, edits=group.edits, pause=group.pause)
                    )
            yield
            # The server is gone: a connection that is being made fails by itself, and is not left half made.
            stop.set()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PROGRESS_SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


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
    print(f"saved updates                {report.rows}, opened as {report.pieces} pieces")
    print(f"seconds                      {report.seconds:.0f}")
    for fault in report.faults:
        print(f"FAULT: {fault}")
    return 0 if report.holds else 1
