"""Compaction: the same content in fewer pieces, written before anything goes (R7), one document at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from uuid import UUID

import pytest
from pycrdt import Doc, Map, TransactionEvent

from constructure_sync.errors import ProtocolViolation
from constructure_sync.persistence.compactor import (
    CompactionLimits,
    Compactor,
    Outcome,
    decode_pieces,
    encode_pieces,
)
from constructure_sync.persistence.export import stored_updates
from constructure_sync.protocol.closed_part import Summary
from constructure_sync.protocol.known import Known
from constructure_sync.replica.jobs import CompactionMismatch
from constructure_sync.replica.pool import WorkerFailed
from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import BEGINNING, Append, Diverged, NewUpdate, StorageUnavailable, StoredDocument
from storage.memory import MemoryUpdateLog
from tests.properties.simulator.loop import VirtualLoop, run_virtually
from tests.unit.protocol.updates import section, text, update

DOCUMENT = DocumentId(UUID(int=1))
LIMITS = CompactionLimits(updates_at_close=4, share=0.25, segment_bytes=400, raw_rows_seconds=1000.0, timeout=50.0)

Result = object


class Workers:
    """Computes in place; can take long or fail."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.failure: Exception | None = None
        self.running = 0
        self.most_running = 0

    async def run(self, function: Callable[..., Result], /, *arguments: object, timeout: float) -> Result:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running -= 1
        if self.failure is not None:
            raise self.failure
        return function(*arguments)


