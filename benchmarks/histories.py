"""Long histories of a course, as three stock clients make them, and what stock Yjs needs to open what they come to."""

import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.wire import Absent, LoadFailed
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
from tests.faults.growth import EDIT, STATE
from tests.faults.node_process import NodeProcess
from tests.server_process import REPOSITORY

_OPENER: Final = Path(__file__).with_name("stock.mjs")
_BATCH: Final = 10_000
_OPEN_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class History:
    """Edits of three people: typing, properties, moves. state: what a stock document with garbage collection encodes of them."""

    updates: Sequence[bytes]
    state: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening took in a fresh process: seconds, and bytes by which it grew."""

    seconds: float
    memory: float


@functools.cache
def history_of(edits: int) -> History:
    """Return a history of so many edits, or a few more. Absent: Node or the packages of `make test` are not here."""
    if shutil.which("node") is None or not (REPOSITORY / "tests" / "conformance" / "node_modules").exists():
        raise Absent("Node and the packages of tests/conformance are needed; `make test` installs them")
    updates: list[bytes] = []
    with NodeProcess("growth.mjs") as node:
        while len(updates) < edits:
            asked = write_var_uint(EDIT) + write_var_uint(min(_BATCH, edits - len(updates)))
            reader = Reader(node.ask(asked))
            updates += [reader.read_var_bytes() for _ in range(reader.read_var_uint())]
        state = Reader(node.ask(write_var_uint(STATE))).read_var_bytes()
    return History(updates, state)


def opened_in_stock(updates: Sequence[bytes], same_as: Sequence[bytes] | None = None) -> Opened:
    """Return what stock Yjs needs to open a document of these updates. LoadFailed: the others make another document."""
    node = shutil.which("node")
    assert node is not None
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "updates", Path(folder) / "others"]
        for file, listed in zip(files, (updates, same_as or ()), strict=True):
            file.write_bytes(b"".join(map(var_bytes, listed)))
        command = [node, str(_OPENER), *map(str, files if same_as else files[:1])]
        printed = subprocess.run(command, check=True, capture_output=True, timeout=_OPEN_SECONDS).stdout
    told = json.loads(printed)
    if not told["same"]:
        raise LoadFailed("the course came back as another one")
    return Opened(told["seconds"], told["memory"])
