"""Sockets that stop reading during a steady broadcast cost little and hold up nobody (R4); those that come back catch up.

A writer sends updates at a steady rate. Many sockets stop reading. Half of them read on after a while and must end with
everything; the others never do, and are closed when no byte of them has moved for so long.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import Reader, var_bytes
from constructure_sync.protocol.update_reader import BINARY
from tests.hostile.line import Line
from tests.hostile.memory import resident_bytes
from tests.hostile.room import metric, sync_path
from tests.server_process import ServerProcess
from tests.unit.protocol.updates import item, section, update

MOST_GROWTH: Final = 64 * 1024 * 1024
UPDATE_BYTES: Final = 8 * 1024
RECEIVE_BUFFER: Final = 64 * 1024
WATCH_SECONDS: Final = 10.0
WRITER: Final = 901


@dataclass(frozen=True, slots=True)
class Plan:
    """sockets: that stop reading; seconds: of the broadcast; base_seconds: of broadcast before anybody stops.

    resume_seconds: after which every second one reads on; stuck_seconds: as the server is set; rate: bytes per second.
    """

    sockets: int = 100
    seconds: float = 60.0
    base_seconds: float = 10.0
    resume_seconds: float = 10.0
    stuck_seconds: float = 30.0
    rate: float = 400_000.0
    others: int = 10


@dataclass(slots=True)
class Outcome:
    """base, during: latencies of the other clients, in seconds; growth: of the server's memory, in bytes."""

    base: list[float] = field(default_factory=list)
    during: list[float] = field(default_factory=list)
    growth: int = 0
    sent: int = 0
    converged: int = 0
    closed: int = 0
    others_whole: int = 0


class _Broadcast:
    """One writer and when each of its updates left."""

    def __init__(self, line: Line, rate: float) -> None:
        self.line = line
        self._interval = UPDATE_BYTES / rate
        self.sent_at: list[float] = []

    async def run(self, seconds: float) -> None:
        """Write at the rate for so long."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        end = due + seconds
        while due < end:
            await asyncio.sleep(max(0.0, due - loop.time()))
            clock = len(self.sent_at)
            self.sent_at.append(loop.time())
            self.line.update(self._update(clock))
            due += self._interval

    @staticmethod
    def _update(clock: int) -> bytes:
        """Binary content takes one clock whatever its size, so the clock counts the updates."""
        origin = (WRITER, clock - 1) if clock else None
        return update(section(WRITER, clock, item(BINARY, var_bytes(bytes(UPDATE_BYTES)), origin)))


class _Reader:
    """A line that checks what it is sent: every update once, in order, or at least all of them in the end."""

    def __init__(self, latencies: list[float] | None, broadcast: _Broadcast | None) -> None:
        self.known = Known()
        self.line: Line | None = None
        self.latencies = latencies
        self._broadcast = broadcast

    @property
    def opened(self) -> Line:
        assert self.line is not None
        return self.line

    def take(self, message: bytes) -> None:
        """Take one message."""
        if message[:2] not in (b"\x00\x01", b"\x00\x02"):
            return
        part = self.known.close(Reader(message, 2).read_var_bytes())
        if part.missing:
            raise AssertionError("an update came before what it needs")
        self.known.add(part)
        if self.latencies is None or self._broadcast is None:
            return
        now = asyncio.get_running_loop().time()
        for client, start, end in part.ranges:
            if client == WRITER:
                self.latencies += [now - self._broadcast.sent_at[clock] for clock in range(start, end)]

    @property
    def count(self) -> int:
        """How many of the writer's updates have come."""
        return self.known.clocks.get(WRITER, 0)


