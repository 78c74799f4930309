"""The rules UL5 to UL8 and UL11 of `storage.contracts.UpdateLog`: loading, segments, purging, and what is to be swept."""

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import pytest

from schemas.ids import DocumentId, Seq
from storage.contracts import BEGINNING, Head, StoredUpdate
from tests.contracts.backends import Backend
from tests.contracts.logs import (
    FILLED,
    FIRST,
    an_append,
    covered_seqs,
    filled,
    loaded,
    place,
    segment,
    spans,
)

TEN = place(10, FILLED)


async def test_UL5_an_unknown_document_is_none(backend: Backend) -> None:
    assert await backend.log.load(DocumentId(uuid4())) is None


async def test_UL5_load_sees_one_moment_while_others_write(backend: Backend) -> None:
    document_id = await backend.document()

    async def write() -> None:
        after = FIRST
        for commit in range(2, 42):
            await backend.log.append([an_append(document_id, after, commit, b"x")])
            after = place(commit, commit)
            if commit % 10 == 0:
                first = commit - 9 if commit > 10 else 1
                assert await backend.log.add_segments(document_id, [segment(first, commit)], [], after)

    writing = asyncio.create_task(write())
    while not writing.done():
        document = await loaded(backend, document_id)
        assert covered_seqs(document) == list(range(1, document.head.seq + 1))
        await asyncio.sleep(0)
    await writing
    assert (await loaded(backend, document_id)).head.seq == 41


