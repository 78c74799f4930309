"""Print what the log of some courses holds, read by this fresh process: JSON lines for `read_log.mjs`.

`python -m tests.faults.read_log DATABASE_URL COURSE …`; each course gives `opened`, what a room loads (segments and the updates
after them), and `raw`, every update row as it was saved.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Sequence

from sqlalchemy import text

from constructure_sync.persistence.export import stored_updates
from schemas.ids import Seq
from storage.open import Database, open_database


async def read(database_url: str, courses: Sequence[str]) -> None:
    """Print the log of these courses. Raises RuntimeError where the database is damaged or a course is gone."""
    async with await open_database(database_url) as database:
        # Postgres checks each page as it is read.
        found = await integrity(database) if database_url.startswith("sqlite:") else "ok"
        if found != "ok":
            raise RuntimeError(f"the database is damaged: {found}")
        for course in courses:
            document_id = await database.courses.document_id(course)
            stored = None if document_id is None else await database.log.load(document_id)
            if document_id is None or stored is None:
                raise RuntimeError(f"course {course} is gone")
            _print(course, "opened", stored_updates(stored))
            rows = await database.log.history(document_id, Seq(1), stored.head.seq)
            if [row.seq for row in rows] != list(range(1, stored.head.seq + 1)):
                raise RuntimeError(f"the log of course {course} has holes")
            _print(course, "raw", [row.payload for row in rows])


async def integrity(database: Database) -> str:
    """Return "ok", or what SQLite finds wrong with its file."""
    found = await database.connections.read(
        lambda connection: connection.execute(text("PRAGMA integrity_check")).scalars().all()
    )
    return "; ".join(map(str, found))


def _print(course: str, kind: str, updates: Sequence[bytes]) -> None:
    encoded = [base64.b64encode(update).decode() for update in updates]
    print(json.dumps({"course": course, "kind": kind, "updates": encoded}))


if __name__ == "__main__":
    asyncio.run(read(sys.argv[1], sys.argv[2:]))
