"""Cut the power of the disk at random moments: no promised edit may be missing afterwards (R1, R7, R9).

SIGKILL says nothing about fsync: what a killed process wrote, the kernel still writes out. Here every operation on the database's
files is recorded while clients write and the document is compacted; then, for each cut, the files are made as the disk may have
them: what was synced, and of the rest any part, torn at sectors. The same with `synchronous=NORMAL` must lose promised edits:
a test that cannot tell the two apart would prove nothing.
"""

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pycrdt import Doc, Map

from constructure_sync.errors import ConstructureError
from constructure_sync.persistence.export import stored_updates
from schemas.ids import Seq
from storage.contracts import StorageError, StoredDocument
from storage.open import Database, open_database
from tests.faults.disk import Disk, Kind, Operation, read_trace
from tests.faults.power_recorder import COURSE_MADE
from tests.faults.read_log import integrity
from tests.faults.writer import EDITS
from tests.server_process import REPOSITORY

SOURCE: Final = Path(__file__).with_name("disk_recorder.c")
DATA: Final = "folder/data"
"""Where the database lies in the recorded folder: folders, too, must survive their making."""
DATABASE: Final = f"{DATA}/constructure.db"
RECORD_SECONDS: Final = 300.0
COMPILE_SECONDS: Final = 60.0


class CannotRecord(Exception):
    """This machine cannot record disk operations; the message says what is missing."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What happened to the files, and which course was written."""

    operations: list[Operation]
    course: str

    def count(self, kind: Kind) -> int:
        """Return how many operations of a kind there are."""
        return sum(operation.kind is kind for operation in self.operations)


@dataclass(frozen=True, slots=True)
class CutReport:
    """What the cuts found. losses: cuts after which promised edits were gone, in words; faults: what else was wrong.

    compacted: cuts after which the document opened from segments. promised: edits promised at the last cut.
    """

    cuts: int
    losses: tuple[str, ...]
    faults: tuple[str, ...]
    compacted: int
    promised: int


def compile_recorder(folder: Path) -> Path:
    """Compile the recording library. Raises CannotRecord."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not sys.platform.startswith("linux") or compiler is None:
        raise CannotRecord("recording disk operations needs Linux and a C compiler (cc, or the one named by CC)")
    library = folder / "disk_recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-pthread"]
    compiled = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    if compiled.returncode:
        raise CannotRecord(f"the disk recorder does not compile:\n{compiled.stderr[-2000:]}")
    return library


def record(folder: Path, library: Path, *, edits: int, seed: int, synchronous: str) -> Recording:
    """Have the server's core write so many edits, and return what it did to its files. Raises CannotRecord."""
    root, trace = folder / "recorded", folder / "trace"
    root.mkdir()
    environment = os.environ | {"LD_PRELOAD": str(library), "RECORDED_FOLDER": str(root), "RECORD_TRACE": str(trace)}
    recorder = (sys.executable, "-m", "tests.faults.power_recorder")
    ended = subprocess.run(
        [*recorder, str(root / DATA), str(edits), str(seed), synchronous],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RECORD_SECONDS,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"the recorded program failed:\n{ended.stderr[-4000:]}")
    recording = Recording(read_trace(trace), ended.stdout.split()[0])
    _check_completeness(recording, root)
    return recording


def _check_completeness(recording: Recording, root: Path) -> None:
    """Raise CannotRecord when the recording does not lead to the files that are there: then it has seen too little."""
    disk = Disk()
    for operation in recording.operations:
        disk.apply(operation)
    made = {name: content for name, content in disk.everything().items() if name.startswith(DATABASE)}
    there = {str(path.relative_to(root)): path.read_bytes() for path in (root / DATA).glob("constructure.db*")}
    if made != there or not recording.count(Kind.MARK):
        raise CannotRecord("the recording does not hold all that was done to the database's files")


