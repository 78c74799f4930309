"""A document's log as one update, for backups, inspection and moving away."""

from constructure_sync.persistence.compactor import decode_pieces
from constructure_sync.protocol.update_writer import EMPTY_UPDATE, join_updates
from constructure_sync.replica.jobs import merge_updates
from storage.contracts import StoredDocument
from storage.database import DEFAULT_OPTIONS, DatabaseOptions
from storage.open import open_database


def stored_updates(stored: StoredDocument) -> list[bytes]:
    """Return everything that a stored document holds, as updates in their order."""
    pieces = [piece for segment in stored.segments for piece in decode_pieces(segment.payload)]
    return pieces + [update.payload for update in stored.updates]


async def export_document(database_url: str, name: str, options: DatabaseOptions = DEFAULT_OPTIONS) -> bytes | None:
    """Return the document of this name as one V1 update; None when there is none. Raises StorageUnavailable."""
    async with await open_database(database_url, options) as database:
        document_id = await database.courses.document_id(name)
        stored = None if document_id is None else await database.log.load(document_id)
    if stored is None:
        return None
    joined = join_updates(stored_updates(stored))
    if len(joined) > 1:  # where a struct overlaps one that was known in part, joining leaves two updates
        return merge_updates(joined)
    return joined[0] if joined else EMPTY_UPDATE
