"""Editing traces and courses as the updates that stock Yjs makes of them, ready to be sent again by many writers.

The files lie in `../shared/data` beside the repository; their formats are told there.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.wire import Absent
from constructure_sync.protocol.lib0 import Reader, var_bytes
from tests.faults.node_process import NodeProcess
from tests.server_process import REPOSITORY

DATA: Final = REPOSITORY.parent / "shared" / "data"
_MAKER: Final = Path(__file__).with_name("scripts.mjs")
_SUFFIXES: Final = (".json.gz", ".json")

Content = Mapping[str, object]


class Step(NamedTuple):
    """One edit. clock: of its writer, behind it; needs: (writer, clock) that its writer must have seen before."""

    writer: int
    clock: int
    needs: Sequence[tuple[int, int]]
    update: bytes


@dataclass(frozen=True, slots=True)
class Script:
    """All edits in an order that integrates. clients: the ids of its writers; content: at the end, by root."""

    clients: Sequence[int]
    steps: Sequence[Step]
    content: Content


@functools.cache
def script_of(name: str, writers: int, turn: int, limit: int) -> Script:
    """Return the first edits of a trace or course.

    writers: how many a course or the trace of a single author is given to; a trace of several has a writer for each. turn: edits
    of such a trace that one writer makes before the next goes on. Absent: the data, Node or the packages of `make test` are not
    here. RuntimeError: the whole trace does not make the text that it says (Node has said why).
    """
    paths = [DATA / (name + suffix) for suffix in _SUFFIXES]
    file = next((path for path in paths if path.exists()), None)
    if file is None:
        raise Absent(f"{name} is not in ../shared/data beside the repository")
    if not (REPOSITORY / "tests" / "conformance" / "node_modules").exists():
        raise Absent("the packages of tests/conformance are not installed; `make test` does it")
    asked = json.dumps({"file": str(file), "writers": writers, "turn": turn, "limit": limit})
    with NodeProcess(str(_MAKER)) as node:
        reader = Reader(node.ask(var_bytes(asked.encode())))
    clients = [reader.read_var_uint() for _ in range(reader.read_var_uint())]
    steps = [_step(reader) for _ in range(reader.read_var_uint())]
    return Script(clients, steps, json.loads(reader.read_var_string()))


def _step(reader: Reader) -> Step:
    writer, clock = reader.read_var_uint(), reader.read_var_uint()
    needs = [(reader.read_var_uint(), reader.read_var_uint()) for _ in range(reader.read_var_uint())]
    return Step(writer, clock, needs, reader.read_var_bytes())