async def test_UL6_a_segment_stands_over_updates(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    assert await backend.log.add_segments(document_id, [segment(1, 4), segment(5, 8)], [], TEN)
    document = await loaded(backend, document_id)
    assert document.segments == [segment(1, 4), segment(5, 8)]
    assert [each.seq for each in document.updates] == [9, 10]


async def test_UL6_a_segment_replaces_older_ones_and_updates(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    await backend.log.add_segments(document_id, [segment(1, 4), segment(5, 8)], [], TEN)
    replaced = spans((1, 4), (5, 8))
    assert await backend.log.add_segments(document_id, [segment(1, 9, b"wider")], replaced, TEN)
    document = await loaded(backend, document_id)
    assert document.segments == [segment(1, 9, b"wider")]
    assert covered_seqs(document) == list(range(1, 11))


async def test_UL6_never_removes_an_update_row(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    await backend.log.add_segments(document_id, [segment(1, 10)], [], TEN)
    assert len(await backend.log.history(document_id, Seq(1), Seq(10))) == 10


@pytest.mark.parametrize(
    ("new", "replaces"),
    [
        ([(1, 8)], []),  # a segment stands there that was not named
        ([(1, 8)], [(1, 4)]),  # one of two was not named
        ([(1, 8)], [(1, 4), (5, 7)]),  # named one that is not there
        ([(1, 3)], []),  # would cut a stored one in two
        ([(10, 10)], []),  # leaves a hole at 9
        ([(9, 11)], []),  # beyond the head
        ([(9, 9)], [(9, 9)]),  # names an update row
    ],
)
async def test_UL6_is_fenced_by_what_is_stored(
    backend: Backend, new: Sequence[tuple[int, int]], replaces: Sequence[tuple[int, int]]
) -> None:
    document_id = await filled(backend, 10)
    await backend.log.add_segments(document_id, [segment(1, 4), segment(5, 8)], [], TEN)
    before = await backend.log.load(document_id)
    segments = [segment(*span) for span in new]
    assert not await backend.log.add_segments(document_id, segments, spans(*replaces), TEN)
    assert await backend.log.load(document_id) == before


@pytest.mark.parametrize("at", [place(10, 12345), place(11, FILLED), place(8, 12345)])
async def test_UL6_is_fenced_by_the_place_it_was_computed_from(backend: Backend, at: Head) -> None:
    document_id = await filled(backend, 10)
    before = await backend.log.load(document_id)
    assert not await backend.log.add_segments(document_id, [segment(1, 8)], [], at)
    assert await backend.log.load(document_id) == before


async def test_UL6_the_log_may_have_grown_meanwhile(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    await backend.log.append([an_append(document_id, TEN, 100, b"u11")])
    assert await backend.log.add_segments(document_id, [segment(1, 8)], [], TEN)
    assert covered_seqs(await loaded(backend, document_id)) == list(range(1, 12))


async def test_UL6_gives_false_for_an_unknown_document(backend: Backend) -> None:
    assert not await backend.log.add_segments(DocumentId(uuid4()), [segment(1, 1)], [], BEGINNING)


@pytest.mark.parametrize(
    ("new", "replaces"),
    [([], []), ([(0, 1)], []), ([(2, 1)], []), ([(1, 2), (4, 5)], []), ([(4, 5), (1, 3)], []), ([(1, 3)], [(1, 4)])],
)
async def test_UL6_refuses_segments_that_contradict_themselves(
    backend: Backend, new: Sequence[tuple[int, int]], replaces: Sequence[tuple[int, int]]
) -> None:
    document_id = await filled(backend, 10)
    with pytest.raises(ValueError, match="segment"):
        await backend.log.add_segments(document_id, [segment(*span) for span in new], spans(*replaces), TEN)


async def test_UL7_purges_only_old_covered_rows_a_few_at_a_time(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    backend.clock.now = 2_000.0
    await backend.log.append([an_append(document_id, place(6, FILLED), 100, b"u7", b"u8")])
    await backend.log.add_segments(document_id, [segment(1, 7)], [], place(8, 100))
    before = await backend.log.load(document_id)
    assert await backend.log.purge_covered(document_id, 1_000.0, 100) == 0
    assert await backend.log.purge_covered(document_id, 1_500.0, 4) == 4
    assert await backend.log.purge_covered(document_id, 1_500.0, 4) == 2
    assert await backend.log.purge_covered(document_id, 1_500.0, 4) == 0
    assert await backend.log.purge_covered(document_id, 9_000.0, 4) == 1
    assert await backend.log.load(document_id) == before
    assert list(await backend.log.history(document_id, Seq(1), Seq(8))) == [StoredUpdate(Seq(8), b"u8")]


async def test_UL7_purges_nothing_without_a_segment(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    assert await backend.log.purge_covered(document_id, 9_000.0, 100) == 0
    assert await backend.log.purge_covered(DocumentId(uuid4()), 9_000.0, 100) == 0


async def test_UL8_history_gives_the_asked_updates_in_order(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    given = await backend.log.history(document_id, Seq(3), Seq(5))
    assert list(given) == [StoredUpdate(Seq(seq), b"u%d" % seq) for seq in (3, 4, 5)]
    assert list(await backend.log.history(document_id, Seq(6), Seq(99))) == [StoredUpdate(Seq(6), b"u6")]
    assert list(await backend.log.history(document_id, Seq(7), Seq(99))) == []


async def swept(backend: Backend, uncovered: int) -> set[DocumentId]:
    return set(await backend.log.to_sweep(None, uncovered, 1000))


async def test_UL11_a_document_with_many_uncovered_updates_is_to_be_swept(backend: Backend) -> None:
    few, many = await filled(backend, 4), await filled(backend, 5)
    assert await swept(backend, 5) == {many}
    assert await swept(backend, 4) == {few, many}
    assert await backend.log.add_segments(many, [segment(1, 1)], [], place(5, FILLED))
    assert await backend.log.purge_covered(many, 9_000.0, 100) == 1
    assert await swept(backend, 5) == set()
    assert await swept(backend, 4) == {few, many}


async def test_UL11_a_document_with_covered_rows_is_to_be_swept_until_they_are_purged(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    assert await backend.log.add_segments(document_id, [segment(1, 2), segment(3, 4)], [], place(6, FILLED))
    for rows in (3, 1):
        assert await swept(backend, 100) == {document_id}
        assert await backend.log.purge_covered(document_id, 9_000.0, 3) == rows
    assert await swept(backend, 100) == set()
    assert await backend.log.add_segments(document_id, [segment(1, 6)], spans((1, 2), (3, 4)), place(6, FILLED))
    assert await swept(backend, 100) == {document_id}


async def test_UL11_a_row_that_an_uneven_clock_left_behind_is_found(backend: Backend) -> None:
    document_id = await backend.document()
    after = FIRST
    for seq, moment in ((2, 3_000.0), (3, 2_000.0)):
        backend.clock.now = moment
        await backend.log.append([an_append(document_id, after, seq, b"x")])
        after = place(seq, seq)
    await backend.log.add_segments(document_id, [segment(1, 3)], [], after)
    assert await backend.log.purge_covered(document_id, 2_500.0, 100) == 2
    assert await swept(backend, 100) == {document_id}
    assert await backend.log.purge_covered(document_id, 9_000.0, 100) == 1
    assert await swept(backend, 100) == set()


async def test_UL11_gives_ids_in_order_a_few_at_a_time(backend: Backend) -> None:
    documents = sorted([await filled(backend, 5) for _ in range(7)])
    seen: list[DocumentId] = []
    while found := await backend.log.to_sweep(seen[-1] if seen else None, 5, 3):
        assert len(found) <= 3
        seen += found
    assert seen == documents
