"""The rules UL1 to UL8 of `storage.contracts.UpdateLog`."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from uuid import uuid4

import pytest

from schemas.ids import CommitId, DocumentId, Seq, UserId
from storage.contracts import (
    Append,
    Appended,
    ClientBinding,
    Diverged,
    Gone,
    NewUpdate,
    StoredDocument,
    StoredSegment,
    StoredUpdate,
)
from tests.contracts.backends import FIRST_COMMIT, Backend

WRITER = UserId(uuid4())


def an_append(document_id: DocumentId, expected: int, commit: int, *payloads: bytes) -> Append:
    updates = [NewUpdate(payload, WRITER) for payload in payloads]
    return Append(document_id, CommitId(expected), CommitId(commit), updates)


def segment(first: int, last: int, payload: bytes = b"merged") -> StoredSegment:
    return StoredSegment(Seq(first), Seq(last), payload, b"summary")


async def loaded(backend: Backend, document_id: DocumentId) -> StoredDocument:
    document = await backend.log.load(document_id)
    assert document is not None
    return document


async def filled(backend: Backend, count: int) -> DocumentId:
    """A document whose log holds the updates 1..count."""
    document_id = await backend.document()
    payloads = [b"u%d" % seq for seq in range(2, count + 1)]
    await backend.log.append([an_append(document_id, FIRST_COMMIT, 99, *payloads)])
    return document_id


async def test_UL1_seqs_follow_without_gaps(backend: Backend) -> None:
    document_id = await backend.document()
    first = await backend.log.append([an_append(document_id, FIRST_COMMIT, 2, b"a", b"b")])
    second = await backend.log.append([an_append(document_id, 2, 3, b"c")])
    assert list(first) == [Appended(document_id, Seq(2), Seq(3))]
    assert list(second) == [Appended(document_id, Seq(4), Seq(4))]
    document = await loaded(backend, document_id)
    assert (document.head, document.commit) == (4, 3)
    assert [(each.seq, each.payload) for each in document.updates] == [(1, b"first"), (2, b"a"), (3, b"b"), (4, b"c")]


async def test_UL1_concurrent_appends_give_one_winner_and_no_gap(backend: Backend) -> None:
    document_id = await backend.document()
    batches = [[an_append(document_id, FIRST_COMMIT, commit, b"%d" % commit)] for commit in range(10, 30)]
    results = [result for batch in await asyncio.gather(*map(backend.log.append, batches)) for result in batch]
    assert results.count(Appended(document_id, Seq(2), Seq(2))) == 1
    assert results.count(Diverged(document_id)) == 19
    assert (await loaded(backend, document_id)).head == 2


async def test_UL2_what_was_appended_is_there_after_a_restart(backend: Backend) -> None:
    document_id = await backend.document()
    await backend.log.append([an_append(document_id, FIRST_COMMIT, 2, b"\x00\xff" * 1000)])
    await backend.reopen()
    assert (await loaded(backend, document_id)).updates[-1].payload == b"\x00\xff" * 1000


async def test_UL2_one_batch_holds_many_documents(backend: Backend) -> None:
    documents = [await backend.document() for _ in range(30)]
    batch = [an_append(document_id, FIRST_COMMIT, 2, b"x", b"y") for document_id in documents]
    random.Random(1).shuffle(batch)
    results = await backend.log.append(batch)
    assert list(results) == [Appended(each.document_id, Seq(2), Seq(3)) for each in batch]
    assert [(await loaded(backend, each)).head for each in documents] == [3] * 30


async def test_UL3_diverged_and_gone_leave_the_others_alone(backend: Backend) -> None:
    known, other = await backend.document(), await backend.document()
    absent = DocumentId(uuid4())
    results = await backend.log.append(
        [
            an_append(absent, 0, 2, b"a"),
            an_append(other, 12345, 2, b"b"),
            an_append(known, FIRST_COMMIT, 2, b"c"),
        ]
    )
    assert list(results) == [Gone(absent), Diverged(other), Appended(known, Seq(2), Seq(2))]
    assert (await loaded(backend, other)).head == 1
    assert await backend.log.load(absent) is None


async def test_UL4_a_repeated_commit_appends_nothing(backend: Backend) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST_COMMIT, 2, b"a", b"b")
    first = await backend.log.append([append])
    assert await backend.log.append([append]) == first
    assert (await loaded(backend, document_id)).head == 3


async def test_UL4_a_repeated_commit_is_known_behind_later_ones(backend: Backend) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST_COMMIT, 2, b"a", b"b")
    first = await backend.log.append([append])
    await backend.log.append([an_append(document_id, 2, 3, b"c")])
    assert await backend.log.append([append]) == first
    assert await backend.log.append([replace(append, expected=CommitId(3))]) == first
    assert (await loaded(backend, document_id)).commit == 3


async def test_UL4_the_same_commit_id_in_two_documents_is_two_commits(backend: Backend) -> None:
    one, two = await backend.document(), await backend.document()
    await backend.log.append([an_append(one, FIRST_COMMIT, 2, b"a", b"b")])
    results = await backend.log.append([an_append(two, FIRST_COMMIT, 2, b"c")])
    assert list(results) == [Appended(two, Seq(2), Seq(2))]


async def test_UL4_a_batch_mixes_repeated_and_new(backend: Backend) -> None:
    one, two = await backend.document(), await backend.document()
    repeated = an_append(one, FIRST_COMMIT, 2, b"a")
    await backend.log.append([repeated])
    results = await backend.log.append([repeated, an_append(two, FIRST_COMMIT, 5, b"b")])
    assert list(results) == [Appended(one, Seq(2), Seq(2)), Appended(two, Seq(2), Seq(2))]


async def test_append_takes_bindings_again_and_again(backend: Backend) -> None:
    document_id = await backend.document()
    bindings = [ClientBinding(2**53 - 1, WRITER), ClientBinding(1, WRITER)]
    for expected, commit in ((FIRST_COMMIT, CommitId(2)), (CommitId(2), CommitId(3))):
        results = await backend.log.append([Append(document_id, expected, commit, [NewUpdate(b"a", None)], bindings)])
        assert isinstance(results[0], Appended)


@pytest.mark.parametrize("case", ["twice", "empty"])
async def test_append_refuses_what_means_nothing(backend: Backend, case: str) -> None:
    document_id = await backend.document()
    batch = {
        "twice": [an_append(document_id, FIRST_COMMIT, 2, b"a"), an_append(document_id, 2, 3, b"b")],
        "empty": [an_append(document_id, FIRST_COMMIT, 2)],
    }[case]
    with pytest.raises(ValueError, match=r"document may appear once|at least one update"):
        await backend.log.append(batch)
    assert (await loaded(backend, document_id)).head == 1


async def test_append_of_nothing_gives_nothing(backend: Backend) -> None:
    assert list(await backend.log.append([])) == []


async def test_UL5_an_unknown_document_is_none(backend: Backend) -> None:
    assert await backend.log.load(DocumentId(uuid4())) is None


async def test_UL5_load_sees_one_moment_while_others_write(backend: Backend) -> None:
    document_id = await backend.document()

    async def write() -> None:
        expected = FIRST_COMMIT
        for commit in range(2, 42):
            await backend.log.append([an_append(document_id, expected, commit, b"x")])
            expected = CommitId(commit)
            if commit % 10 == 0:
                first = commit - 9 if commit > 10 else 1
                assert await backend.log.add_segments(document_id, [segment(first, commit)], [])

    writing = asyncio.create_task(write())
    while not writing.done():
        document = await loaded(backend, document_id)
        assert covered_seqs(document) == list(range(1, document.head + 1))
        await asyncio.sleep(0)
    await writing
    assert (await loaded(backend, document_id)).head == 41


def covered_seqs(document: StoredDocument) -> list[int]:
    """Every Seq that a loaded document holds, in the order given."""
    in_segments = [seq for each in document.segments for seq in range(each.first, each.last + 1)]
    return in_segments + [each.seq for each in document.updates]


async def test_UL6_a_segment_stands_over_updates(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    assert await backend.log.add_segments(document_id, [segment(1, 4), segment(5, 8)], [])
    document = await loaded(backend, document_id)
    assert document.segments == [segment(1, 4), segment(5, 8)]
    assert [each.seq for each in document.updates] == [9, 10]


async def test_UL6_a_segment_replaces_older_ones_and_updates(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    await backend.log.add_segments(document_id, [segment(1, 4), segment(5, 8)], [])
    replaced = [(Seq(1), Seq(4)), (Seq(5), Seq(8))]
    assert await backend.log.add_segments(document_id, [segment(1, 9, b"wider")], replaced)
    document = await loaded(backend, document_id)
    assert document.segments == [segment(1, 9, b"wider")]
    assert covered_seqs(document) == list(range(1, 11))


async def test_UL6_never_removes_an_update_row(backend: Backend) -> None:
    document_id = await filled(backend, 10)
    await backend.log.add_segments(document_id, [segment(1, 10)], [])
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
    await backend.log.add_segments(document_id, [segment(1, 4), segment(5, 8)], [])
    before = await backend.log.load(document_id)
    named = [(Seq(first), Seq(last)) for first, last in replaces]
    assert not await backend.log.add_segments(document_id, [segment(*span) for span in new], named)
    assert await backend.log.load(document_id) == before


async def test_UL6_gives_false_for_an_unknown_document(backend: Backend) -> None:
    assert not await backend.log.add_segments(DocumentId(uuid4()), [segment(1, 1)], [])


@pytest.mark.parametrize(
    ("new", "replaces"),
    [([], []), ([(0, 1)], []), ([(2, 1)], []), ([(1, 2), (4, 5)], []), ([(4, 5), (1, 3)], []), ([(1, 3)], [(1, 4)])],
)
async def test_UL6_refuses_segments_that_contradict_themselves(
    backend: Backend, new: Sequence[tuple[int, int]], replaces: Sequence[tuple[int, int]]
) -> None:
    document_id = await filled(backend, 10)
    named = [(Seq(first), Seq(last)) for first, last in replaces]
    with pytest.raises(ValueError, match="segment"):
        await backend.log.add_segments(document_id, [segment(*span) for span in new], named)


async def test_UL7_purges_only_old_covered_rows_a_few_at_a_time(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    backend.clock.now = 2_000.0
    await backend.log.append([an_append(document_id, 99, 100, b"u7", b"u8")])
    await backend.log.add_segments(document_id, [segment(1, 7)], [])
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
