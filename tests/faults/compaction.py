"""Random compactions and purges over genuine histories, each cut at a random step; two at once; restarts after a power cut.

Every time the log is read again: it must show stock Yjs the same content, clocks and deletes as the updates that were appended,
and hold every raw row that is younger than the floor. On SQLite a part of the cuts goes on with a copy of the database's files
as they were at that moment, inside the transaction; a few hundred compactions run on a real PostgreSQL.
"""

import argparse
import asyncio
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final
from uuid import uuid4

from constructure_sync.persistence.compactor import RAW_ROWS_FLOOR_SECONDS, CompactionLimits, Compactor, Outcome
from constructure_sync.persistence.export import stored_updates
from constructure_sync.protocol.known import Known
from constructure_sync.protocol.lib0 import Reader, var_bytes, write_var_uint
from schemas.ids import CommitId, CourseId, DocumentId, Seq, UserId
from schemas.roles import PlatformRole
from storage.accounts import Accounts, User
from storage.contracts import Append, Appended, Head, NewUpdate, StoredDocument
from storage.courses import Courses, NewCourse
from storage.database import SqlDatabase
from storage.log import SqlUpdateLog
from storage.migrate import migrate
from storage.postgres import PostgresDatabase
from storage.sqlite import SqliteDatabase
from tests.faults.cuts import Cut, CutDatabase, Cutter, CutWorkers
from tests.faults.genuine import GenuineHistory, genuine_histories
from tests.faults.node_process import NodeProcess
from tests.postgres import MISSING, Postgres

COMPACTIONS_OF_A_HISTORY: Final = 20
EDITS: Final = 70
BATCH: Final = 10
LATEST_CUT: Final = 36
"""About the number of steps of an attempt that does everything."""

UNCUT: Final = 0.3
"""The share of attempts that are left to themselves."""


@dataclass(slots=True)
class Tally:
    """What some histories came to. cuts: by step; failures: (seed, what differed)."""

    histories: int = 0
    attempts: int = 0
    done: int = 0
    overtaken: int = 0
    power_cuts: int = 0
    purged: int = 0
    cuts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.histories += other.histories
        self.attempts += other.attempts
        self.done += other.done
        self.overtaken += other.overtaken
        self.power_cuts += other.power_cuts
        self.purged += other.purged
        self.cuts += other.cuts
        self.failures += other.failures


class Machine:
    """Where the database is. On SQLite, `lose_power` goes on with the files as a cut found them."""

    def __init__(self, url: str, folder: Path | None) -> None:
        self._folder = folder
        self._number = 0
        self._url = url
        self.database = self._open()

    def _open(self) -> SqlDatabase:
        return PostgresDatabase(self._url) if self._folder is None else SqliteDatabase(self._url, readers=1)

    @property
    def can_lose_power(self) -> bool:
        return self._folder is not None

    def copy_files(self) -> None:
        """Keep the files as they are now: what a disk would hold if the power went."""
        assert self._folder is not None
        for suffix in ("", "-wal"):
            source = self._folder / f"{self._number}.db{suffix}"
            if source.exists():
                shutil.copyfile(source, self._folder / f"{self._number + 1}.db{suffix}")

    async def lose_power(self) -> None:
        """Go on with the files that were kept."""
        assert self._folder is not None
        await self.database.close()
        for left in self._folder.glob(f"{self._number}.db*"):
            left.unlink()
        self._number += 1
        self._url = f"sqlite:///{self._folder / f'{self._number}.db'}"
        self.database = self._open()

    async def create(self, first_update: bytes, now: float) -> DocumentId:
        """Make a document whose Seq 1 is this update."""
        document_id, owner = DocumentId(uuid4()), UserId(uuid4())
        user = User(owner, f"{owner}@example.org", "Owner", PlatformRole.TEACHER, now)
        await Accounts(self.database).create(user, "-")
        course = NewCourse(
            CourseId(uuid4()), "Course", owner, document_id, uuid4(), 1, first_update, CommitId(1), created_at=now
        )
        await Courses(self.database).create(course)
        return document_id


