"""Mutated messages and raw frames through real sockets: the server lives, forgets them, and hardly pauses."""

import argparse
import asyncio
import random
import re
import struct
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from constructure_sync.protocol.lib0 import var_bytes, var_string
from constructure_sync.protocol.messages import sync_step1, sync_step2, update_message
from tests.faults.mutator import mutate
from tests.hostile.line import Line
from tests.hostile.memory import resident_bytes
from tests.hostile.room import sync_path
from tests.server_process import Account, ServerProcess
from tests.unit.protocol.golden import HISTORIES
from tests.unit.protocol.updates import uints
from tests.unit.transport.harness import BINARY, PING, client_frame

MOST_GROWTH: Final = 64 * 1024 * 1024
COURSES: Final = 32
PROBE_SECONDS: Final = 0.01
ANSWER_SECONDS: Final = 30.0
RAW_SECONDS: Final = 0.3
RAW_SHARE: Final = 0.25
WARM_UP: Final = 200
_FAULT: Final = re.compile(r"Traceback|PanicException|panicked|\"level\": ?\"(error|critical)\"")


@dataclass(slots=True)
class Outcome:
    """What was sent and what became of it. codes: of closes; pauses: answer times of the probe, in seconds."""

    sent: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    growth: int = 0
    faults: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    survived: bool = False

    @property
    def held(self) -> bool:
        return self.survived and not self.faults and self.growth <= MOST_GROWTH


def messages() -> list[bytes]:
    """Genuine messages of every kind, to be mutated."""
    updates = [update for history in HISTORIES for update in history.updates[:40]]
    state = uints(1, 7, 1) + var_string('{"user":{"name":"A","color":"#fff"},"cursor":{"x":1,"y":[2]}}')
    return [
        *map(update_message, updates),
        *(sync_step2(history.state) for history in HISTORIES),
        *(sync_step1(history.vector) for history in HISTORIES),
        *[b"\x01" + var_bytes(state)] * 20,
        b"\x03",
    ]


class _Probe:
    """Asks the server for its health again and again, in a process of its own, and notes how long each answer takes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.faults.probe",
            str(self._port),
            str(PROBE_SECONDS),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def stop(self) -> list[float]:
        assert self._process is not None
        told, _ = await self._process.communicate(b"\n")
        return list(struct.unpack(f"<{len(told) // 8}d", told))


class _Attack:
    """Many lines at once, each sending one mutated thing after the other, opened again whenever it is closed."""

    def __init__(self, server: ServerProcess, seed: int, count: int, lines: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._left = count
        self._lines = lines
        self._base = messages()
        self.outcome = Outcome()

    async def run(self, owner: Account) -> None:
        paths = []
        for _ in range(COURSES):
            course = self._server.create_course(owner)
            paths.append(sync_path(course, self._server.connect(owner, course)))
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._lines):
                tasks.create_task(self._attack(paths[number % COURSES]))

    async def _attack(self, path: str) -> None:
        line: Line | None = None
        while self._left > 0:
            self._left -= 1
            if line is None or line.has_ended:
                line = await Line.open(self._server.port, path)
            is_raw = self._random.random() < RAW_SHARE
            pongs = line.pongs
            line.send_frame(self._next(is_raw))
            line.send_frame(client_frame(PING))
            if not await _dealt_with(line, pongs, RAW_SECONDS if is_raw else ANSWER_SECONDS):
                if not is_raw:
                    self.outcome.faults.append("no answer to a message")
                await line.leave()
            self.outcome.sent += 1
            line.messages.clear()
            if line.has_ended and line.code is not None:
                self.outcome.codes[line.code] += 1
        if line is not None:
            await line.leave()

    def _next(self, is_raw: bool) -> bytes:
        message = self._random.choice(self._base)
        if is_raw:
            return mutate(client_frame(BINARY, message, mask=self._random.randbytes(4)), self._base, self._random)
        return client_frame(BINARY, mutate(message, self._base, self._random), mask=bytes(4))


async def _dealt_with(line: Line, pongs: int, seconds: float) -> bool:
    """Wait until the server has answered or closed; a frame that declares more than came rightly waits for the rest."""
    try:
        await line.until(lambda: line.has_ended or line.pongs > pongs, seconds)
    except TimeoutError:
        return False
    return True


async def attack(server: ServerProcess, seed: int, count: int, lines: int) -> Outcome:
    """Send so many mutated messages and frames over so many lines at once, and see what the server makes of it."""
    owner = server.register("owner")
    pid = server.pid
    await _Attack(server, seed + 1, WARM_UP, lines).run(owner)
    before = resident_bytes(pid)
    probe = _Probe(server.port)
    await probe.start()
    run = _Attack(server, seed, count, lines)
    await run.run(owner)
    outcome = run.outcome
    outcome.pauses = await probe.stop()
    outcome.growth = resident_bytes(pid) - before
    outcome.faults += [line for line in server.output.splitlines() if _FAULT.search(line)]
    server.call("GET", "/api/v1/me", token=owner.token)
    outcome.survived = server.pid == pid
    return outcome


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how much to send over how many lines."""
    parser.add_argument("--count", type=int, default=50_000, help="mutated messages and frames")
    parser.add_argument("--lines", type=int, default=64, help="connections at once")


def run(arguments: argparse.Namespace) -> int:
    """Attack a server of its own, and print what it did."""
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        ServerProcess(Path(folder), {"close_delay_seconds": "0", "access_token_minutes": "600"}) as server,
    ):
        outcome = asyncio.run(attack(server, arguments.seed, arguments.count, arguments.lines))
    pauses = sorted(outcome.pauses)
    for fault in outcome.faults[:10]:
        print(fault)
    print(f"{outcome.sent} sent over {arguments.lines} lines; closed: {dict(sorted(outcome.codes.items()))}")
    print(
        f"memory {outcome.growth / 2**20:+.1f} MiB; {len(pauses)} probes, longest pause {pauses[-1] * 1000:.0f} ms, "
        f"99.9 % within {pauses[int(len(pauses) * 0.999)] * 1000:.0f} ms; {len(outcome.faults)} faults in the log; "
        f"{'alive' if outcome.survived else 'DEAD'}, {time.monotonic() - started:.0f} s"
    )
    return 0 if outcome.held else 1
