"""Leases: which instance does a job that only one must do at a time.

Rows compared and set, not advisory locks: those belong to a session, which a pooler in transaction mode gives to somebody else.
"""

from functools import partial

from sqlalchemy import delete, or_
from sqlalchemy.engine import Connection

from storage.database import SqlDatabase
from storage.dialects import insert_or
from storage.tables import leases


class Leases:
    """The store of leases. name, holder: at most 64 characters. Moments are arguments: seconds since 1970.

    A lease ends by the clock of whoever asks for it: clocks that differ by more than a lease's length may make two holders.
    """

    def __init__(self, database: SqlDatabase) -> None:
        self._database = database

    async def acquire(self, name: str, holder: str, now: float, seconds: float) -> bool:
        """Take or renew a lease until `now` + `seconds`; False: somebody else holds it. Raises StorageUnavailable."""
        return await self._database.write(partial(_acquire, name, holder, now, now + seconds))

    async def release(self, name: str, holder: str) -> None:
        """Give a lease up; nothing happens when somebody else holds it. Raises StorageUnavailable."""
        held = delete(leases).where(leases.c.name == name, leases.c.holder == holder)
        await self._database.write(lambda connection: connection.execute(held).close())


def _acquire(name: str, holder: str, now: float, until: float, connection: Connection) -> bool:
    taken = (
        insert_or(leases, connection)
        .values(name=name, holder=holder, until=until)
        .on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": holder, "until": until},
            where=or_(leases.c.holder == holder, leases.c.until <= now),
        )
    )
    return connection.execute(taken).rowcount == 1
