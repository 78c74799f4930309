"""Group commit: one batch at a time, retries with the same commit id, and no document that holds back the others."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import pytest

from constructure_sync.persistence.log_writer import CommitLimits, LogWriter
from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import Append, Appended, AppendResult, Diverged, Gone, NewUpdate, StorageUnavailable
from storage.memory import MemoryUpdateLog
from tests.properties.simulator.loop import VirtualLoop, run_virtually

A, B = DocumentId(UUID(int=1)), DocumentId(UUID(int=2))


class FakeJournal:
    """A room's side: a list of updates, and what became of them."""

    def __init__(self, writer: LogWriter, document_id: DocumentId) -> None:
        self.document_id = document_id
        self.updates: list[bytes] = []
        self.saved_updates = 0
        self.refused: Diverged | Gone | None = None
        self.saved_at: list[float] = []
        self._writer = writer
        self._commit = CommitId(0)
        self._commits = 0

    def take(self, *updates: bytes) -> None:
        self.updates += updates
        self._writer.wake(self, sum(map(len, updates)))

    def next_append(self, max_updates: int, max_bytes: int) -> Append | None:
        updates = [NewUpdate(update, None) for update in self.updates[self.saved_updates :][:max_updates]]
        self._commits += 1
        commit = CommitId(self.document_id.int * 1000 + self._commits)
        return Append(self.document_id, self._commit, commit, updates) if updates else None

    def saved(self, append: Append, result: Appended) -> None:
        self._commit = append.commit
        self.saved_updates += len(append.updates)
        self.saved_at.append(asyncio.get_running_loop().time())
        if self.saved_updates < len(self.updates):
            self._writer.wake(self, 0)

    def cannot_save(self, append: Append, result: Diverged | Gone) -> None:
        self.refused = result