class Trial:
    """One history: appended bit by bit, compacted again and again, read after each time."""

    def __init__(self, machine: Machine, history: GenuineHistory, seed: int, tally: Tally) -> None:
        self._machine = machine
        self._updates = history.updates
        self._choices = random.Random(seed)
        self._tally = tally
        self._now = 1_000_000.0
        self._saved_at: list[float] = []
        self._head = Head(Seq(1), CommitId(1))
        self.checks: list[tuple[int, list[bytes]]] = []

    async def play(self) -> None:
        """Do it all. Raises AssertionError."""
        self._document_id = await self._machine.create(self._updates[0], self._now)
        self._saved_at.append(self._now)
        for left in range(COMPACTIONS_OF_A_HISTORY, 0, -1):
            rest = len(self._updates) - len(self._saved_at)
            await self._append(rest if left == 1 else min(rest, self._choices.randint(0, 2 * rest // left)))
            self._now += self._choices.choice((0.0, 60.0, 700.0))
            await self._attempt()
            await self._check()

    def _log(self, cutter: Cutter | None = None) -> SqlUpdateLog:
        database = self._machine.database
        return SqlUpdateLog(database if cutter is None else CutDatabase(database, cutter), lambda: self._now)

    async def _append(self, count: int) -> None:
        while count:
            some = self._choices.randint(1, count)
            count -= some
            begin = len(self._saved_at)
            news = [NewUpdate(update, None) for update in self._updates[begin : begin + some]]
            commit = CommitId(self._choices.getrandbits(62) | 2)
            (result,) = await self._log().append([Append(self._document_id, self._head, commit, news)])
            assert isinstance(result, Appended), result
            assert result.last == begin + some
            self._head = Head(result.last, commit)
            self._saved_at += [self._now] * some
            self._now += self._choices.choice((0.0, 1.0, 650.0))

    async def _attempt(self) -> None:
        """Compact once, or twice at once, perhaps while something is appended; each may be cut."""
        luck = self._choices.random()
        copied: list[None] = []
        machine = self._machine
        loses_power = machine.can_lose_power and luck < 0.06

        def keep_files() -> None:
            machine.copy_files()
            copied.append(None)

        work = [self._compact(keep_files if loses_power else lambda: None)]
        if luck > 0.7:
            work.append(self._compact(lambda: None))
        if luck > 0.85:
            rest = len(self._updates) - len(self._saved_at)
            work.append(self._append(min(rest, 2)))
        await asyncio.gather(*work)
        if copied:
            self._tally.power_cuts += 1
            await machine.lose_power()

    async def _compact(self, at_cut: Callable[[], None]) -> None:
        choices = self._choices
        limits = CompactionLimits(
            updates_at_close=choices.randint(1, 8),
            share=choices.choice((0.0, 0.25, 1.0, 4.0)),
            segment_bytes=choices.choice((64, 512, 4096, 256 * 1024)),
            raw_rows_seconds=choices.choice((0.0, 0.0, 2000.0)),
            purge_rows=choices.choice((3, 1000)),
        )
        cutter = Cutter(0 if choices.random() < UNCUT else choices.randint(1, LATEST_CUT), at_cut)
        compactor = Compactor(self._log(cutter), CutWorkers(cutter), limits, lambda: self._now)
        self._tally.attempts += 1
        try:
            outcome = await compactor.compact_if_worth(self._document_id)
            assert outcome is not Outcome.FAILED, "a compaction failed"
            self._tally.done += outcome is Outcome.DONE
            self._tally.overtaken += outcome is Outcome.OVERTAKEN
        except Cut as cut:
            self._tally.cuts[str(cut)] += 1

    async def _check(self) -> None:
        """Read the log as whoever starts now would. Raises AssertionError."""
        log = self._log()
        stored = await log.load(self._document_id)
        assert stored is not None
        assert stored.head == self._head, (stored.head, self._head)
        self._check_known(stored)
        rows = {row.seq for row in await log.history(self._document_id, Seq(1), stored.head.seq)}
        young = {seq for seq, at in enumerate(self._saved_at, 1) if at >= self._now - RAW_ROWS_FLOOR_SECONDS}
        assert young <= rows, f"young raw rows are gone: {sorted(young - rows)}"
        self._tally.purged = max(self._tally.purged, len(self._saved_at) - len(rows))
        self.checks.append((len(self._saved_at), stored_updates(stored)))

    def _check_known(self, stored: StoredDocument) -> None:
        expected, found = Known(), Known()
        for known, updates in ((expected, self._updates[: len(self._saved_at)]), (found, stored_updates(stored))):
            for update in updates:
                part = known.close(update)
                assert not part.missing, "the log is not closed"
                known.add(part)
        assert found.clocks == expected.clocks, "other clocks"
        assert found.deletes == expected.deletes, "other deletes"


def _differences(node: NodeProcess, trials: Sequence[tuple[GenuineHistory, Trial]]) -> list[str]:
    """Return, for each history, the first thing that stock Yjs finds different."""
    request = [write_var_uint(len(trials))]
    for history, trial in trials:
        request += (write_var_uint(len(history.updates)), *map(var_bytes, history.updates))
        request.append(write_var_uint(len(trial.checks)))
        for length, updates in trial.checks:
            request += (write_var_uint(length), write_var_uint(len(updates)), *map(var_bytes, updates))
    reader = Reader(node.ask(b"".join(request)))
    return [reader.read_var_string() for _ in trials]


async def _play_on(machine: Machine, seeds: range, node: NodeProcess) -> Tally:
    tally = Tally()
    for start in range(seeds.start, seeds.stop, BATCH):
        some = range(start, min(start + BATCH, seeds.stop))
        trials = []
        for seed, history in zip(some, genuine_histories(start, len(some), EDITS), strict=True):
            trial = Trial(machine, history, seed, tally)
            tally.histories += 1
            try:
                await trial.play()
                trials.append((seed, history, trial))
            except Exception:
                tally.failures.append((seed, traceback.format_exc()))
        found = _differences(node, [(history, trial) for _, history, trial in trials])
        tally.failures += [(seed, error) for (seed, _, _), error in zip(trials, found, strict=True) if error]
    await machine.database.close()
    return tally


def play(seeds: range) -> Tally:
    """Play a history of each seed on one SQLite database."""

    async def run() -> Tally:
        with tempfile.TemporaryDirectory() as name, NodeProcess("compaction.mjs") as node:
            url = f"sqlite:///{name}/0.db"
            await migrate(url)
            return await _play_on(Machine(url, Path(name)), seeds, node)

    return asyncio.run(run())


def play_on_postgres(seeds: range) -> Tally:
    """Play a history of each seed on a PostgreSQL of its own."""

    async def run(url: str) -> Tally:
        await migrate(url)
        with NodeProcess("compaction.mjs") as node:
            return await _play_on(Machine(url, None), seeds, node)

    with Postgres() as server:
        return asyncio.run(run(server.url))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how many compactions; history k has the seed `--seed` + k."""
    parser.add_argument("--count", type=int, default=5_000, help="compactions on SQLite")
    parser.add_argument("--postgres", type=int, default=300, help="compactions on PostgreSQL")
    parser.add_argument("--processes", type=int, default=2, help="pairs of processes, each of one core")


def run(arguments: argparse.Namespace) -> int:
    """Play, and print what was cut where and what differed."""
    histories = -(-arguments.count // COMPACTIONS_OF_A_HISTORY)
    seeds = range(arguments.seed, arguments.seed + histories)
    chunks = [range(start, min(start + 2 * BATCH, seeds.stop)) for start in range(seeds.start, seeds.stop, 2 * BATCH)]
    started, tally = time.monotonic(), Tally()
    with get_context("spawn").Pool(arguments.processes) as pool:
        for part in pool.imap_unordered(play, chunks):
            tally.add(part)
    _print("SQLite", tally, started)
    failed = bool(tally.failures)
    if arguments.postgres and MISSING is None:
        started = time.monotonic()
        count = -(-arguments.postgres // COMPACTIONS_OF_A_HISTORY)
        tally = play_on_postgres(range(arguments.seed, arguments.seed + count))
        _print("PostgreSQL", tally, started)
        failed = failed or bool(tally.failures)
    return int(failed)


def _print(where: str, tally: Tally, started: float) -> None:
    for seed, error in tally.failures:
        print(f"history {seed}: {error}")
    for step, count in sorted(tally.cuts.items()):
        print(f"  cut {step}: {count}")
    print(
        f"{where}: {tally.histories} histories, {tally.attempts} compactions: {sum(tally.cuts.values())} cut, "
        f"{tally.power_cuts} of them a power cut, {tally.done} done, {tally.overtaken} overtaken; "
        f"{len(tally.failures)} differences, {time.monotonic() - started:.0f} s",
        flush=True,
    )