async def cut_power(folder: Path, recording: Recording, *, cuts: int, seed: int) -> CutReport:
    """Cut the power at so many random moments, and open what is left each time."""
    randomness, disk, promised = random.Random(seed), Disk(), dict[int, int]()
    losses, faults, compacted, done = list[str](), list[str](), 0, 0
    moments = sorted(randomness.randrange(1, len(recording.operations) + 1) for _ in range(cuts))
    for moment in moments:
        for operation in recording.operations[done:moment]:
            if operation.kind is Kind.MARK:
                promised[operation.offset >> 32] = operation.offset & 0xFFFFFFFF
            else:
                disk.apply(operation)
        done = moment
        try:
            stored, found = await _open(folder / "cut", disk.after_cut(randomness), recording.course)
        except (StorageError, ConstructureError) as error:
            faults.append(f"cut {moment}: {error}")
            continue
        compacted += bool(stored and stored.segments)
        if found != "ok":
            faults.append(f"cut {moment}: {found}")
        lost = _missing(stored, promised)
        if lost:
            losses.append(f"cut {moment}: {len(lost)} promised things are gone, such as {lost[0]}")
    promised.pop(COURSE_MADE, None)
    return CutReport(cuts, tuple(losses), tuple(faults), compacted, sum(promised.values()))


async def _open(folder: Path, image: Mapping[str, bytes], course: str) -> tuple[StoredDocument | None, str]:
    """Open what is left as a starting server does: the course's document, and what SQLite says of its file.

    StorageError: it cannot be opened, or its log has a hole.
    """
    try:
        for name, content in image.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        async with await open_database(f"sqlite:///{folder / DATABASE}") as database:
            return await _load(database, course), await integrity(database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _load(database: Database, course: str) -> StoredDocument | None:
    document_id = await database.courses.document_id(course)
    if document_id is None:
        return None
    stored = await database.log.load(document_id)
    if stored is not None:
        rows = await database.log.history(document_id, Seq(1), stored.head.seq)
        if [row.seq for row in rows] != list(range(1, stored.head.seq + 1)):
            raise StorageError("the log has holes")
    return stored


def _missing(stored: StoredDocument | None, promised: Mapping[int, int]) -> list[str]:
    """Return what was promised and is gone."""
    if stored is None:
        return ["the course"] if promised else []
    doc: Doc[Map[str]] = Doc()
    for update in stored_updates(stored):
        doc.apply_update(update)
    there = set(doc.get(EDITS, type=Map[str]).keys())
    return [edit for edit in _promised_edits(promised) if edit not in there]


def _promised_edits(promised: Mapping[int, int]) -> Iterator[str]:
    return (f"{client}.{n}" for client, edits in promised.items() if client for n in range(1, edits + 1))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this run's options."""
    parser.add_argument("--count", type=int, default=2_000, help="power cuts with synchronous=FULL")
    parser.add_argument("--edits", type=int, default=3_000, help="edits made while recording")


def run(arguments: argparse.Namespace) -> int:
    """Record and cut with FULL, which must lose nothing, and with NORMAL, which must lose something."""
    counts = {"FULL": arguments.count, "NORMAL": max(20, arguments.count // 10)}
    reports = {}
    for synchronous, cuts in counts.items():
        with tempfile.TemporaryDirectory() as name:
            folder, started = Path(name), time.monotonic()
            try:
                library = compile_recorder(folder)
                recording = record(folder, library, edits=arguments.edits, seed=arguments.seed, synchronous=synchronous)
            except CannotRecord as error:
                print(error)
                return 2
            report = asyncio.run(cut_power(folder, recording, cuts=cuts, seed=arguments.seed))
        reports[synchronous] = report
        _print(synchronous, recording, report, time.monotonic() - started)
    full, normal = reports["FULL"], reports["NORMAL"]
    if not normal.losses:
        print("FAULT: NORMAL loses nothing, so these cuts prove nothing")
    return 1 if full.losses or full.faults or not normal.losses else 0


def _print(synchronous: str, recording: Recording, report: CutReport, seconds: float) -> None:
    print(f"synchronous={synchronous}")
    print(
        f"  recorded: {recording.count(Kind.WRITE)} writes, {recording.count(Kind.SYNC_END)} syncs,"
        f" {recording.count(Kind.TRUNCATE)} truncations, {recording.count(Kind.CREATE)} files made,"
        f" {recording.count(Kind.UNLINK)} removed, {recording.count(Kind.MARK)} receipts for {report.promised} edits"
    )
    print(f"  cuts: {report.cuts}, of which {report.compacted} left a compacted document")
    print(f"  cuts that lost promised edits: {len(report.losses)}; damaged: {len(report.faults)}; {seconds:.0f} s")
    for line in (*report.losses[-3:], *report.faults[-3:]):
        print(f"    {line}")
