"""Workers are kept alive, replaced one after another, and ended in order; what cannot be kept alive is given up."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from constructure_sync.settings import Settings, SettingsError
from constructure_sync.supervisor import Pace, Supervisor, WorkersFailed, bind, check_workers

FAKE_WORKER = Path(__file__).with_name("fake_worker.py")
DEADLINE = 20.0
QUICK = Pace(start=10.0, stop=10.0, lasting=30.0, attempts=3, first_delay=0.01, max_delay=0.02)


class Stage:
    """A supervisor that runs over fake workers. announced: how often it said that all are ready."""

    def __init__(self, folder: Path, behaviour: str, count: int, pace: Pace) -> None:
        self._notes = folder / "notes"
        self._notes.touch()
        self.announced = 0
        command = [sys.executable, str(FAKE_WORKER), behaviour, str(self._notes)]
        self._supervisor = Supervisor(count, command, 0, folder, self._announce, pace)
        self.run = asyncio.create_task(self._supervisor.run())

    def _announce(self) -> None:
        self.announced += 1

    def notes(self, event: str = "") -> list[tuple[str, int]]:
        """What happened to which process, in order."""
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        return [(line[0], int(line[1])) for line in lines if event in ("", line[0])]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition():
                assert not self.run.done(), "the supervisor has ended"
                await asyncio.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        os.kill(os.getpid(), number)

    async def end(self) -> int:
        async with asyncio.timeout(DEADLINE):
            return await self.run


@asynccontextmanager
async def supervised(
    folder: Path, behaviour: str = "serve", count: int = 2, pace: Pace = QUICK
) -> AsyncIterator[Stage]:
    stage = Stage(folder, behaviour, count, pace)
    try:
        yield stage
    finally:
        stage.run.cancel()
        await asyncio.gather(stage.run, return_exceptions=True)
        for _, pid in stage.notes("started"):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_all_are_announced_once_and_end_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    async with supervised(tmp_path, count=3) as stage:
        await stage.until(lambda: stage.announced == 1)
        assert len(stage.notes("started")) == 3
        stage.send(number)
        assert await stage.end() == 0
        assert len(stage.notes(number.name)) == 3
        assert stage.announced == 1


async def test_a_worker_that_dies_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    async with supervised(tmp_path) as stage:
        await stage.until(lambda: stage.announced == 1)
        for deaths in range(1, 3):
            os.kill(stage.notes("started")[-1][1], signal.SIGKILL)
            await stage.until(lambda deaths=deaths: len(stage.notes("started")) == 2 + deaths)  # type: ignore[misc]
        stage.send(signal.SIGTERM)
        assert await stage.end() == 0
        assert ("SIGTERM", stage.notes("started")[0][1]) in stage.notes("SIGTERM")
        assert stage.announced == 1


@pytest.mark.parametrize(("behaviour", "tries"), [("die3", range(3, 7)), ("die2", range(1, 3))])
async def test_what_dies_again_and_again_is_given_up_with_its_own_words(
    tmp_path: Path, behaviour: str, tries: range
) -> None:
    async with supervised(tmp_path, behaviour) as stage:
        with pytest.raises(WorkersFailed, match="no such thing"):
            await stage.end()
        assert len(stage.notes("started")) in tries
        assert stage.announced == 0


async def test_when_all_is_given_up_the_others_are_ended_in_order(tmp_path: Path) -> None:
    async with supervised(tmp_path, "first2") as stage:
        await stage.until(lambda: stage.announced == 1)
        os.kill(stage.notes("started")[1][1], signal.SIGKILL)
        with pytest.raises(WorkersFailed, match="no such thing"):
            await stage.end()
        assert stage.notes("SIGTERM") == [("SIGTERM", stage.notes("started")[0][1])]


async def test_sighup_replaces_one_after_another_the_new_one_first(tmp_path: Path) -> None:
    async with supervised(tmp_path) as stage:
        await stage.until(lambda: stage.announced == 1)
        (_, a), (_, b) = stage.notes()
        stage.send(signal.SIGHUP)
        await stage.until(lambda: len(stage.notes("retired")) == 2)
        (_, c), (_, d) = stage.notes("started")[2:]
        first, second = (
            [("started", c), ("retiring", a), ("retired", a)],
            [("started", d), ("retiring", b), ("retired", b)],
        )
        assert stage.notes()[2:] == [*first, *second]
        stage.send(signal.SIGTERM)
        assert await stage.end() == 0
        assert {c, d} <= {pid for _, pid in stage.notes("SIGTERM")}
        assert stage.announced == 1


async def test_a_worker_stays_when_its_replacement_does_not_start(tmp_path: Path) -> None:
    async with supervised(tmp_path, "first2") as stage:
        await stage.until(lambda: stage.announced == 1)
        for rolls in range(1, 3):
            stage.send(signal.SIGHUP)
            await stage.until(lambda rolls=rolls: len(stage.notes("started")) == 2 + rolls)  # type: ignore[misc]
        stage.send(signal.SIGTERM)
        assert await stage.end() == 0
        assert not stage.notes("retired")
        assert {pid for _, pid in stage.notes("started")[:2]} <= {pid for _, pid in stage.notes("SIGTERM")}


async def test_a_second_signal_reaches_the_workers(tmp_path: Path) -> None:
    async with supervised(tmp_path, "stubborn") as stage:
        await stage.until(lambda: stage.announced == 1)
        stage.send(signal.SIGTERM)
        await stage.until(lambda: len(stage.notes("SIGTERM")) == 2)
        stage.send(signal.SIGINT)
        assert await stage.end() == 0
        assert len(stage.notes("SIGINT")) == 2


async def test_R13_a_worker_that_does_not_end_is_killed_and_the_status_says_so(tmp_path: Path) -> None:
    async with supervised(tmp_path, "deaf", pace=Pace(stop=0.2)) as stage:
        await stage.until(lambda: stage.announced == 1)
        stage.send(signal.SIGTERM)
        assert await stage.end() == 1


async def test_a_signal_ends_the_pause_before_a_replacement(tmp_path: Path) -> None:
    async with supervised(tmp_path, pace=Pace(first_delay=3600.0, max_delay=3600.0)) as stage:
        await stage.until(lambda: stage.announced == 1)
        with capture_logs() as logs:
            os.kill(stage.notes("started")[0][1], signal.SIGKILL)
            await stage.until(lambda: [line["event"] for line in logs] == ["worker_died"])
        stage.send(signal.SIGTERM)
        assert await stage.end() == 0
        assert len(stage.notes("started")) == 2


@pytest.mark.parametrize("is_first_ready", [False, True])
async def test_a_signal_during_the_start_ends_it(tmp_path: Path, is_first_ready: bool) -> None:
    async with supervised(tmp_path, count=8) as stage:
        if is_first_ready:
            await stage.until(lambda: len(stage.notes("started")) >= 2)
        else:
            await asyncio.sleep(0)
        stage.send(signal.SIGTERM)
        assert await stage.end() == 0
        assert stage.announced == 0


def test_several_workers_need_a_bus_between_them() -> None:
    with pytest.raises(SettingsError, match="CONSTRUCTURE_BUS_URL: 3 workers need"):
        check_workers(Settings(workers=3, bus_url="local:"))
    check_workers(Settings(workers=3, bus_url="redis://localhost"))


def test_a_port_is_shared_by_those_who_were_meant_to_share_it() -> None:
    reserved = bind("127.0.0.1", 0)
    port = reserved[0].getsockname()[1]
    with socket.create_server(("127.0.0.1", port), reuse_port=True), pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", port)
    for each in reserved:
        each.close()
