"""The rules UL1 to UL4 of `storage.contracts.UpdateLog`: appending."""

import asyncio
import random
from dataclasses import replace
from uuid import uuid4

import pytest

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import BEGINNING, Append, Appended, ClientBinding, Diverged, Gone, Head, NewUpdate
from tests.contracts.backends import FIRST_COMMIT, Backend
from tests.contracts.logs import (
    FILLED,
    FIRST,
    WRITER,
    an_append,
    appended,
    covered_seqs,
    filled,
    loaded,
    place,
    segment,
)


async def test_UL1_seqs_follow_without_gaps(backend: Backend) -> None:
    document_id = await backend.document()
    first = await backend.log.append([an_append(document_id, FIRST, 2, b"a", b"b")])
    second = await backend.log.append([an_append(document_id, place(3, 2), 3, b"c")])
    assert list(first) == [appended(document_id, 2, 3, FIRST_COMMIT)]
    assert list(second) == [appended(document_id, 4, 4, 2)]
    document = await loaded(backend, document_id)
    assert document.head == place(4, 3)
    assert [(each.seq, each.payload) for each in document.updates] == [(1, b"first"), (2, b"a"), (3, b"b"), (4, b"c")]


async def test_UL1_concurrent_appends_follow_one_another_without_a_gap(backend: Backend) -> None:
    document_id = await backend.document()
    batches = [[an_append(document_id, FIRST, commit, b"%d" % commit)] for commit in range(10, 30)]
    results = [result for batch in await asyncio.gather(*map(backend.log.append, batches)) for result in batch]
    commit_of = {1: FIRST_COMMIT}
    for batch, result in zip(batches, results, strict=True):
        assert isinstance(result, Appended)
        commit_of[result.first] = batch[0].commit
    assert sorted(commit_of) == list(range(1, 22))
    assert all(isinstance(each, Appended) and each.previous == commit_of[each.first - 1] for each in results)
    document = await loaded(backend, document_id)
    assert document.head == Head(Seq(21), commit_of[21])
    assert [each.payload for each in document.updates[1:]] == [b"%d" % commit_of[seq] for seq in range(2, 22)]


async def test_UL2_what_was_appended_is_there_after_a_restart(backend: Backend) -> None:
    document_id = await backend.document()
    await backend.log.append([an_append(document_id, FIRST, 2, b"\x00\xff" * 1000)])
    await backend.reopen()
    assert (await loaded(backend, document_id)).updates[-1].payload == b"\x00\xff" * 1000


async def test_UL2_one_batch_holds_many_documents(backend: Backend) -> None:
    documents = [await backend.document() for _ in range(30)]
    batch = [an_append(document_id, FIRST, 2, b"x", b"y") for document_id in documents]
    random.Random(1).shuffle(batch)
    results = await backend.log.append(batch)
    assert list(results) == [appended(each.document_id, 2, 3, FIRST_COMMIT) for each in batch]
    assert [(await loaded(backend, each)).head for each in documents] == [place(3, 2)] * 30


async def test_UL3_diverged_and_gone_leave_the_others_alone(backend: Backend) -> None:
    known, other = await backend.document(), await backend.document()
    absent = DocumentId(uuid4())
    results = await backend.log.append(
        [
            an_append(absent, BEGINNING, 2, b"a"),
            an_append(other, place(1, 12345), 2, b"b"),
            an_append(known, FIRST, 2, b"c"),
        ]
    )
    assert list(results) == [Gone(absent), Diverged(other), appended(known, 2, 2, FIRST_COMMIT)]
    assert (await loaded(backend, other)).head == FIRST
    assert await backend.log.load(absent) is None


async def test_UL3_an_append_goes_behind_what_others_appended(backend: Backend) -> None:
    document_id = await backend.document()
    await backend.log.append([an_append(document_id, FIRST, 2, b"a", b"b")])
    results = await backend.log.append([an_append(document_id, FIRST, 3, b"c")])
    assert list(results) == [appended(document_id, 4, 4, 2)]


