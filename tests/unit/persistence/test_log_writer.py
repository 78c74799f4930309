"""Group commit: one batch at a time, retries with the same commit id, and no document that holds back the others."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import pytest

from constructure_sync.persistence.log_writer import CommitLimits, LogWriter
from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import (
    BEGINNING,
    Append,
    Appended,
    AppendResult,
    Diverged,
    Gone,
    Head,
    NewUpdate,
    StorageUnavailable,
)
from storage.memory import MemoryUpdateLog
from tests.properties.simulator.loop import VirtualLoop, run_virtually

A, B = DocumentId(UUID(int=1)), DocumentId(UUID(int=2))
MANY = [DocumentId(UUID(int=number)) for number in range(1, 101)]
LOCK_TIMEOUT = 3.0


class FakeJournal:
    """A room's side: a list of updates, and what became of them."""

    def __init__(self, writer: LogWriter, document_id: DocumentId) -> None:
        self.document_id = document_id
        self.updates: list[bytes] = []
        self.saved_updates = 0
        self.refused: Diverged | Gone | None = None
        self.saved_at: list[float] = []
        self.error: Exception | None = None
        self.is_healing = False
        self._writer = writer
        self._head = BEGINNING
        self._offer: Append | None = None
        self._commits = 0

    def take(self, *updates: bytes) -> None:
        self.updates += updates
        self._writer.wake(self, sum(map(len, updates)))

    def next_append(self, max_updates: int, max_bytes: int) -> Append | None:
        updates = [NewUpdate(update, None) for update in self.updates[self.saved_updates :][:max_updates]]
        if not updates or self.is_healing:
            return None
        self._commits += 1
        commit = CommitId(self.document_id.int * 1000 + self._commits)
        self._offer = Append(self.document_id, self._head, commit, updates)
        return self._offer

    def saved(self, append: Append, result: Appended) -> None:
        if append is not self._offer:
            return
        self._head = Head(result.last, append.commit)
        self.saved_updates += len(append.updates)
        self.saved_at.append(asyncio.get_running_loop().time())
        if self.saved_updates < len(self.updates):
            self._writer.wake(self, 0)

    def cannot_save(self, append: Append, result: Diverged | Gone) -> None:
        self.refused = result
        if isinstance(result, Gone):
            self._writer.forget(self)
        else:
            self.is_healing = True

    def healed(self, head: Head, *updates: bytes) -> None:
        """The journal has seen the log as it is, up to `head`, and offers these instead of what it had."""
        self.is_healing = False
        self._head, self._offer = head, None
        self.updates, self.saved_updates = list(updates), 0
        self._writer.restate(self, sum(map(len, updates)))

    def failed(self, error: Exception) -> None:
        self.error = error


