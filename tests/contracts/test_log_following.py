"""The rules UL9 and UL10 of `storage.contracts.UpdateLog`: how an instance learns what others appended."""

import asyncio
from uuid import uuid4

import pytest

from schemas.ids import DocumentId, Seq
from storage.contracts import BEGINNING, Changes, Diverged, Gone, Head, StoredUpdate
from tests.contracts.backends import FIRST_COMMIT, Backend
from tests.contracts.logs import FILLED, FIRST, an_append, filled, loaded, place, segment


def updates(first: int, last: int) -> list[StoredUpdate]:
    return [StoredUpdate(Seq(seq), b"u%d" % seq if seq > 1 else b"first") for seq in range(first, last + 1)]


async def test_UL9_heads_of_all_that_exist(backend: Backend) -> None:
    new, grown = await backend.document(), await filled(backend, 5)
    asked = [DocumentId(uuid4()), new, grown, DocumentId(uuid4())]
    assert await backend.log.heads(asked) == {new: FIRST, grown: place(5, FILLED)}
    assert await backend.log.heads([]) == {}


async def test_UL9_thousands_of_documents_are_one_question(backend: Backend) -> None:
    document_id = await backend.document()
    asked = [DocumentId(uuid4()) for _ in range(30_000)]
    assert await backend.log.heads([*asked, document_id]) == {document_id: FIRST}


async def test_UL10_gives_what_follows_a_place(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    await backend.log.append([an_append(document_id, place(5, FILLED), 100, b"u6", b"u7")])
    assert await backend.log.changes(document_id, FIRST, 100) == Changes(place(7, 100), updates(2, 7))
    assert await backend.log.changes(document_id, place(4, FILLED), 100) == Changes(place(7, 100), updates(5, 7))
    assert await backend.log.changes(document_id, BEGINNING, 100) == Changes(place(7, 100), updates(1, 7))


async def test_UL10_at_most_so_many_and_the_rest_from_there(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    await backend.log.append([an_append(document_id, place(5, FILLED), 100, b"u6")])
    first = await backend.log.changes(document_id, FIRST, 3)
    assert first == Changes(place(4, FILLED), updates(2, 4))
    assert isinstance(first, Changes)
    assert await backend.log.changes(document_id, first.head, 3) == Changes(place(6, 100), updates(5, 6))


async def test_UL10_at_the_head_there_is_nothing(backend: Backend) -> None:
    document_id = await filled(backend, 5)
    head = place(5, FILLED)
    assert await backend.log.changes(document_id, head, 10) == Changes(head, [])
    await backend.log.add_segments(document_id, [segment(1, 5)], [], head)
    await backend.log.purge_covered(document_id, 9_000.0, 100)
    assert await backend.log.changes(document_id, head, 10) == Changes(head, [])


@pytest.mark.parametrize("after", [place(5, 1), place(6, FILLED), place(4, FIRST_COMMIT), place(0, 1), place(70, 70)])
async def test_UL10_a_place_that_the_log_does_not_hold_diverges(backend: Backend, after: Head) -> None:
    document_id = await filled(backend, 5)
    assert await backend.log.changes(document_id, after, 10) == Diverged(document_id)


async def test_UL10_changes_that_are_purged_diverge(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    await backend.log.add_segments(document_id, [segment(1, 5)], [], place(6, FILLED))
    await backend.log.purge_covered(document_id, 9_000.0, 3)
    for after in (BEGINNING, FIRST, place(3, FILLED)):
        assert await backend.log.changes(document_id, after, 10) == Diverged(document_id)
    assert await backend.log.changes(document_id, place(4, FILLED), 10) == Changes(place(6, FILLED), updates(5, 6))


async def test_UL10_segments_do_not_hide_rows(backend: Backend) -> None:
    document_id = await filled(backend, 6)
    await backend.log.add_segments(document_id, [segment(1, 6)], [], place(6, FILLED))
    assert await backend.log.changes(document_id, FIRST, 10) == Changes(place(6, FILLED), updates(2, 6))


async def test_UL10_an_unknown_document_is_gone(backend: Backend) -> None:
    absent = DocumentId(uuid4())
    assert await backend.log.changes(absent, BEGINNING, 10) == Gone(absent)


async def test_UL10_a_follower_gets_everything_once_and_in_order_while_others_write(backend: Backend) -> None:
    document_id = await backend.document()

    async def write(writer: int) -> None:
        for number in range(20):
            commit = 1000 * (writer + 1) + number
            await backend.log.append([an_append(document_id, FIRST, commit, b"a", b"b")])

    writing = asyncio.gather(*map(write, range(3)))
    seen, at = [Seq(1)], FIRST
    while len(seen) < 121:
        done = writing.done()
        changes = await backend.log.changes(document_id, at, 7)
        assert isinstance(changes, Changes)
        seen += [each.seq for each in changes.updates]
        at = changes.head
        if done:
            await writing  # raises what a writer met
            assert changes.updates
        await asyncio.sleep(0)
    await writing
    assert seen == list(range(1, 122))
    assert (await loaded(backend, document_id)).head == at