async def broadcast(server: ServerProcess, plan: Plan) -> Outcome:
    """Play the plan against a running server."""
    owner = server.register("owner")
    course = server.create_course(owner)
    path = sync_path(course, server.connect(owner, course))
    outcome = Outcome()
    writing = _Broadcast(await Line.open(server.port, path), plan.rate)
    others = [await _join(server, path, _Reader(outcome.base, writing)) for _ in range(plan.others)]
    slow = [await _join(server, path, _Reader(None, None), RECEIVE_BUFFER) for _ in range(plan.sockets)]
    before = resident_bytes(server.pid)
    await writing.run(plan.base_seconds)
    for other in others:
        other.latencies = outcome.during
    for reader in slow:
        reader.opened.transport.pause_reading()
    returning, gone = slow[::2], slow[1::2]
    asyncio.get_running_loop().call_later(plan.resume_seconds, _read_on, returning)
    peak = asyncio.create_task(_peak(server.pid, before))
    await writing.run(plan.seconds)
    outcome.sent = len(writing.sent_at)
    outcome.converged = await _all(returning, lambda reader: reader.count == outcome.sent, plan.seconds)
    outcome.others_whole = await _all(others, lambda reader: reader.count == outcome.sent, plan.seconds)
    outcome.closed = await _closed(server, len(returning) + len(others) + 1, len(gone), plan)
    peak.cancel()
    outcome.growth = max(resident_bytes(server.pid) - before, await peak)
    for line in (writing.line, *(reader.opened for reader in (*others, *slow))):
        await line.leave()
    return outcome


async def _join(server: ServerProcess, path: str, reader: _Reader, receive_buffer: int = 0) -> _Reader:
    reader.line = await Line.open(server.port, path, on_message=reader.take, receive_buffer=receive_buffer)
    reader.line.ask()
    return reader


def _read_on(readers: Sequence[_Reader]) -> None:
    for reader in readers:
        reader.opened.transport.resume_reading()


async def _all(readers: Sequence[_Reader], done: Callable[[_Reader], bool], seconds: float) -> int:
    """Wait until it is so of all, or for so long; return of how many."""
    with suppress(TimeoutError):
        for reader in readers:
            await reader.opened.until(lambda reader=reader: done(reader) or reader.opened.has_ended, seconds)  # type: ignore[misc]
    return sum(map(done, readers))


async def _closed(server: ServerProcess, staying: int, expected: int, plan: Plan) -> int:
    """Wait until the server holds only the lines that stay; return how many others it has closed."""
    deadline = time.monotonic() + plan.stuck_seconds + 2 * WATCH_SECONDS
    while True:
        held = int(metric(server, "websocket_connections_active", family="sync"))
        if held <= staying or time.monotonic() > deadline:
            return staying + expected - held
        await asyncio.sleep(0.2)


async def _peak(pid: int, before: int) -> int:
    """Watch the memory until cancelled; return its highest growth."""
    highest = 0
    try:
        while True:
            highest = max(highest, resident_bytes(pid) - before)
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        return highest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many stop reading, and for how long the broadcast goes on."""
    parser.add_argument("--sockets", type=int, default=100, help="sockets that stop reading")
    parser.add_argument("--seconds", type=float, default=60, help="length of the broadcast, in seconds")
    parser.add_argument("--rate", type=float, default=400_000, help="bytes per second of updates")


def run(arguments: argparse.Namespace) -> int:
    """Broadcast from a server of its own, and print what it cost whom."""
    plan = Plan(sockets=arguments.sockets, seconds=arguments.seconds, rate=arguments.rate)
    with tempfile.TemporaryDirectory() as folder, ServerProcess(Path(folder)) as server:
        outcome = asyncio.run(broadcast(server, plan))
        faults = [line for line in server.output.splitlines() if "Traceback" in line]
    base, during = percentile(outcome.base, 0.99), percentile(outcome.during, 0.99)
    returning = len(range(0, plan.sockets, 2))
    print(
        f"{outcome.sent} updates of {UPDATE_BYTES} bytes; {outcome.converged} of {returning} came back and have all; "
        f"{outcome.closed} of {plan.sockets - returning} that did not were closed"
    )
    print(
        f"memory {outcome.growth / 2**20:+.1f} MiB at most, of which the document itself is "
        f"{outcome.sent * UPDATE_BYTES / 2**20:.1f}; p99 of the others {during * 1000:.1f} ms, "
        f"{during / base:.2f} times their base of {base * 1000:.1f} ms"
    )
    return 0 if held(plan, outcome) and not faults else 1


def held(plan: Plan, outcome: Outcome) -> bool:
    """Whether everybody got what was due to them, within the memory."""
    returning = len(range(0, plan.sockets, 2))
    return (
        outcome.converged == returning
        and outcome.closed == plan.sockets - returning
        and outcome.others_whole == plan.others
        and outcome.growth <= MOST_GROWTH
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of them lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]
