"""Words that the tests of the log share."""

from collections.abc import Sequence
from uuid import uuid4

from schemas.ids import CommitId, DocumentId, Seq, UserId
from storage.contracts import Append, Appended, Head, NewUpdate, StoredDocument, StoredSegment
from tests.contracts.backends import FIRST_COMMIT, Backend

WRITER = UserId(uuid4())
FIRST = Head(Seq(1), FIRST_COMMIT)
"""The head of a document that has just been made."""

FILLED = CommitId(99)
"""The commit that filled a document made by `filled`."""


def place(seq: int, commit: int) -> Head:
    """A place in a log."""
    return Head(Seq(seq), CommitId(commit))


def an_append(document_id: DocumentId, after: Head, commit: int, *payloads: bytes) -> Append:
    """An append of these payloads by `WRITER`."""
    return Append(document_id, after, CommitId(commit), [NewUpdate(payload, WRITER) for payload in payloads])


def appended(document_id: DocumentId, first: int, last: int, previous: int | None) -> Appended:
    """The answer to an append."""
    return Appended(document_id, Seq(first), Seq(last), None if previous is None else CommitId(previous))


def segment(first: int, last: int, payload: bytes = b"merged") -> StoredSegment:
    """A segment over the updates first..last."""
    return StoredSegment(Seq(first), Seq(last), payload, b"summary")


def spans(*pairs: tuple[int, int]) -> Sequence[tuple[Seq, Seq]]:
    """Segments by their first and last Seq."""
    return [(Seq(first), Seq(last)) for first, last in pairs]


async def loaded(backend: Backend, document_id: DocumentId) -> StoredDocument:
    """The document as its log holds it; it must exist."""
    document = await backend.log.load(document_id)
    assert document is not None
    return document


async def filled(backend: Backend, count: int) -> DocumentId:
    """A document whose log holds the updates 1..count: the first by `FIRST_COMMIT`, the others by `FILLED`."""
    document_id = await backend.document()
    payloads = [b"u%d" % seq for seq in range(2, count + 1)]
    await backend.log.append([an_append(document_id, FIRST, FILLED, *payloads)])
    return document_id


def covered_seqs(document: StoredDocument) -> list[int]:
    """Every Seq that a loaded document holds, in the order given."""
    in_segments = [seq for each in document.segments for seq in range(each.first, each.last + 1)]
    return in_segments + [each.seq for each in document.updates]
