"""Worker processes that die, hang or panic: a retry, then an error, never the server's end."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from constructure_sync.errors import ProtocolViolation
from constructure_sync.protocol.known import Known
from constructure_sync.replica.jobs import close_update, compact, fold, merge_updates, new_course_document
from constructure_sync.replica.pool import Panic, WorkerFailed, WorkerPool

LIMIT = 30.0


def die_once(marker: str) -> int:
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hang() -> None:
    time.sleep(3600)


def panic() -> None:
    raise Panic("called `Option::unwrap()` on a `None` value")


async def test_death_of_a_worker_costs_a_retry(tmp_path: Path) -> None:
    async with WorkerPool(1) as workers:
        survivor = await workers.run(die_once, str(tmp_path / "died"), timeout=LIMIT)

    assert survivor != os.getpid()


async def test_job_that_kills_twice_fails_and_the_pool_goes_on() -> None:
    async with WorkerPool(1) as workers:
        with pytest.raises(WorkerFailed):
            await workers.run(die, timeout=LIMIT)

        assert (await workers.run(close_update, Known(), b"\x00\x00", timeout=LIMIT)).is_empty


async def test_job_that_hangs_or_panics_fails_within_its_time() -> None:
    async with WorkerPool(1) as workers:
        with pytest.raises(WorkerFailed):
            await workers.run(hang, timeout=0.2)
        with pytest.raises(WorkerFailed):
            await workers.run(panic, timeout=LIMIT)


async def test_what_a_job_raises_comes_back() -> None:
    async with WorkerPool(1) as workers:
        with pytest.raises(ProtocolViolation) as refused:
            await workers.run(close_update, Known(), b"\x01", timeout=LIMIT)

    assert refused.value.code == 4400


async def test_cancelled_caller_leaves_the_pool_usable() -> None:
    async with WorkerPool(1) as workers:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await workers.run(hang, timeout=0.5)

        assert await workers.run(merge_updates, [b"\x00\x00"], timeout=LIMIT) == b"\x00\x00"


def test_first_update_of_a_course_is_the_same_bytes_each_time() -> None:
    first = new_course_document("course", "Größe 😀", "ann", 1_763_800_000_000)

    assert first == new_course_document("course", "Größe 😀", "ann", 1_763_800_000_000)
    assert not Known().close(first).missing


def test_compaction_keeps_the_clocks_of_a_history() -> None:
    first = new_course_document("course", "Loops", "ann", 1)
    pieces = compact([first], 1024)

    known = Known()
    for update, _ in pieces:
        known.add(known.close(update))
    assert known.clocks == {1: 9}


def test_fold_tells_of_deletes_that_structs_imply() -> None:
    collected = b"\x01\x01\x05\x00\x00\x03\x00"  # client 5, clocks 0 to 3 as garbage, and no delete set

    (piece,) = fold([collected], 1024)

    assert piece.has_deletes


async def test_background_workers_stand_back_and_others_do_not() -> None:
    own = os.nice(0)
    async with WorkerPool(1, niceness=3) as background, WorkerPool(1) as workers:
        assert await background.run(os.nice, 0, timeout=LIMIT) == own + 3
        assert await workers.run(os.nice, 0, timeout=LIMIT) == own
