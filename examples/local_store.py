"""A replica's journal on disk, in one SQLite file."""

import sqlite3
from pathlib import Path

from pycrdt import merge_updates

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS updates"
    " (number INTEGER PRIMARY KEY AUTOINCREMENT, payload BLOB NOT NULL, is_unsaved INTEGER NOT NULL)",
    "CREATE INDEX IF NOT EXISTS unsaved ON updates (number) WHERE is_unsaved",
    "CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)


class StoreUnusable(Exception):
    """The store is open elsewhere, or belongs to another course."""


class Store:
    """A replica's journal in one SQLite file, which only its owner may read: it also keeps the sign-in.

    Local updates are on disk when `append` returns. Others are written down a moment later (`write_down`): what a crash takes of
    them, the server gives again. compact_rows: how many saved updates are worth merging.
    """

    def __init__(self, path: Path, compact_rows: int = 1_000) -> None:
        self._compact_rows = compact_rows
        path.touch(mode=0o600)
        self._database = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            # One program at a time: two would sync the same edits, and neither would see the other's.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise StoreUnusable(f"{path} is in use by another program") from error
        for statement in SCHEMA:
            self._database.execute(statement)
        self._database.execute("COMMIT")
        self._newest = int(self._database.execute("SELECT coalesce(max(number), 0) FROM updates").fetchone()[0])

    def append(self, update: bytes, *, is_local: bool) -> int:
        """See `Journal`."""
        self._begin()
        row = self._database.execute("INSERT INTO updates (payload, is_unsaved) VALUES (?, ?)", (update, is_local))
        self._newest = int(row.lastrowid or 0)
        if is_local:
            self.write_down()
        return self._newest

    def newest(self) -> int:
        """See `Journal`."""
        return self._newest

    def mark_saved(self, number: int) -> None:
        """See `Journal`."""
        self._begin()
        self._database.execute("UPDATE updates SET is_unsaved = 0 WHERE is_unsaved AND number <= ?", (number,))

    def unsaved(self) -> int:
        """Return how many local edits the server has not confirmed."""
        return int(self._database.execute("SELECT count(*) FROM updates WHERE is_unsaved").fetchone()[0])

    def updates(self) -> list[bytes]:
        """Return all updates in the order in which they came."""
        return [bytes(row[0]) for row in self._database.execute("SELECT payload FROM updates ORDER BY number")]

    def compact(self) -> None:
        """Put one update in the place of all those before the first unsaved one. Merged from the updates, never from the document:
        what the document cannot apply yet would be lost.
        """
        self._begin()
        end = self._database.execute("SELECT min(number) FROM updates WHERE is_unsaved").fetchone()[0]
        saved = "FROM updates WHERE number < ?"
        end = self._newest + 1 if end is None else end
        count = self._database.execute(f"SELECT count(*) {saved}", (end,)).fetchone()[0]
        if count >= self._compact_rows:
            rows = self._database.execute(f"SELECT number, payload {saved} ORDER BY number", (end,)).fetchall()
            last = rows[-1][0]
            merged = merge_updates(*(bytes(payload) for _, payload in rows))
            self._database.execute("DELETE FROM updates WHERE number < ?", (last,))
            self._database.execute("UPDATE updates SET payload = ? WHERE number = ?", (merged, last))
        self.write_down()

    def fact(self, name: str) -> str | None:
        """Return a remembered fact, or None."""
        row = self._database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Remember a fact; it is on disk on return."""
        self._begin()
        self._database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))
        self.write_down()

    def bind(self, name: str, value: str) -> None:
        """Remember a fact that never changes. Raises StoreUnusable when it was another."""
        known = self.fact(name)
        if known is None:
            self.remember(name, value)
        elif known != value:
            raise StoreUnusable(f"the store belongs to another {name}: {known}")

    def _begin(self) -> None:
        if not self._database.in_transaction:
            self._database.execute("BEGIN IMMEDIATE")

    def write_down(self) -> None:
        """Have everything so far on disk."""
        if self._database.in_transaction:
            self._database.execute("COMMIT")

    def close(self) -> None:
        """Write down and close."""
        self.write_down()
        self._database.close()