class Bench:
    """A log with documents of so many updates, and a compactor over it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.log = MemoryUpdateLog(loop.time)
        self.workers = Workers()
        self.commits = 0

    def compactor(self, limits: CompactionLimits = LIMITS) -> Compactor:
        return Compactor(self.log, self.workers, limits, self.loop.time)  # type: ignore[arg-type]

    async def write(self, updates: Sequence[bytes], document_id: DocumentId = DOCUMENT) -> None:
        stored = await self.log.load(document_id)
        if stored is None:
            self.log.create(document_id)
        self.commits += 1
        after = BEGINNING if stored is None else stored.head
        news = [NewUpdate(update, None) for update in updates]
        await self.log.append([Append(document_id, after, CommitId(self.commits), news)])

    async def stored(self) -> StoredDocument:
        stored = await self.log.load(DOCUMENT)
        assert stored is not None
        return stored


def on_bench(body: Callable[[Bench], Awaitable[None]]) -> None:
    async def main(loop: VirtualLoop) -> None:
        await body(Bench(loop))

    run_virtually(main)


def edits(count: int, client: int = 7) -> list[bytes]:
    """Return the updates of a client that sets one of three keys again and again."""
    keys: Map[object] = Map()
    doc: Doc[Map[object]] = Doc({"map": keys}, client_id=client)
    updates: list[bytes] = []

    def keep(event: TransactionEvent) -> None:
        updates.append(event.update)

    subscription = doc.observe(keep)
    for number in range(count):
        keys[f"key {number % 3}"] = f"value {number}" * 5
    doc.unobserve(subscription)
    return updates


def content(stored: StoredDocument) -> tuple[object, object, object]:
    keys: Map[object] = Map()
    doc: Doc[Map[object]] = Doc({"map": keys})
    known = Known()
    for encoded in stored_updates(stored):
        part = known.close(encoded)
        assert not part.missing
        known.add(part)
        doc.apply_update(encoded)
    return keys.to_py(), known.clocks, known.deletes


def test_R7_a_compacted_log_holds_the_same_and_less_of_what_was_overwritten() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(40))
        before = await bench.stored()
        assert await bench.compactor().compact_if_worth(DOCUMENT) is Outcome.DONE
        after = await bench.stored()
        assert not after.updates
        assert content(after) == content(before)
        assert sum(map(len, stored_updates(after))) < sum(map(len, stored_updates(before))) / 2

    on_bench(body)


def test_each_piece_of_a_segment_has_its_summary() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(40))
        await bench.compactor(replace(LIMITS, segment_bytes=100)).compact_if_worth(DOCUMENT)
        (segment,) = (await bench.stored()).segments
        pieces, summaries = decode_pieces(segment.payload), decode_pieces(segment.summary)
        assert len(pieces) == len(summaries) > 1
        told, read = Known(), Known()
        for piece, summary in zip(pieces, summaries, strict=True):
            told.add_summary(Summary.decode(summary))
            read.add(read.close(piece))
        assert told == read

    on_bench(body)


@pytest.mark.parametrize(("uncovered", "outcome"), [(3, Outcome.NOT_WORTH), (4, Outcome.DONE)])
def test_few_new_updates_are_left_as_they_are(uncovered: int, outcome: Outcome) -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(uncovered))
        assert await bench.compactor().compact_if_worth(DOCUMENT) is outcome

    on_bench(body)


def spans(stored: StoredDocument) -> list[tuple[int, int]]:
    return [(segment.first, segment.last) for segment in stored.segments]


def typed(client: int, count: int) -> list[bytes]:
    """Return the updates of a client that types so many letters at the beginning of the root text `t`."""
    rest = (update(section(client, n, text("x", origin=(client, n - 1)))) for n in range(1, count))
    return [update(section(client, 0, text("x"))), *rest]


def test_a_large_segment_is_not_rewritten_for_a_small_addition() -> None:
    async def body(bench: Bench) -> None:
        compactor = bench.compactor()
        await bench.write(typed(1, 400))
        await compactor.compact_if_worth(DOCUMENT)
        (first,) = (await bench.stored()).segments
        await bench.write(typed(2, 5))
        before = await bench.stored()
        assert await compactor.compact_if_worth(DOCUMENT) is Outcome.DONE
        after = await bench.stored()
        assert spans(after) == [(1, 400), (401, 405)]
        assert after.segments[0] == first
        assert content(after) == content(before)

    on_bench(body)


def test_segments_grow_geometrically_towards_the_first() -> None:
    async def body(bench: Bench) -> None:
        compactor = bench.compactor()
        rewritten = 0
        for client in range(1, 200):
            await bench.write(typed(client, 5))
            before = await bench.stored()
            assert await compactor.compact_if_worth(DOCUMENT) is Outcome.DONE
            after = await bench.stored()
            rewritten += sum(len(each.payload) for each in after.segments if each not in before.segments)
        sizes = [len(each.payload) for each in after.segments]
        assert all(older > 4 * newer for older, newer in pairwise(sizes))
        assert rewritten < 20 * sum(sizes)
        known = Known()
        for piece in stored_updates(after):
            known.add(known.close(piece))
        assert known.clocks == dict.fromkeys(range(1, 200), 5)

    on_bench(body)


def test_deletes_of_what_a_large_segment_holds_make_it_worth_rewriting() -> None:
    async def body(bench: Bench) -> None:
        compactor = bench.compactor()
        await bench.write(typed(1, 400))
        await compactor.compact_if_worth(DOCUMENT)
        await bench.write([*typed(2, 4), update(deletes=((1, 100, 400),))])
        before = await bench.stored()
        await compactor.compact_if_worth(DOCUMENT)
        after = await bench.stored()
        assert spans(after) == [(1, 405)]
        assert content(after) == content(before)
        assert sum(map(len, stored_updates(after))) < 200

    on_bench(body)


def test_R9_a_compaction_of_a_log_that_was_put_back_changes_nothing() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10, client=1))
        bench.workers.seconds = 1.0
        compaction = asyncio.ensure_future(bench.compactor().compact_if_worth(DOCUMENT))
        await asyncio.sleep(0.5)
        bench.log.remove(DOCUMENT)
        await bench.write(edits(10, client=2))
        assert await compaction is Outcome.OVERTAKEN
        assert (await bench.stored()).segments == []

    on_bench(body)


def test_R7_what_is_written_meanwhile_stays_behind_the_segment() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10, client=1))
        bench.workers.seconds = 1.0
        compaction = asyncio.ensure_future(bench.compactor().compact_if_worth(DOCUMENT))
        await asyncio.sleep(0.5)
        await bench.write(edits(3, client=2))
        assert await compaction is Outcome.DONE
        stored = await bench.stored()
        assert [segment.last for segment in stored.segments] == [10]
        assert [update.seq for update in stored.updates] == [11, 12, 13]

    on_bench(body)


def test_R7_a_compaction_that_was_overtaken_changes_nothing() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10))
        bench.workers.seconds = 1.0
        overtaken = asyncio.ensure_future(bench.compactor().compact_if_worth(DOCUMENT))
        await asyncio.sleep(0.1)
        bench.workers.seconds = 0.0
        assert await bench.compactor().compact_if_worth(DOCUMENT) is Outcome.DONE
        between = await bench.stored()
        assert await overtaken is Outcome.OVERTAKEN
        assert await bench.stored() == between

    on_bench(body)


@pytest.mark.parametrize(
    "failure", [WorkerFailed("compact"), CompactionMismatch("differs"), StorageUnavailable("away")]
)
def test_R7_a_compaction_that_fails_leaves_the_log_as_it_is(failure: Exception) -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10))
        before = await bench.stored()
        bench.workers.failure = failure
        assert await bench.compactor().compact_if_worth(DOCUMENT) is Outcome.FAILED
        assert await bench.stored() == before

    on_bench(body)


def test_R7_a_log_in_which_something_waits_for_what_is_not_there_is_left_as_it_is() -> None:
    async def body(bench: Bench) -> None:
        updates = typed(1, 10)
        await bench.write([*updates[:4], *updates[5:]])
        before = await bench.stored()
        assert await bench.compactor().compact_if_worth(DOCUMENT) is Outcome.FAILED
        assert await bench.stored() == before

    on_bench(body)


def test_R13_a_compaction_that_hangs_is_given_up_and_the_next_begins() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10))
        bench.workers.seconds = 3600.0
        assert await bench.compactor().compact_if_worth(DOCUMENT) is Outcome.FAILED
        assert bench.loop.time() == pytest.approx(50.0)

    on_bench(body)


def test_R13_one_document_at_a_time_is_in_memory() -> None:
    async def body(bench: Bench) -> None:
        others = [DocumentId(UUID(int=number)) for number in range(2, 7)]
        for document_id in others:
            await bench.write(edits(10), document_id)
        bench.workers.seconds = 1.0
        compactor = bench.compactor()
        outcomes = await asyncio.gather(*map(compactor.compact_if_worth, others))
        assert set(outcomes) == {Outcome.DONE}
        assert bench.workers.most_running == 1

    on_bench(body)


def test_raw_rows_stay_for_their_time_and_go_then() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10, client=1))
        compactor = bench.compactor()
        await compactor.compact_if_worth(DOCUMENT)
        assert len(await bench.log.history(DOCUMENT, Seq(1), Seq(10))) == 10
        await asyncio.sleep(1001.0)
        await bench.write(edits(10, client=2))
        before = await bench.stored()
        await compactor.compact_if_worth(DOCUMENT)
        assert [row.seq for row in await bench.log.history(DOCUMENT, Seq(1), Seq(20))] == list(range(11, 21))
        assert content(await bench.stored()) == content(before)

    on_bench(body)


def test_R9_raw_rows_younger_than_ten_minutes_stay_whatever_the_setting() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10, client=1))
        compactor = bench.compactor(replace(LIMITS, raw_rows_seconds=0.0))
        head = (await bench.stored()).head
        await asyncio.sleep(599.0)
        await bench.write(edits(10, client=2))
        await compactor.compact_if_worth(DOCUMENT)
        assert not isinstance(await bench.log.changes(DOCUMENT, head, 10), Diverged)
        await asyncio.sleep(2.0)
        await compactor.compact_if_worth(DOCUMENT)
        assert isinstance(await bench.log.changes(DOCUMENT, head, 10), Diverged)
        assert [row.seq for row in await bench.log.history(DOCUMENT, Seq(1), Seq(20))] == list(range(11, 21))

    on_bench(body)


def test_raw_rows_of_a_document_at_rest_go_too() -> None:
    async def body(bench: Bench) -> None:
        await bench.write(edits(10))
        compactor = bench.compactor()
        await compactor.compact_if_worth(DOCUMENT)
        before = await bench.stored()
        await asyncio.sleep(1001.0)
        assert await compactor.compact_if_worth(DOCUMENT) is Outcome.NOT_WORTH
        assert await bench.log.history(DOCUMENT, Seq(1), Seq(10)) == []
        assert content(await bench.stored()) == content(before)

    on_bench(body)


def test_a_document_that_is_gone_is_left_alone() -> None:
    async def body(bench: Bench) -> None:
        assert await bench.compactor().compact_if_worth(DOCUMENT) is Outcome.NOT_WORTH

    on_bench(body)


@pytest.mark.parametrize("pieces", [[], [b""], [b"a", b"bc" * 1000, b""]])
def test_pieces_are_read_as_they_were_stored(pieces: list[bytes]) -> None:
    assert decode_pieces(encode_pieces(pieces)) == pieces


@pytest.mark.parametrize("stored", [b"", b"\x02\x00", b"\x01\x01", b"\x01\x00\x00"])
def test_anything_else_is_no_stored_segment(stored: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_pieces(stored)
