"""Stranded changes in SQL."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import select
from sqlalchemy.engine import Connection

from schemas.ids import DocumentId
from storage.contracts import StrandedChange
from storage.database import SqlDatabase
from storage.dialects import insert_or
from storage.tables import stranded_changes


class SqlStrandedChanges:
    """`StrandedChanges` on a database. now: seconds since 1970."""

    def __init__(self, database: SqlDatabase, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def keep(self, change: StrandedChange) -> None:
        """See SC1, SC2."""
        await self._database.write(partial(_keep, change, self._now()))

    async def list_for(self, document_id: DocumentId) -> Sequence[StrandedChange]:
        """The changes kept for a document, by user and client."""
        return await self._database.read(partial(_list, document_id))


def _keep(change: StrandedChange, now: float, connection: Connection) -> None:
    values = {"payload": change.payload, "reason": change.reason, "kept_at": now}
    connection.execute(
        insert_or(stranded_changes, connection)
        .values(document_id=change.document_id, user_id=change.user_id, client_id=change.client_id, **values)
        .on_conflict_do_update(index_elements=["document_id", "user_id", "client_id"], set_=values)
    )


def _list(document_id: DocumentId, connection: Connection) -> Sequence[StrandedChange]:
    table = stranded_changes.c
    rows = connection.execute(
        select(table.document_id, table.user_id, table.client_id, table.payload, table.reason)
        .where(table.document_id == document_id)
        .order_by(table.user_id, table.client_id)
    )
    return [StrandedChange(*row) for row in rows]
