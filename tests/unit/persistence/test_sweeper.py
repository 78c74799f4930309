"""Sweeping: the logs of documents at rest are compacted and purged, a little at a time, by one instance of many."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest

from constructure_sync.persistence.compactor import Compactor
from constructure_sync.persistence.sweeper import Sweeper
from constructure_sync.persistence.upkeep import Upkeep, UpkeepJob, in_one_step
from schemas.ids import DocumentId, Seq
from storage.contracts import StorageUnavailable, StoredDocument
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.unit.persistence.test_compactor import LIMITS, Bench, content, edits

INTERVAL = 600.0
DAY = 86_400.0


class Leases:
    """Leases in memory, which can be unreachable."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, float]] = {}
        self.is_away = False

    async def acquire(self, name: str, holder: str, now: float, seconds: float) -> bool:
        if self.is_away:
            raise StorageUnavailable("away")
        owner, until = self.held.get(name, (holder, 0.0))
        if owner != holder and now < until:
            return False
        self.held[name] = (holder, now + seconds)
        return True


class SweptBench(Bench):
    """A bench with many documents and sweepers that look after them."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(loop)
        self.documents = [DocumentId(UUID(int=number)) for number in range(1, 251)]
        self.open: set[DocumentId] = set()
        self.loads: list[DocumentId] = []
        load = self.log.load

        async def count(document_id: DocumentId) -> StoredDocument | None:
            self.loads.append(document_id)
            return await load(document_id)

        self.log.load = count  # type: ignore[method-assign]

    def sweeper(self, raw_rows_seconds: float = DAY) -> Sweeper:
        compactor: Compactor = self.compactor(replace(LIMITS, raw_rows_seconds=raw_rows_seconds, purge_rows=3))
        return Sweeper(self.log, compactor, self.open.__contains__, self.loop.time)

    async def fill(self, documents: list[DocumentId], updates: int = 5) -> None:
        for document_id in documents:
            await self.write(edits(updates), document_id)

    async def uncovered(self) -> list[DocumentId]:
        stored = [await self.log.load(document_id) for document_id in self.documents]
        self.loads.clear()
        return [each.document_id for each in stored if each is not None and each.updates]


def on_swept_bench(body: Callable[[SweptBench], Awaitable[None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        await body(SweptBench(loop))

    run_virtually(main)


async def swept(sweeper: Sweeper) -> int:
    """Make one pass; return its steps."""
    return len([None async for _ in sweeper.sweep()])


def test_every_document_at_rest_that_is_worth_it_is_compacted() -> None:
    async def body(bench: SweptBench) -> None:
        small = bench.documents[::50]
        await bench.fill([each for each in bench.documents if each not in small])
        await bench.fill(small, updates=3)
        await swept(bench.sweeper())
        assert await bench.uncovered() == small

    on_swept_bench(body)


def test_documents_that_are_open_here_are_left_to_their_rooms() -> None:
    async def body(bench: SweptBench) -> None:
        await bench.fill(bench.documents[:10])
        bench.open |= {bench.documents[0], bench.documents[7]}
        await swept(bench.sweeper())
        assert await bench.uncovered() == [bench.documents[0], bench.documents[7]]

    on_swept_bench(body)


def test_a_document_that_was_settled_is_not_loaded_again_before_its_log_grows() -> None:
    async def body(bench: SweptBench) -> None:
        await bench.fill(bench.documents[:10])
        sweeper = bench.sweeper()
        await swept(sweeper)
        bench.loads.clear()
        assert await swept(sweeper) == 0
        assert bench.loads == []
        await bench.fill([bench.documents[3]])
        bench.loads.clear()
        await swept(sweeper)
        assert bench.loads == [bench.documents[3]]

    on_swept_bench(body)


def test_a_compaction_that_failed_is_tried_again_in_the_next_pass() -> None:
    async def body(bench: SweptBench) -> None:
        await bench.fill(bench.documents[:3])
        sweeper = bench.sweeper()
        bench.workers.failure = StorageUnavailable("away")
        await swept(sweeper)
        assert await bench.uncovered() == bench.documents[:3]
        bench.workers.failure = None
        await swept(sweeper)
        assert await bench.uncovered() == []

    on_swept_bench(body)


def test_raw_rows_whose_time_is_over_are_purged_in_steps() -> None:
    async def body(bench: SweptBench) -> None:
        await bench.fill(bench.documents[:2], updates=10)
        sweeper = bench.sweeper()
        await swept(sweeper)
        before = [await bench.log.load(document_id) for document_id in bench.documents[:2]]
        assert await swept(sweeper) == 0
        await asyncio.sleep(DAY + 1)
        assert await swept(sweeper) > 6
        for document_id, stored in zip(bench.documents, before, strict=False):
            assert stored is not None
            assert await bench.log.history(document_id, Seq(1), Seq(10)) == []
            after = await bench.log.load(document_id)
            assert after is not None
            assert content(after) == content(stored)
        assert await swept(sweeper) == 0

    on_swept_bench(body)


def test_R7_two_instances_that_sweep_at_once_do_no_harm() -> None:
    async def body(bench: SweptBench) -> None:
        await bench.fill(bench.documents[:20])
        bench.workers.seconds = 0.1
        before = [await bench.log.load(document_id) for document_id in bench.documents[:20]]
        await asyncio.gather(swept(bench.sweeper()), swept(bench.sweeper()))
        assert await bench.uncovered() == []
        for stored in before:
            assert stored is not None
            after = await bench.log.load(stored.document_id)
            assert after is not None
            assert content(after) == content(stored)

    on_swept_bench(body)


class Runs:
    """A job that notes when it ran: so many steps of so many seconds."""

    def __init__(self, loop: VirtualLoop, steps: int = 1, seconds: float = 0.0) -> None:
        self.loop = loop
        self.steps = steps
        self.seconds = seconds
        self.began: list[float] = []
        self.stepped: list[float] = []
        self.running = 0
        self.failure: Exception | None = None

    async def work(self) -> AsyncGenerator[None]:
        assert not self.running
        self.began.append(self.loop.time())
        self.running += 1
        try:
            for _ in range(self.steps):
                await asyncio.sleep(self.seconds)
                self.stepped.append(self.loop.time())
                if self.failure is not None:
                    raise self.failure
                yield
        finally:
            self.running -= 1


def an_upkeep(loop: VirtualLoop, leases: Leases, holder: str, *runs: Runs) -> Upkeep:
    jobs = tuple(UpkeepJob(f"job {number}", INTERVAL, each.work) for number, each in enumerate(runs))
    return Upkeep(jobs, leases, holder, random.Random(holder), share=0.1, now=loop.time, clock=loop.time)


def run_for(seconds: float, start: Callable[[VirtualLoop], list[Upkeep]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        running = [asyncio.ensure_future(upkeep.run()) for upkeep in start(loop)]
        await asyncio.sleep(seconds)
        for task in running:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    run_virtually(main)


def test_one_instance_of_a_cluster_does_a_job_until_it_is_gone() -> None:
    leases = Leases()
    runs: list[Runs] = []

    async def main(loop: VirtualLoop) -> None:
        runs.extend(Runs(loop) for _ in range(3))
        tasks = [
            asyncio.ensure_future(an_upkeep(loop, leases, str(number), each).run()) for number, each in enumerate(runs)
        ]
        await asyncio.sleep(20 * INTERVAL)
        (busy,) = [number for number, each in enumerate(runs) if each.began]
        assert 14 <= len(runs[busy].began) <= 28
        tasks[busy].cancel()
        await asyncio.sleep(20 * INTERVAL)
        others = [each for number, each in enumerate(runs) if number != busy and each.began]
        assert len(others) == 1
        assert len(others[0].began) >= 12
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run_virtually(main)


def test_a_job_rests_nine_times_as_long_as_each_step_took() -> None:
    made: list[Runs] = []

    def start(loop: VirtualLoop) -> list[Upkeep]:
        made.append(Runs(loop, steps=5, seconds=4.0))
        return [an_upkeep(loop, Leases(), "one", made[0])]

    run_for(3 * INTERVAL, start)
    first = made[0].stepped[:5]
    assert [later - earlier for earlier, later in pairwise(first)] == pytest.approx([40.0] * 4)


def test_a_long_run_renews_its_lease_and_ends_when_another_has_taken_it() -> None:
    leases = Leases()

    async def main(loop: VirtualLoop) -> None:
        runs = Runs(loop, steps=10_000, seconds=10.0)
        upkeep = asyncio.ensure_future(an_upkeep(loop, leases, "one", runs).run())
        await asyncio.sleep(10 * INTERVAL)
        assert len(runs.began) == 1
        assert leases.held["job 0"][1] > loop.time()
        leases.held["job 0"] = ("two", loop.time() + 10 * INTERVAL)
        await asyncio.sleep(INTERVAL)
        assert not runs.running
        await asyncio.sleep(5 * INTERVAL)
        assert len(runs.began) == 1
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)

    run_virtually(main)


@pytest.mark.parametrize("failure", [StorageUnavailable("away"), RuntimeError("a fault")])
def test_what_fails_is_tried_again_and_other_jobs_go_on(failure: Exception) -> None:
    made: list[Runs] = []

    def start(loop: VirtualLoop) -> list[Upkeep]:
        made.extend((Runs(loop), Runs(loop)))
        made[0].failure = failure
        return [an_upkeep(loop, Leases(), "one", *made)]

    run_for(4 * INTERVAL, start)
    assert min(len(each.began) for each in made) >= 2


def test_without_leases_to_be_had_nothing_is_done_until_they_are_back() -> None:
    leases = Leases()

    async def main(loop: VirtualLoop) -> None:
        leases.is_away = True
        runs = Runs(loop)
        upkeep = asyncio.ensure_future(an_upkeep(loop, leases, "one", runs).run())
        await asyncio.sleep(5 * INTERVAL)
        assert not runs.began
        leases.is_away = False
        await asyncio.sleep(2 * INTERVAL)
        assert runs.began
        upkeep.cancel()
        await asyncio.gather(upkeep, return_exceptions=True)

    run_virtually(main)


def test_a_job_of_one_step_is_done_once_a_run() -> None:
    done: list[float] = []

    def start(loop: VirtualLoop) -> list[Upkeep]:
        async def work() -> None:
            done.append(loop.time())

        job = UpkeepJob("partitions", INTERVAL, in_one_step(work))
        return [Upkeep((job,), Leases(), "one", random.Random(1), now=loop.time, clock=loop.time)]

    run_for(10 * INTERVAL, start)
    assert 7 <= len(done) <= 14
