"""Looking into logs and repairing them, on both databases."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from schemas.ids import CommitId, DocumentId, Seq
from storage.contracts import Append, Appended, Diverged, Head, NewUpdate, StoredSegment
from storage.repair import EMPTY_UPDATE, LeftOut, Repair
from tests.contracts.backends import FIRST_COMMIT, SqlBackend

COMMIT = CommitId(2**62)
SEGMENT = StoredSegment(Seq(1), Seq(5), b"pieces", b"summaries")


@pytest.fixture(params=["sqlite", "postgres"])
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SqlBackend]:
    if request.param == "sqlite":
        made = await SqlBackend.sqlite(tmp_path)
    else:
        made = await SqlBackend.postgres(request.getfixturevalue("postgres_url"))
    yield made
    await made.close()


async def five(backend: SqlBackend) -> DocumentId:
    """Return a document of five updates."""
    document = await backend.document()
    updates = [NewUpdate(f"update {seq}".encode(), backend.owner) for seq in range(2, 6)]
    await backend.log.append([Append(document, Head(Seq(1), FIRST_COMMIT), COMMIT, updates)])
    return document


def repair(backend: SqlBackend) -> Repair:
    return Repair(backend.database, backend.clock)


async def rows(backend: SqlBackend, document: DocumentId) -> list[bytes]:
    return [row.payload for row in await backend.log.history(document, Seq(1), Seq(99))]


async def test_facts_and_content_tell_what_is_stored(backend: SqlBackend) -> None:
    document = await five(backend)
    store = repair(backend)

    facts, content = await store.facts(document), await store.content(document)

    assert facts is not None
    assert content is not None
    assert facts.head == content.head == Head(Seq(5), COMMIT)
    assert content.head_row == COMMIT
    assert [writer.seq for writer in facts.writers] == [5, 4, 3, 2, 1]
    assert {writer.name for writer in facts.writers} == {"Owner"}
    assert [update.payload for update in content.updates] == await rows(backend, document)
    assert [each.id for each in await store.documents(None, 10)] == [document]
    assert await store.documents(document, 10) == []
    assert await store.facts(DocumentId(uuid4())) is None
    assert await store.content(DocumentId(uuid4())) is None


async def test_an_update_goes_to_quarantine_and_comes_back(backend: SqlBackend) -> None:
    document = await five(backend)
    store, before = repair(backend), await rows(backend, document)
    backend.clock.now = 2_000.0

    assert await store.quarantine(document, Seq(3), "damaged")
    assert not await store.quarantine(document, Seq(3), "again")
    assert not await store.quarantine(document, Seq(6), "there is none")
    assert not await store.quarantine(DocumentId(uuid4()), Seq(1), "there is none")

    assert await rows(backend, document) == [*before[:2], EMPTY_UPDATE, *before[3:]]
    facts = await store.facts(document)
    assert facts is not None
    assert facts.read_only_reason == "update 3 is in quarantine"
    (taken,) = facts.quarantined
    assert (taken.seq, taken.size, taken.reason, taken.quarantined_at) == (3, 8, "damaged", 2_000.0)
    assert await store.restore(document, Seq(3))
    assert not await store.restore(document, Seq(3))
    assert await rows(backend, document) == before
    facts = await store.facts(document)
    assert facts is not None
    assert facts.read_only_reason is None
    assert facts.quarantined == []


async def test_a_document_is_read_only_until_the_last_update_is_back(backend: SqlBackend) -> None:
    document = await five(backend)
    store = repair(backend)
    for seq in (2, 3):
        await store.quarantine(document, Seq(seq), "damaged")

    for seq, is_read_only in ((3, True), (2, False)):
        await store.restore(document, Seq(seq))
        facts = await store.facts(document)
        assert facts is not None
        assert (facts.read_only_reason is not None) is is_read_only


async def test_R7_no_row_goes_while_a_document_awaits_repair(backend: SqlBackend) -> None:
    document = await five(backend)
    store, head = repair(backend), Head(Seq(5), COMMIT)
    await backend.log.add_segments(document, [StoredSegment(Seq(1), Seq(2), b"", b"")], [], head)
    assert await backend.log.to_sweep(None, 1, 10) == [document]
    await store.quarantine(document, Seq(4), "damaged")

    assert await backend.log.to_sweep(None, 1, 10) == []
    assert await backend.log.purge_covered(document, 1e12, 10) == 0
    assert not await backend.log.add_segments(document, [StoredSegment(Seq(3), Seq(5), b"", b"")], [], head)

    await store.restore(document, Seq(4))
    assert await backend.log.to_sweep(None, 1, 10) == [document]
    assert await backend.log.purge_covered(document, 1e12, 10) == 2


async def test_R9_segments_are_replaced_at_the_head_only_and_whoever_knew_it_notices(backend: SqlBackend) -> None:
    document = await five(backend)
    store, head = repair(backend), Head(Seq(5), COMMIT)
    await backend.log.add_segments(document, [StoredSegment(Seq(1), Seq(2), b"old", b"")], [], head)
    await store.quarantine(document, Seq(3), "damaged")
    assert not await store.replace_segments(document, Head(Seq(4), COMMIT), SEGMENT, [])
    assert not await store.replace_segments(document, Head(Seq(5), CommitId(1)), SEGMENT, [])

    left_out = [LeftOut(Seq(3), "known already"), LeftOut(Seq(4), "waits"), LeftOut(Seq(77), "is not stored")]
    assert await store.replace_segments(document, head, SEGMENT, left_out)

    stored = await backend.log.load(document)
    facts, content = await store.facts(document), await store.content(document)
    assert stored is not None
    assert facts is not None
    assert content is not None
    assert (stored.segments, stored.updates) == ([SEGMENT], [])
    assert facts.read_only_reason is None
    assert (facts.covered_seq, facts.derived_seq) == (5, 0)
    assert [(each.seq, each.reason) for each in facts.quarantined] == [(3, "damaged"), (4, "waits")]
    assert content.quarantined == {3, 4}
    assert content.head_row == content.head.commit != COMMIT
    update = [NewUpdate(b"late", None)]
    (late,) = await backend.log.append([Append(document, head, CommitId(5), update)])
    assert late == Diverged(document)
    (fresh,) = await backend.log.append([Append(document, content.head, CommitId(6), update)])
    assert isinstance(fresh, Appended)


@pytest.mark.parametrize("is_purged", [False, True])
async def test_an_update_that_is_back_is_saved_anew(backend: SqlBackend, is_purged: bool) -> None:
    document = await five(backend)
    store, before = repair(backend), await rows(backend, document)
    await store.replace_segments(document, Head(Seq(5), COMMIT), SEGMENT, [LeftOut(Seq(2), "waits")])
    if is_purged:
        assert await backend.log.purge_covered(document, 1e12, 10) == 5

    backend.clock.now = 3_000.0
    assert await store.restore(document, Seq(2))

    # Its retention counts from now: it is there when the log is rebuilt.
    await backend.log.purge_covered(document, 2_999.0, 10)
    assert await rows(backend, document) == [before[1]]
