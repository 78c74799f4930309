"""The floor under every server: a broadcaster in C that does the system calls of the same load, and nothing else.

`floor_world` is a World like those of the servers; `broadcaster.c` says what it does. It writes no log and gives no receipts.
"""

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.servers import pin
from benchmarks.wire import Absent, LoadFailed
from tests.server_process import HOST, free_port

SOURCE: Final = Path(__file__).with_name("broadcaster.c")
_COMPILERS: Final = ("gcc", "cc", "clang")
_COMPILE_SECONDS: Final = 60.0
_START_SECONDS, _STOP_SECONDS = 10.0, 10.0


@dataclass(frozen=True, slots=True)
class FloorProcess:
    """A broadcaster that runs."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass(frozen=True, slots=True)
class FloorTarget:
    """The broadcaster under load."""

    process: FloorProcess
    rooms: int
    echoes: bool = False

    @property
    def instances(self) -> Sequence[FloorProcess]:
        return [self.process]

    def url(self, room: int, instance: int = 0) -> str:
        """Return where a client syncs a room."""
        return f"ws://{HOST}:{self.process.port}/room{room}"

    def urls(self) -> list[str]:
        """Return where fresh clients sync, by room."""
        return [self.url(room) for room in range(self.rooms)]


@contextlib.contextmanager
def floor_world(rooms: int) -> Iterator[FloorTarget]:
    """Yield the broadcaster with so many rooms, on the core that the servers have. Absent: no C compiler is here."""
    with tempfile.TemporaryDirectory() as folder, _running(_compiled(Path(folder))) as process:
        pin(process)
        yield FloorTarget(process, rooms)


def _compiled(folder: Path) -> Path:
    """Return the program, made in the folder."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise Absent("the C floor needs a C compiler, and there is none")
    program = folder / "broadcaster"
    made = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(SOURCE)],
        capture_output=True,
        text=True,
        timeout=_COMPILE_SECONDS,
        check=False,
    )
    if made.returncode:
        raise Absent(f"the C floor does not compile here: {made.stderr[-400:]}")
    return program


@contextlib.contextmanager
def _running(program: Path) -> Iterator[FloorProcess]:
    port = free_port()
    process = subprocess.Popen([str(program), str(port)], stdin=subprocess.DEVNULL)
    try:
        _await_answer(process, port)
        yield FloorProcess(process, port)
    finally:
        process.kill()  # it keeps nothing that an orderly end would save
        process.wait(_STOP_SECONDS)


def _await_answer(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
            return
        time.sleep(0.02)
    raise LoadFailed("the C floor did not start")