class FakeLog(MemoryUpdateLog):
    """The memory log, slow, and failing as `trouble` says for each batch: before the commit, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[DocumentId]] = []
        self.delay = 0.01
        self.fails_before: Callable[[list[DocumentId]], bool] = lambda documents: False
        self.fails_after: Callable[[list[DocumentId]], bool] = lambda documents: False
        for document_id in (A, B):
            self.create(document_id)

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        documents = [each.document_id for each in batch]
        self.calls.append(documents)
        await asyncio.sleep(self.delay)
        if self.fails_before(documents):
            raise StorageUnavailable("before")
        results = await super().append(batch)
        if self.fails_after(documents):
            raise StorageUnavailable("after")
        return results

    async def payloads(self, document_id: DocumentId) -> list[bytes]:
        return [row.payload for row in await self.history(document_id, Seq(1), Seq(1000))]


class Bench:
    """A log writer that runs, its log, and a journal for each of two documents."""

    def __init__(self, loop: VirtualLoop, limits: CommitLimits) -> None:
        self.loop = loop
        self.log = FakeLog()
        self.writer = LogWriter(self.log, limits, loop, random.Random(1))
        self.a, self.b = FakeJournal(self.writer, A), FakeJournal(self.writer, B)
        self.task = loop.create_task(self.writer.run())

    def is_failing(self) -> bool:
        return self.writer.is_failing

    def is_full(self) -> bool:
        return self.writer.is_full


def on_bench(body: Callable[[Bench], Awaitable[None]], limits: CommitLimits | None = None) -> None:
    async def main(loop: VirtualLoop) -> None:
        await body(Bench(loop, limits or CommitLimits()))

    run_virtually(main)


def test_what_comes_during_a_commit_goes_with_the_next_one() -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(b"1")
        await asyncio.sleep(0.001)
        bench.a.take(b"2")
        bench.b.take(b"3")
        bench.a.take(b"4")
        await bench.writer.flushed()
        assert bench.log.calls == [[A], [A, B]]
        assert await bench.log.payloads(A) == [b"1", b"2", b"4"]

    on_bench(body)


def test_documents_are_locked_in_the_order_of_their_ids() -> None:
    async def body(bench: Bench) -> None:
        bench.b.take(b"1")
        bench.a.take(b"2")
        await bench.writer.flushed()
        assert bench.log.calls == [[A, B]]

    on_bench(body)


def test_R11_a_commit_whose_answer_was_lost_is_not_made_twice() -> None:
    async def body(bench: Bench) -> None:
        bench.log.fails_after = lambda documents: len(bench.log.calls) < 3
        bench.a.take(b"1", b"2")
        await bench.writer.flushed()
        assert len(bench.log.calls) == 3
        assert await bench.log.payloads(A) == [b"1", b"2"]
        assert bench.a.saved_updates == 2

    on_bench(body)


def test_a_call_that_hangs_is_given_up_and_repeated() -> None:
    async def body(bench: Bench) -> None:
        bench.log.delay = 3600.0
        bench.a.take(b"1")
        await asyncio.sleep(29.0)
        bench.log.delay = 0.01
        await asyncio.sleep(2.0)
        assert bench.a.saved_updates == 1

    on_bench(body, CommitLimits(append_timeout=30.0))


def test_R13_a_document_that_cannot_be_locked_does_not_hold_back_the_others() -> None:
    async def body(bench: Bench) -> None:
        bench.log.fails_before = lambda documents: A in documents
        bench.a.take(b"1")
        bench.b.take(b"1")
        await asyncio.sleep(0.2)
        assert bench.b.saved_updates == 1
        for number in range(20):
            bench.b.take(b"%d" % number)
            bench.a.take(b"%d" % number)
            await asyncio.sleep(0.1)
            assert bench.b.saved_updates == len(bench.b.updates)
        bench.log.fails_before = lambda documents: False
        await bench.writer.flushed()
        assert await bench.log.payloads(A) == bench.a.updates

    on_bench(body)


def test_while_the_log_is_away_tries_grow_rarer_and_all_is_saved_when_it_is_back() -> None:
    async def body(bench: Bench) -> None:
        bench.log.fails_before = lambda documents: True
        bench.a.take(b"1")
        await asyncio.sleep(60.0)
        assert bench.is_failing()
        assert 10 < len(bench.log.calls) < 40
        bench.a.take(b"2")
        bench.log.fails_before = lambda documents: False
        await asyncio.sleep(5.5)
        assert not bench.is_failing()
        assert await bench.log.payloads(A) == [b"1", b"2"]

    on_bench(body)


def test_unsaved_bytes_are_counted_until_they_are_saved_refused_or_forgotten() -> None:
    async def body(bench: Bench) -> None:
        bench.log.fails_before = lambda documents: True
        bench.a.take(b"12345")
        assert not bench.is_full()
        bench.b.take(b"67890")
        assert bench.is_full()
        await asyncio.sleep(0.1)
        bench.writer.forget(bench.a)
        assert bench.writer.unsaved_bytes == 5
        bench.log.remove(B)
        bench.log.fails_before = lambda documents: False
        await bench.writer.flushed()
        assert bench.b.refused == Gone(B)
        assert bench.writer.unsaved_bytes == 0
        assert bench.a.saved_updates == 0

    on_bench(body, CommitLimits(unsaved_bytes=10))


def test_a_document_that_diverged_is_told_and_the_others_are_saved() -> None:
    async def body(bench: Bench) -> None:
        await bench.log.append([Append(A, CommitId(0), CommitId(77), [NewUpdate(b"other", None)])])
        bench.a.take(b"1")
        bench.b.take(b"1")
        await bench.writer.flushed()
        assert bench.a.refused == Diverged(A)
        assert bench.b.saved_updates == 1

    on_bench(body)


@pytest.mark.parametrize(("updates", "most"), [(5, 2), (4, 2), (3, 5)])
def test_a_batch_is_no_longer_than_its_limit(updates: int, most: int) -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(*[b"%d" % number for number in range(updates)])
        await bench.writer.flushed()
        assert len(bench.log.calls) == -(-updates // most)
        assert await bench.log.payloads(A) == bench.a.updates

    on_bench(body, CommitLimits(max_updates=most))