async def test_UL3_an_append_may_know_only_the_beginning(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    results = await backend.log.append([an_append(document_id, BEGINNING, 2, b"a")])
    assert list(results) == [appended(document_id, 6, 6, FILLED)]


async def test_UL3_a_place_inside_a_commit_is_held(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    results = await backend.log.append([an_append(document_id, place(3, FILLED), 2, b"a")])
    assert list(results) == [appended(document_id, 6, 6, FILLED)]


@pytest.mark.parametrize(
    "after",
    [
        place(5, 12345),  # the head's number, of another commit
        place(6, FILLED),  # the head's commit, beyond it
        place(3, FIRST_COMMIT),  # a commit that is there, at another number
        place(0, FILLED),
        place(100, 100),
    ],
)
async def test_UL3_a_place_that_the_log_does_not_hold_diverges(backend: Backend, after: Head) -> None:
    document_id = await filled(backend, 5)
    before = await loaded(backend, document_id)
    assert list(await backend.log.append([an_append(document_id, after, 2, b"a")])) == [Diverged(document_id)]
    assert await loaded(backend, document_id) == before


async def test_UL3_a_place_whose_row_is_purged_is_no_longer_held(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    await backend.log.add_segments(document_id, [segment(1, 5)], [], place(5, FILLED))
    assert await backend.log.purge_covered(document_id, 9_000.0, 3) == 3
    results = [
        (await backend.log.append([an_append(document_id, after, commit, b"a")]))[0]
        for commit, after in enumerate((place(3, FILLED), place(4, FILLED), BEGINNING), 200)
    ]
    assert results == [Diverged(document_id), appended(document_id, 6, 6, FILLED), appended(document_id, 7, 7, 201)]


async def test_UL3_the_head_is_held_though_its_row_is_purged(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    await backend.log.add_segments(document_id, [segment(1, 5)], [], place(5, FILLED))
    assert await backend.log.purge_covered(document_id, 9_000.0, 100) == 5
    results = await backend.log.append([an_append(document_id, place(5, FILLED), 2, b"a")])
    assert list(results) == [appended(document_id, 6, 6, FILLED)]


async def test_UL3_one_batch_holds_appends_behind_every_kind_of_place(backend: Backend) -> None:
    at_head, behind, other = [await filled(backend, 5) for _ in range(3)]
    results = await backend.log.append(
        [
            an_append(behind, place(2, FILLED), 2, b"a"),
            an_append(at_head, place(5, FILLED), 2, b"b"),
            an_append(other, place(2, 12345), 2, b"c"),
        ]
    )
    assert list(results) == [appended(behind, 6, 6, FILLED), appended(at_head, 6, 6, FILLED), Diverged(other)]


async def test_UL4_a_repeated_commit_appends_nothing(backend: Backend) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST, 2, b"a", b"b")
    first = await backend.log.append([append])
    assert await backend.log.append([append]) == first
    assert (await loaded(backend, document_id)).head == place(3, 2)


async def test_UL4_a_repeated_commit_is_known_behind_later_ones(backend: Backend) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST, 2, b"a", b"b")
    first = await backend.log.append([append])
    await backend.log.append([an_append(document_id, place(3, 2), 3, b"c")])
    assert await backend.log.append([append]) == first
    assert await backend.log.append([replace(append, after=place(4, 3))]) == first
    assert (await loaded(backend, document_id)).head == place(4, 3)


async def test_UL4_a_repeated_commit_is_known_whatever_place_it_names(backend: Backend) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST, 2, b"a", b"b")
    first = await backend.log.append([append])
    assert await backend.log.append([replace(append, after=place(9, 12345))]) == first


@pytest.mark.parametrize("purged", [0, 4])
async def test_UL4_a_repeated_commit_is_known_as_the_place_that_it_names(backend: Backend, purged: int) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST, 2, b"a", b"b", b"c")
    await backend.log.append([append])
    await backend.log.add_segments(document_id, [segment(1, 4)], [], place(4, 2))
    assert await backend.log.purge_covered(document_id, 9_000.0, purged) == purged
    results = await backend.log.append([replace(append, after=place(4, 2))])
    assert list(results) == [appended(document_id, 2, 4, None if purged else FIRST_COMMIT)]


