"""The rules SC1 and SC2 of `storage.contracts.StrandedChanges`."""

from dataclasses import replace
from uuid import UUID, uuid4

from schemas.ids import DocumentId, UserId
from storage.contracts import StrandedChange
from tests.contracts.backends import Backend

ANNA, BEN = UserId(UUID(int=1)), UserId(UUID(int=2))


async def test_SC1_a_newer_change_of_the_same_client_replaces_the_older(backend: Backend) -> None:
    document_id = await backend.document()
    older = StrandedChange(document_id, ANNA, 2**53 - 1, b"one", "forbidden")
    newer = replace(older, payload=b"one and two", reason="too_large")
    await backend.stranded.keep(older)
    await backend.stranded.keep(newer)
    assert list(await backend.stranded.list_for(document_id)) == [newer]


async def test_SC1_users_clients_and_documents_are_kept_apart(backend: Backend) -> None:
    document_id, other = await backend.document(), await backend.document()
    kept = [
        StrandedChange(document_id, ANNA, 1, b"a", "forbidden"),
        StrandedChange(document_id, ANNA, 2, b"b", "forbidden"),
        StrandedChange(document_id, BEN, 1, b"c", "forbidden"),
    ]
    for change in [*reversed(kept), replace(kept[0], document_id=other)]:
        await backend.stranded.keep(change)
    assert list(await backend.stranded.list_for(document_id)) == kept


async def test_SC2_a_kept_change_is_there_after_a_restart(backend: Backend) -> None:
    document_id = await backend.document()
    change = StrandedChange(document_id, ANNA, 1, b"\x00\xff", "gone")
    await backend.stranded.keep(change)
    await backend.reopen()
    assert list(await backend.stranded.list_for(document_id)) == [change]


async def test_SC1_a_change_is_kept_whatever_became_of_its_document(backend: Backend) -> None:
    change = StrandedChange(DocumentId(uuid4()), ANNA, 1, b"late", "gone")
    await backend.stranded.keep(change)
    assert list(await backend.stranded.list_for(change.document_id)) == [change]
