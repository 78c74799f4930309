"""What other servers left behind: documents by name, each as the updates that were stored of it.

Nothing here trusts what it reads but its size: updates go on to the strict reader as they lie there. Sources are only read.
"""

import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote, unquote_to_bytes

from constructure_sync.errors import ConstructureError

MAX_DOCUMENT_BYTES: Final = 1024 * 1024 * 1024
"""What is read of one document at most: all of it is in memory at once."""

_BUSY_SECONDS: Final = 10.0
_YSTORE_VERSION: Final = 2
_EXTENSIONS: Final = (".update", ".yjs", ".bin")


class SourceKind(StrEnum):
    """What can be read directly."""

    HOCUSPOCUS_SQLITE = "hocuspocus-sqlite"
    PYCRDT_SQLITE = "pycrdt-sqlite"
    FOLDER = "folder"


class SourceError(ConstructureError):
    """The source, or one document of it, cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class SourceUpdate:
    """One stored update. label: where it lay ("row 17"), unique within its document."""

    label: str
    payload: bytes


class Source(Protocol):
    """Documents of another system. `read` raises SourceError, for that document alone."""

    def names(self) -> Sequence[str]:
        """Return the names of all documents, in order."""
        ...

    def read(self, name: str) -> Sequence[SourceUpdate]:
        """Return what was stored of a document, in the order in which it was stored."""
        ...

    def close(self) -> None:
        """Let the source go."""
        ...


def open_source(kind: SourceKind, path: Path) -> Source:
    """Return the documents at `path`. SourceError: it is not there, or not of this kind."""
    match kind:
        case SourceKind.HOCUSPOCUS_SQLITE:
            return HocuspocusSqlite(path)
        case SourceKind.PYCRDT_SQLITE:
            return PycrdtSqlite(path)
        case SourceKind.FOLDER:
            return UpdateFolder(path)


class _SqliteFile:
    """A SQLite file of somebody else, opened for reading. Names are looked up by the bytes that they were stored as."""

    def __init__(self, path: Path, table: str, columns: set[str]) -> None:
        if not path.is_file():
            raise SourceError(f"there is no file {path}")
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
            )
            self._connection.text_factory = bytes
            found = {row[1].decode() for row in self._rows(f'PRAGMA table_info("{table}")')}
        except sqlite3.Error as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        if not columns <= found:
            self.close()
            raise SourceError(f'{path} has no table "{table}" with the columns {", ".join(sorted(columns))}')
        self._keys: dict[str, bytes] = {}

    def _rows(self, query: str, key: bytes | None = None) -> list[tuple[bytes, ...]]:
        try:
            return self._connection.execute(query, () if key is None else (key,)).fetchall()
        except sqlite3.Error as error:
            raise SourceError(f"the source cannot be read: {error}") from error

    def _names(self, query: str) -> Sequence[str]:
        for (key,) in self._rows(query):
            self._keys[_text(key)] = key
        return tuple(self._keys)

    def _check_size(self, query: str, key: bytes) -> None:
        size = int(self._rows(query, key)[0][0])
        if size > MAX_DOCUMENT_BYTES:
            raise SourceError(f"{size} bytes are stored of it; at most {MAX_DOCUMENT_BYTES} are read")

    def close(self) -> None:
        """See `Source`."""
        self._connection.close()


class HocuspocusSqlite(_SqliteFile):
    """The file of @hocuspocus/extension-sqlite: a table `documents` with the whole state of each document as one update."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "documents", {"name", "data"})

    def names(self) -> Sequence[str]:
        """See `Source`."""
        return self._names("SELECT DISTINCT CAST(name AS BLOB) FROM documents ORDER BY 1")

    def read(self, name: str) -> Sequence[SourceUpdate]:
        """See `Source`."""
        key = self._keys[name]
        self._check_size("SELECT coalesce(sum(length(data)), 0) FROM documents WHERE name = CAST(? AS TEXT)", key)
        rows = self._rows("SELECT rowid, CAST(data AS BLOB) FROM documents WHERE name = CAST(? AS TEXT)", key)
        return _labelled("row", rows)


class PycrdtSqlite(_SqliteFile):
    """The file of pycrdt-store's SQLiteYStore, version 2: a table `yupdates` with one update a row, perhaps `ycheckpoints`.

    Everything is read, checkpoint and rows: squashing history and making checkpoints may each have lost what the other holds.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "yupdates", {"path", "yupdate", "timestamp"})
        version = self._rows("PRAGMA user_version")[0][0]
        if int(version) != _YSTORE_VERSION:
            self.close()
            raise SourceError(f"{path} has version {int(version)} of the store; known: {_YSTORE_VERSION}")
        tables = self._rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        self._has_checkpoints = (b"ycheckpoints",) in tables

    def names(self) -> Sequence[str]:
        """See `Source`."""
        names = self._names("SELECT DISTINCT CAST(path AS BLOB) FROM yupdates ORDER BY 1")
        if self._has_checkpoints:
            names = self._names("SELECT CAST(path AS BLOB) FROM ycheckpoints ORDER BY 1")
        return names

    def read(self, name: str) -> Sequence[SourceUpdate]:
        """See `Source`."""
        key = self._keys[name]
        self._rows("BEGIN")
        try:
            self._check_size("SELECT coalesce(sum(length(yupdate)), 0) FROM yupdates WHERE path = CAST(? AS TEXT)", key)
            checkpoints = []
            if self._has_checkpoints:
                checkpoints = self._rows(
                    "SELECT rowid, CAST(checkpoint AS BLOB) FROM ycheckpoints WHERE path = CAST(? AS TEXT)", key
                )
            rows = self._rows(
                "SELECT rowid, CAST(yupdate AS BLOB) FROM yupdates WHERE path = CAST(? AS TEXT)"
                " ORDER BY timestamp, rowid",
                key,
            )
            return [*_labelled("checkpoint", checkpoints), *_labelled("row", rows)]
        finally:
            self._rows("COMMIT")


class UpdateFolder:
    """A folder of update files. A file's name is the document's, percent-encoded, with or without `.update .yjs .bin`.

    Several files of one name (`a.1.update` is another name; `a.update` and `a.bin` are not) are updates of one document.
    Hidden files and folders inside are not read.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SourceError(f"there is no folder {path}")
        self._files: dict[str, list[Path]] = {}
        for file in sorted(path.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                stem = file.name.removesuffix(file.suffix) if file.suffix in _EXTENSIONS else file.name
                self._files.setdefault(_text(unquote_to_bytes(os.fsencode(stem))), []).append(file)

    def names(self) -> Sequence[str]:
        """See `Source`."""
        return tuple(self._files)

    def read(self, name: str) -> Sequence[SourceUpdate]:
        """See `Source`."""
        files = self._files[name]
        try:
            size = sum(file.stat().st_size for file in files)
            if size > MAX_DOCUMENT_BYTES:
                raise SourceError(f"{size} bytes are stored of it; at most {MAX_DOCUMENT_BYTES} are read")
            return [SourceUpdate(f"file {_text(os.fsencode(file.name))}", file.read_bytes()) for file in files]
        except OSError as error:
            raise SourceError(f"it cannot be read: {error}") from error

    def close(self) -> None:
        """See `Source`: nothing is held."""


def _labelled(word: str, rows: Sequence[tuple[bytes, ...]]) -> Sequence[SourceUpdate]:
    return [SourceUpdate(f"{word} {int(row[0])}", row[1] or b"") for row in rows]


def _text(name: bytes) -> str:
    """A name for people and files; bytes that are no UTF-8 are shown as escapes."""
    return name.decode(errors="backslashreplace")