async def test_UL4_a_batch_is_told_apart_document_by_document(backend: Backend) -> None:
    fresh, behind, repeated, bound = [await filled(backend, 5) for _ in range(4)]
    absent, diverged = DocumentId(uuid4()), await filled(backend, 5)
    head = place(5, FILLED)
    again = an_append(repeated, head, 2, b"r")
    await backend.log.append([again, an_append(behind, head, 3, b"other")])
    seen = replace(an_append(bound, head, 4, b"x"), bindings=[ClientBinding(1, WRITER)])
    results = await backend.log.append(
        [
            an_append(fresh, head, 5, b"f", b"g"),
            an_append(absent, head, 6, b"a"),
            an_append(behind, head, 7, b"h", b"i"),
            replace(again, after=place(6, 2)),
            an_append(diverged, place(5, 12345), 8, b"d"),
            seen,
        ]
    )
    assert list(results) == [
        appended(fresh, 6, 7, FILLED),
        Gone(absent),
        appended(behind, 7, 8, 3),
        appended(repeated, 6, 6, FILLED),
        Diverged(diverged),
        appended(bound, 6, 6, FILLED),
    ]
    documents = [await loaded(backend, each) for each in (fresh, behind, repeated, diverged, bound)]
    assert [each.head for each in documents] == [place(7, 5), place(8, 7), place(6, 2), head, place(6, 4)]
    assert [[each.payload for each in document.updates[5:]] for document in documents] == [
        [b"f", b"g"],
        [b"other", b"h", b"i"],
        [b"r"],
        [],
        [b"x"],
    ]


async def test_UL4_a_repeated_commit_is_known_when_its_rows_are_purged(backend: Backend) -> None:
    document_id = await backend.document()
    append = an_append(document_id, FIRST, 2, b"a", b"b", b"c")
    await backend.log.append([append])
    await backend.log.add_segments(document_id, [segment(1, 4)], [], place(4, 2))
    for _ in range(4):
        assert await backend.log.purge_covered(document_id, 9_000.0, 1) == 1
        assert list(await backend.log.append([append])) == [appended(document_id, 2, 4, None)]


async def test_UL4_a_repeated_first_commit_follows_nothing(backend: Backend) -> None:
    document_id = await backend.document()
    repeated = an_append(document_id, BEGINNING, FIRST_COMMIT, b"first")
    assert list(await backend.log.append([repeated])) == [appended(document_id, 1, 1, 0)]


async def test_UL4_the_same_commit_id_in_two_documents_is_two_commits(backend: Backend) -> None:
    one, two = await backend.document(), await backend.document()
    await backend.log.append([an_append(one, FIRST, 2, b"a", b"b")])
    results = await backend.log.append([an_append(two, FIRST, 2, b"c")])
    assert list(results) == [appended(two, 2, 2, FIRST_COMMIT)]


async def test_UL4_a_batch_mixes_repeated_and_new(backend: Backend) -> None:
    one, two = await backend.document(), await backend.document()
    repeated = an_append(one, FIRST, 2, b"a")
    await backend.log.append([repeated])
    results = await backend.log.append([repeated, an_append(two, FIRST, 5, b"b")])
    assert list(results) == [appended(one, 2, 2, FIRST_COMMIT), appended(two, 2, 2, FIRST_COMMIT)]


async def test_UL4_the_same_batch_twice_at_once_is_appended_once(backend: Backend) -> None:
    documents = [await backend.document() for _ in range(5)]
    batch = [an_append(each, FIRST, 2, b"a", b"b") for each in documents]
    one, two = await asyncio.gather(backend.log.append(batch), backend.log.append(batch[::-1]))
    assert list(one) == list(two)[::-1] == [appended(each, 2, 3, FIRST_COMMIT) for each in documents]
    assert [covered_seqs(await loaded(backend, each)) for each in documents] == [[1, 2, 3]] * 5


async def test_append_takes_bindings_again_and_again(backend: Backend) -> None:
    document_id = await backend.document()
    bindings = [ClientBinding(2**53 - 1, WRITER), ClientBinding(1, WRITER)]
    for after, commit in ((FIRST, CommitId(2)), (place(2, 2), CommitId(3))):
        results = await backend.log.append([Append(document_id, after, commit, [NewUpdate(b"a", None)], bindings)])
        assert isinstance(results[0], Appended)


@pytest.mark.parametrize("case", ["twice", "empty"])
async def test_append_refuses_what_means_nothing(backend: Backend, case: str) -> None:
    document_id = await backend.document()
    batch = {
        "twice": [an_append(document_id, FIRST, 2, b"a"), an_append(document_id, place(2, 2), 3, b"b")],
        "empty": [an_append(document_id, FIRST, 2)],
    }[case]
    with pytest.raises(ValueError, match=r"document may appear once|at least one update"):
        await backend.log.append(batch)
    assert (await loaded(backend, document_id)).head == FIRST


async def test_append_of_nothing_gives_nothing(backend: Backend) -> None:
    assert list(await backend.log.append([])) == []
