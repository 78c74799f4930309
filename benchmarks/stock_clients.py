"""Stock y-websocket clients in Node processes that move their cursors, each as it is installed from the registry."""

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypedDict

import psutil  # type: ignore[import-untyped]

from benchmarks.wire import Absent, LoadFailed
from tests.server_process import REPOSITORY

_SCRIPT: Final = Path(__file__).with_name("presence.mjs")
_SETTLE_SECONDS: Final = 20.0
_STOP_SECONDS: Final = 10.0


class Seen(TypedDict):
    """What the clients of a process saw. made: own moves; delivered: states of others; delays: ms; sent: frames; took: bytes.

    moves: the number of the last move, by client id.
    """

    made: int
    delivered: int
    sent: int
    took: int
    delays: list[float]
    moves: dict[str, int]


class StockClients:
    """Clients in one room, over some processes. A context manager. Absent: Node or the packages of `make test` are not here."""

    def __init__(self, url: str, count: int, processes: int) -> None:
        node = shutil.which("node")
        if node is None or not (REPOSITORY / "tests" / "conformance" / "node_modules").exists():
            raise Absent("Node and the packages of tests/conformance are needed; `make test` installs them")
        if not url.startswith("ws"):
            raise Absent("y-websocket's clients do not speak this server's protocol")
        shares = [count // processes + (number < count % processes) for number in range(processes)]
        self._processes = [
            subprocess.Popen(
                [node, str(_SCRIPT), url, str(share)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for share in shares
        ]

    def __enter__(self) -> "StockClients":
        try:
            self._answers()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.communicate(timeout=_STOP_SECONDS)

    @property
    def cpu_seconds(self) -> float:
        """Processor time so far of all the processes."""
        return sum(sum(psutil.Process(process.pid).cpu_times()[:2]) for process in self._processes)

    def move(self, seconds: float, per_second: float) -> list[Seen]:
        """Have every client move so many times a second; return what each process saw."""
        self._ask({"move": seconds, "rate": per_second})
        return [json.loads(answer) for answer in self._answers()]

    def settle(self, seen: Sequence[Seen]) -> None:
        """Return when every client shows the last move of everybody. LoadFailed: it takes too long."""
        expected = {client: move for each in seen for client, move in each["moves"].items()}
        deadline = time.monotonic() + _SETTLE_SECONDS
        while True:
            self._ask({"shows": expected})
            if all(json.loads(answer) for answer in self._answers()):
                return
            if time.monotonic() > deadline:
                raise LoadFailed("a stock client does not show where the others are")
            time.sleep(0.1)

    def _ask(self, request: object) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()

    def _answers(self) -> list[str]:
        """Return one line of each process, which ends by itself when it takes far too long."""
        lines = []
        for process in self._processes:
            assert process.stdout is not None
            lines.append(process.stdout.readline())
        if not all(lines):
            raise LoadFailed("the stock clients have ended")
        return lines