class FakeLog(MemoryUpdateLog):
    """The memory log, slow, and failing as `trouble` says for each batch: before the commit, or after it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[DocumentId]] = []
        self.delay = 0.01
        self.fails_before: Callable[[list[DocumentId]], bool] = lambda documents: False
        self.fails_after: Callable[[list[DocumentId]], bool] = lambda documents: False
        self.locked: set[DocumentId] = set()
        self.overlaps: list[DocumentId] = []
        self._under_way: set[DocumentId] = set()
        for document_id in MANY:
            self.create(document_id)

    async def append(self, batch: Sequence[Append]) -> Sequence[AppendResult]:
        documents = [each.document_id for each in batch]
        assert documents == sorted(documents)
        self.overlaps += self._under_way.intersection(documents)
        self.calls.append(documents)
        self._under_way.update(documents)
        try:
            await asyncio.sleep(LOCK_TIMEOUT if self.locked.intersection(documents) else self.delay)
            if self.locked.intersection(documents) or self.fails_before(documents):
                raise StorageUnavailable("before")
            results = await super().append(batch)
            if self.fails_after(documents):
                raise StorageUnavailable("after")
            return results
        finally:
            self._under_way.difference_update(documents)

    async def payloads(self, document_id: DocumentId) -> list[bytes]:
        return [row.payload for row in await self.history(document_id, Seq(1), Seq(1000))]


class Bench:
    """A log writer that runs, its log, and a journal for each of two documents."""

    def __init__(self, loop: VirtualLoop, limits: CommitLimits) -> None:
        self.loop = loop
        self.log = FakeLog()
        self.writer = LogWriter(self.log, limits, loop, random.Random(1))
        self.all = [FakeJournal(self.writer, document_id) for document_id in MANY]
        self.a, self.b = self.all[:2]
        self.task = loop.create_task(self.writer.run())

    def is_failing(self) -> bool:
        return self.writer.is_failing

    def is_full(self) -> bool:
        return self.writer.is_full


def on_bench(body: Callable[[Bench], Awaitable[None]], limits: CommitLimits | None = None) -> None:
    async def main(loop: VirtualLoop) -> None:
        bench = Bench(loop, limits or CommitLimits())
        await body(bench)
        assert not bench.log.overlaps, "two appends of one document at a time"

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


async def append_elsewhere(bench: Bench, *updates: bytes) -> Head:
    """Let another instance make a log of A that this one does not know, and return its head."""
    bench.log.create(A)
    places = [Head(Seq(number), CommitId(76 + number)) for number in range(1, len(updates) + 1)]
    for after, place, update in zip([BEGINNING, *places], places, updates, strict=False):
        await bench.log.append([Append(A, after, place.commit, [NewUpdate(update, None)])])
    return places[-1]


def test_R9_a_document_that_diverged_is_told_and_offers_again_what_its_log_lacks() -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(b"1")
        await bench.writer.flushed()
        head = await append_elsewhere(bench, b"other")
        bench.a.take(b"23")
        bench.b.take(b"1")
        await asyncio.sleep(1.0)
        assert bench.a.refused == Diverged(A)
        assert bench.b.saved_updates == 1
        bench.a.take(b"456")
        await asyncio.sleep(1.0)
        assert bench.writer.unsaved_bytes == 5
        bench.a.healed(head, b"1", b"23", b"456")
        assert bench.writer.unsaved_bytes == 6
        await bench.writer.flushed()
        assert bench.writer.unsaved_bytes == 0
        assert await bench.log.payloads(A) == [b"other", b"1", b"23", b"456"]

    on_bench(body)


def test_what_a_healing_document_holds_is_unsaved_until_it_says_otherwise() -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(b"1")
        await bench.writer.flushed()
        head = await append_elsewhere(bench, b"1", b"2")
        bench.a.take(b"2")
        flushed = asyncio.create_task(bench.writer.flushed())
        await asyncio.sleep(10.0)
        assert not flushed.done()
        bench.a.healed(head)
        await flushed
        assert bench.writer.unsaved_bytes == 0

    on_bench(body)


def test_R9_what_is_restated_during_an_append_is_offered_after_it_and_the_append_counts_no_more() -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(b"123")
        await asyncio.sleep(0.001)
        bench.a.healed(BEGINNING, b"123", b"45")
        assert bench.writer.unsaved_bytes == 5
        await asyncio.sleep(0.008)
        assert bench.log.calls == [[A]]
        await asyncio.sleep(0.005)
        assert bench.log.calls == [[A], [A]]
        assert bench.writer.unsaved_bytes == 5
        await bench.writer.flushed()
        assert await bench.log.payloads(A) == [b"123", b"123", b"45"]
        assert bench.writer.unsaved_bytes == 0

    on_bench(body)


def test_R9_what_is_restated_while_an_append_is_late_is_offered_in_its_place() -> None:
    async def body(bench: Bench) -> None:
        bench.log.fails_before = lambda documents: True
        bench.a.take(b"123")
        await asyncio.sleep(10.0)
        bench.log.fails_before = lambda documents: False
        bench.a.healed(BEGINNING, b"4")
        await bench.writer.flushed()
        await asyncio.sleep(10.0)
        assert await bench.log.payloads(A) == [b"4"]

    on_bench(body)


def test_R9_what_is_restated_while_a_late_append_is_under_way_is_offered_after_it() -> None:
    async def body(bench: Bench) -> None:
        bench.log.locked = {A}
        bench.a.take(b"123")
        await asyncio.sleep(LOCK_TIMEOUT + 1.0)
        assert len(bench.log.calls) == 2
        bench.log.locked = set()
        bench.a.healed(BEGINNING, b"4")
        await bench.writer.flushed()
        await asyncio.sleep(10.0)
        assert (await bench.log.payloads(A))[-1] == b"4"

    on_bench(body)


def test_a_discarded_room_is_told_of_the_append_that_was_under_way() -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(b"1")
        await asyncio.sleep(0.001)
        bench.writer.forget(bench.a)
        await asyncio.sleep(1.0)
        assert bench.a.saved_updates == 1
        assert bench.writer.unsaved_bytes == 0

    on_bench(body)


def raising(error: Exception) -> Callable[..., None]:
    def broken(*_: object) -> None:
        raise error

    return broken


@pytest.mark.parametrize("method", ["next_append", "saved", "cannot_save"])
@pytest.mark.parametrize("is_last_word_broken", [False, True])
def test_a_journal_that_fails_is_forgotten_and_the_others_are_saved(
    method: str, is_last_word_broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench) -> None:
        error = RuntimeError("a fault of one room")
        monkeypatch.setattr(bench.a, method, raising(error))
        if is_last_word_broken:
            monkeypatch.setattr(bench.a, "failed", raising(error))
        if method == "cannot_save":
            bench.log.remove(A)
        for number in range(3):
            bench.a.take(b"%d" % number)
            bench.b.take(b"%d" % number)
            await asyncio.sleep(0.1)
            assert bench.b.saved_updates == number + 1
        assert is_last_word_broken or bench.a.error is error
        await bench.writer.flushed()
        assert bench.writer.unsaved_bytes == 0
        assert not bench.task.done()

    on_bench(body)


def test_a_fault_of_the_store_ends_nothing() -> None:
    async def body(bench: Bench) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(MemoryUpdateLog, "append", raising(KeyError("a fault of the store")))
            bench.a.take(b"1")
            await asyncio.sleep(1.0)
            assert bench.is_failing()
        await bench.writer.flushed()
        assert await bench.log.payloads(A) == [b"1"]

    on_bench(body)


def test_R13_while_one_document_waits_for_its_lock_the_others_are_saved() -> None:
    async def body(bench: Bench) -> None:
        bench.log.locked = {A}
        bench.a.take(b"1")
        await asyncio.sleep(LOCK_TIMEOUT + 0.1)
        for number in range(100):
            bench.a.take(b"%d" % number)
            bench.b.take(b"%d" % number)
            await asyncio.sleep(0.1)
            assert bench.b.saved_updates == number + 1
            assert not bench.is_failing()
        assert bench.a.saved_updates == 0
        bench.log.locked = set()
        await bench.writer.flushed()
        assert await bench.log.payloads(A) == bench.a.updates

    on_bench(body)


def test_R13_those_that_were_to_be_saved_together_with_a_locked_document_are_saved_beside_it() -> None:
    async def body(bench: Bench) -> None:
        bench.log.locked = {A}
        for journal in bench.all:
            journal.take(b"1")
        await asyncio.sleep(LOCK_TIMEOUT + 1.0)
        assert [journal for journal in bench.all if not journal.saved_updates] == [bench.a]

    on_bench(body)


def test_R13_documents_that_are_locked_do_not_hold_back_one_that_fell_late_with_them() -> None:
    async def body(bench: Bench) -> None:
        bench.log.locked = set(MANY[:6])
        for journal in bench.all[:7]:
            journal.take(b"1")
        await asyncio.sleep(80.0)
        assert [journal.saved_updates for journal in bench.all[:7]] == [0, 0, 0, 0, 0, 0, 1]

    on_bench(body)


def test_a_log_that_comes_back_is_met_by_few_large_batches() -> None:
    async def body(bench: Bench) -> None:
        bench.log.fails_before = lambda documents: True
        for journal in bench.all:
            journal.take(b"1")
            await asyncio.sleep(0.1)
        await asyncio.sleep(60.0)
        assert bench.is_failing()
        bench.log.calls.clear()
        await asyncio.sleep(60.0)
        assert len(bench.log.calls) < 60
        bench.log.calls.clear()
        bench.log.fails_before = lambda documents: False
        await asyncio.sleep(5.5)
        assert bench.writer.unsaved_bytes == 0
        assert len(bench.log.calls) < 60

    on_bench(body)


@pytest.mark.parametrize("seed", range(20))
def test_updates_of_a_document_are_saved_in_their_order_and_once_whatever_fails(seed: int) -> None:
    async def body(bench: Bench) -> None:
        dice = random.Random(seed)
        journals = bench.all[:6]
        bench.log.fails_before = lambda documents: dice.random() < 0.3
        bench.log.fails_after = lambda documents: dice.random() < 0.3
        for number in range(200):
            dice.choice(journals).take(b"%d" % number)
            if dice.random() < 0.2:
                bench.log.locked = set(dice.sample(MANY[:6], dice.randrange(3)))
            await asyncio.sleep(dice.choice([0, 0.001, 0.01, 0.5]))
        bench.log.locked = set()
        bench.log.fails_before = bench.log.fails_after = lambda documents: False
        await bench.writer.flushed()
        for journal in journals:
            assert await bench.log.payloads(journal.document_id) == journal.updates
            assert journal.saved_updates == len(journal.updates)

    on_bench(body)


@pytest.mark.parametrize(("updates", "most"), [(5, 2), (4, 2), (3, 5)])
def test_a_batch_is_no_longer_than_its_limit(updates: int, most: int) -> None:
    async def body(bench: Bench) -> None:
        bench.a.take(*[b"%d" % number for number in range(updates)])
        await bench.writer.flushed()
        assert len(bench.log.calls) == -(-updates // most)
        assert await bench.log.payloads(A) == bench.a.updates

    on_bench(body, CommitLimits(max_updates=most))
