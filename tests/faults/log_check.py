"""Look into a log: fresh processes read it, and stock Yjs opens it."""

import asyncio
import json
import shutil
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.server_process import REPOSITORY

READER: Final = Path(__file__).with_name("read_log.mjs")
READ_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What stock Yjs made of a course's log. kind: `opened` or `raw`, see `read_log`. pending: see `read_log.mjs`.

    edits: keys of the map `edits`. latest: what the map `latest` holds. state: the state vector.
    """

    course: str
    kind: str
    count: int
    pending: int | None
    edits: frozenset[str]
    latest: Mapping[str, str]
    state: Mapping[int, int]


class Losses(Exception):
    """Acknowledged edits are missing, or the log is not whole."""

    def __init__(self, lost: Sequence[str], faults: Sequence[str]) -> None:
        super().__init__(*lost, *faults)
        self.lost = tuple(lost)
        self.faults = tuple(faults)


def copy_log(data_dir: Path, copy: Path) -> None:
    """Copy the database as it lies there, without opening it."""
    copy.mkdir()
    for file in data_dir.glob("constructure.db*"):
        if not file.name.endswith("-shm"):  # an index of the -wal, rebuilt by whoever opens it first
            shutil.copy(file, copy)


async def check_copy(copy: Path, acknowledged: Mapping[str, Set[str]]) -> list[Reading]:
    """Have fresh processes read a copy of the log, and remove it. Otherwise as `check_log`."""
    try:
        return await check_log(f"sqlite:///{copy / 'constructure.db'}", acknowledged)
    finally:
        shutil.rmtree(copy)


async def check_log(database_url: str, acknowledged: Mapping[str, Set[str]]) -> list[Reading]:
    """Have fresh processes read the log.

    acknowledged: the edits that must be there, by course. Raises Losses where one is missing or anything is pending.
    """
    log = await _output(sys.executable, "-m", "tests.faults.read_log", database_url, *acknowledged, given=b"")
    readings = [_reading(line) for line in (await _output("node", str(READER), given=log)).splitlines()]
    faults = [
        f"{each.kind} update {each.pending} of course {each.course} loads with something pending"
        for each in readings
        if each.pending is not None
    ]
    if len(readings) != 2 * len(acknowledged):
        faults.append("not every course was read")
    lost = {edit for each in readings for edit in acknowledged[each.course] - each.edits}
    if lost or faults:
        raise Losses(sorted(lost), faults)
    return readings


def _reading(line: bytes) -> Reading:
    found = json.loads(line)
    state = {int(client): clock for client, clock in found["state"].items()}
    return Reading(
        found["course"],
        found["kind"],
        found["count"],
        found["pending"],
        frozenset(found["edits"]),
        found["latest"],
        state,
    )


async def _output(*command: str, given: bytes) -> bytes:
    """Run a program to its end and return what it printed. Raises Losses when it fails: it could not read the log."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(READ_SECONDS):
        printed, errors = await process.communicate(given)
    if process.returncode:
        raise Losses((), [errors.decode(errors="replace")[-2000:]])
    return printed
